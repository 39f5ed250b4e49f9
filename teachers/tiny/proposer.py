"""The tiny grounder as a proposer: any image size in, boxes of named classes out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms

from pipeline.data.errors import BadInput
from pipeline.data.records import Ontology, Origin, Prompt
from teachers.grounding_names import Vocabulary
from teachers.protocols import Sample
from teachers.text import TextEncoder, load_text
from teachers.tiny.grounder import IMAGE_SIZE, TinyGrounder
from teachers.tiny.listing import GROUNDED, GROUNDER
from teachers.tiny.pyramid import normalise_pixels
from teachers.tiny.weights import load_weights
from teachers.weak_prompts import is_located

CANDIDATES = 300  # (location, name) pairs that reach the network's own suppression
MOST = 100  # boxes an image, as COCO counts them
OVERLAP = 0.6  # IoU above which the weaker of two boxes of one name goes
PADDING = 115  # grey: about zero after normalisation


@dataclass(frozen=True)
class Detections:
    """Boxes xyxy in pixels of the image (n, 4), scores (n) in 0..1, best first, and the index of each one's name."""

    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    names: npt.NDArray[np.int64]


def letterbox(image: npt.NDArray[np.uint8]) -> tuple[Tensor, float, float]:
    """The image (H, W, 3) at the upper left of a grey square, uint8 (1, 3, 256, 256), and the x and y scale used."""
    height, width = image.shape[:2]
    ratio = IMAGE_SIZE / max(height, width)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    canvas = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), PADDING, np.uint8)
    canvas[: size[1], : size[0]] = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    return torch.from_numpy(canvas).permute(2, 0, 1)[None], size[0] / width, size[1] / height


@torch.inference_mode()
def detect(model: TinyGrounder, image: npt.NDArray[np.uint8], names: Tensor) -> Detections:
    """Boxes of the names (K, 64) in an upright RGB image of any size.

    Suppression per name is part of the detector: without it each object is found by all locations around it.
    """
    pixels, across, down = letterbox(image)
    device = model.bias.device
    found = model(normalise_pixels(pixels.to(device)), names[None].to(device))
    height, width = image.shape[:2]
    scale = torch.tensor([across, down, across, down], device=device)
    limit = torch.tensor([width, height, width, height], device=device)
    boxes = torch.minimum((found.boxes[0] / scale).clamp(min=0), limit)
    scores, order = found.logits[0].sigmoid().flatten().sort(descending=True, stable=True)
    order = order[:CANDIDATES]
    place, name = order // len(names), order % len(names)
    keep = batched_nms(boxes[place], scores[:CANDIDATES], name, OVERLAP)[:MOST]
    return Detections(
        boxes[place[keep]].double().cpu().numpy(),
        scores[keep].double().cpu().numpy(),
        name[keep].cpu().numpy(),
    )


class TinyProposer:
    """`Proposer` over the tiny grounder; images go through one by one, so that none depends on its neighbours."""

    def __init__(self, model: TinyGrounder, *, encoder: TextEncoder, ontology: Ontology) -> None:
        self._model = model.requires_grad_(False).eval()
        self._encoder = encoder
        self._vocabulary = Vocabulary(ontology)

    def propose(self, batch: Sequence[Sample], names: Sequence[Sequence[int]]) -> list[list[Prompt]]:
        """At most 100 box prompts a sample, best first (`Proposer.propose`).

        BadInput for a name it was not trained on, unless a label says already where such things are.
        """
        return [self._one(sample, asked) for sample, asked in zip(batch, names, strict=True)]

    def _one(self, sample: Sample, asked: Sequence[int]) -> list[Prompt]:
        phrases = self._vocabulary.phrases(asked, sample.record.tags)
        located = {instance.class_id for instance in sample.record.instances if is_located(instance)}
        if lost := [p.text for p in phrases if p.text not in GROUNDED and p.class_id not in located]:
            raise BadInput(
                f"image {sample.record.image_id} ({sample.record.uri}): {', '.join(map(repr, lost[:3]))} should be "
                "found in it, but the embedded proposer knows the names of toyworld only; use grounding_dino, or label "
                "points or boxes"
            )
        if not phrases:
            return []
        vectors = torch.from_numpy(self._encoder.encode([phrase.text for phrase in phrases]))
        found = detect(self._model, sample.image, vectors)
        return [
            Prompt(
                Origin.DINO,
                (float(box[0]), float(box[1]), float(box[2]), float(box[3])),
                class_id=phrases[name].class_id,
                score=float(score),
            )
            for box, score, name in zip(found.boxes, found.scores, found.names, strict=True)
        ]


def load_tiny_grounder(*, ontology: Ontology, device: str = "cpu") -> TinyProposer:
    """The embedded proposer with its text tower. Raises BadInput if their weights are missing or damaged."""
    model = TinyGrounder()
    model.load_state_dict(load_weights(GROUNDER))
    return TinyProposer(model.to(device), encoder=load_text("tiny", device=device), ontology=ontology)
