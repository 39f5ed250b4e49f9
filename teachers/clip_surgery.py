"""Where in an image a class is, by CLIP alone: the maps of CLIP Surgery (Li et al. 2023, arXiv 2304.05653).

Shapes: images (H, W, 3) uint8 RGB -> pixels (B, 3, h, w) -> features -> maps (B, K, rows, columns), one a name.
What the maps of the embedded tower are worth: python -m teachers.tiny.evaluate_surgery
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP, get_model_preprocess_cfg
from PIL import Image
from torch import Tensor

from pipeline.data.errors import BadInput
from teachers.clip_paths import SURGERY_BLOCKS, DualPath, Features
from teachers.text import TextEncoder, load_clip

SHARPNESS = 2.0  # of the weights among classes, in the authors' code
FLAT = 1e-6  # a map whose values differ by less says nothing: it is what rounding leaves
NOTHING = 0.5  # what such a map is filled with, neither here nor there


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes pixels: squeezed to a size, scaled to 0..1, less `mean`, over `std` (of each channel)."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Image.Resampling = Image.Resampling.BICUBIC

    @classmethod
    def of(cls, model: CLIP | CustomTextCLIP) -> "Preprocess":
        """What the model says of itself. BadInput if it says nothing.

        The trap: open_clip knows a model's numbers by the tag of its weights, and takes OpenAI's for weights of a
        file. They are wrong for some, of the listed ones `clip_vit_l_14`, which wants 0.5 everywhere.
        """
        config = get_model_preprocess_cfg(model)
        if not {"mean", "std"} <= config.keys():
            raise BadInput("CLIP Surgery: the model does not say how its pixels are normalised")
        bilinear = config.get("interpolation") == "bilinear"
        return cls(
            tuple(config["mean"]),
            tuple(config["std"]),
            Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC,
        )

    def __call__(self, image: npt.NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
        """(3, height, width) float32 of an image (H, W, 3), which is all seen. ValueError for another array."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"expected an image (H, W, 3) of uint8, got {image.shape} of {image.dtype}")
        resized = Image.fromarray(np.ascontiguousarray(image)).resize(size[::-1], self.resample)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
        return (pixels - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


class ClipSurgery:
    """Maps of class names by a CLIP and its own text vectors; the model stays as it is.

    `blocks`: how many of the last have two paths. `input_size`: the (height, width) or side that an image is brought
    to, of whole patches; without it the model's own. A larger one makes finer maps. Raises as `DualPath` and
    `Preprocess.of`, and ValueError for a size of broken patches.
    """

    def __init__(
        self,
        model: CLIP | CustomTextCLIP,
        texts: TextEncoder,
        *,
        blocks: int = SURGERY_BLOCKS,
        input_size: int | tuple[int, int] | None = None,
        preprocess: Preprocess | None = None,
    ) -> None:
        self._paths, self._texts = DualPath(model.visual, blocks=blocks), texts
        self._preprocess = preprocess or Preprocess.of(model)
        size = self._paths.own_size if input_size is None else input_size
        self._size = (size, size) if isinstance(size, int) else size
        self._paths.check_size(self._size)

    def features(self, images: Sequence[npt.NDArray[np.uint8]]) -> Features:
        """Of images (H, W, 3), each of any size. ValueError for no images."""
        if not images:
            raise ValueError("CLIP Surgery: no images")
        return self._paths(torch.stack([self._preprocess(image, self._size) for image in images]))

    def maps(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        names: Sequence[str],
        *,
        size: tuple[int, int] | None = None,
        apart: bool = False,
    ) -> npt.NDArray[np.float32]:
        """(B, K, height, width), each from 0 at its least patch to 1 at its greatest; without `size` a value a patch.

        One name is set against no name, several against each other, unless they are asked `apart`. Raises ValueError
        for no images or names, BadInput for a blank name.
        """
        text = torch.from_numpy(self._texts.encode(names)).to(self._paths.device)
        features = self.features(images)
        if apart or len(names) == 1:
            empty = torch.from_numpy(self._texts.nothing()).to(self._paths.device)
            scores = against_nothing(features, text, empty)
        else:
            scores = against_each_other(features, text)
        maps = spread(scores)
        if size is not None:
            maps = F.interpolate(maps, size, mode="bilinear", align_corners=False)
        return maps.cpu().numpy()


def against_nothing(features: Features, text: Tensor, empty: Tensor) -> Tensor:
    """(B, K, h, w): how much nearer a patch is to each text (K, d) than to that of no name, (d,)."""
    return (features.patches @ (text - empty).T).permute(0, 3, 1, 2)


def against_each_other(features: Features, text: Tensor) -> Tensor:
    """(B, K, h, w): how near a patch is to each text (K, d), weighted, less the mean of all texts.

    The weights, of mean 1, are larger for what the whole image shows. The paper's products of features are summed
    over d before the mean is taken, which is the same.
    """
    weights = (SHARPNESS * features.whole @ text.T).softmax(-1)
    weights = weights / weights.mean(-1, keepdim=True)
    scores = features.patches @ text.T * weights[:, None, None]
    return (scores - scores.mean(-1, keepdim=True)).permute(0, 3, 1, 2)


def spread(scores: Tensor) -> Tensor:
    """Each map of (B, K, h, w) from 0 to 1; 0.5 everywhere if it is flat, for nothing is known then."""
    least, greatest = scores.amin((-2, -1), keepdim=True), scores.amax((-2, -1), keepdim=True)
    span = greatest - least
    return torch.where(span > FLAT, (scores - least) / span.clamp(min=FLAT), NOTHING)


def load_surgery(
    name: str = "tiny",
    *,
    checkpoint: Path | None = None,
    sha256: str | None = None,
    device: str = "cpu",
    blocks: int = SURGERY_BLOCKS,
    input_size: int | tuple[int, int] | None = None,
    preprocess: Preprocess | None = None,
) -> ClipSurgery:
    """Of the embedded CLIP, or an open_clip model from its file. Raises as `load_clip` and `ClipSurgery`."""
    model, texts = load_clip(name, checkpoint=checkpoint, sha256=sha256, device=device)
    return ClipSurgery(model, texts, blocks=blocks, input_size=input_size, preprocess=preprocess)
