"""Embed images once, then answer many prompts: fixed shapes, so an answer never depends on what shares its batch.

Images go through the encoder `embed_batch` at a time and prompts through the decoder `chunk` at a time; a short batch
is filled with spare rows whose results are thrown away, so shapes never change. Every row brings its own image's
features, so a chunk may hold prompts of several images (`share`). Trap: on a CPU with several threads the last bits of
a row depend on its place in a matrix product. Without `share`, an image's prompts take the same places whatever
its neighbours are, so its answers are the same to the bit on any machine; on a GPU sharing fills the chunks.
Legend: N prompts, C prompt width, g embedding grid, d text width; boxes and points in pixels of the original image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from segment_anything.modeling import MaskDecoder, Sam
from torch import Tensor

from pipeline.data.records import Prompt
from teachers.class_aware import ClassAwarePrompts, Points
from teachers.sam.decode import decode_masks
from teachers.sam.pixels import Frame, Window, to_input_pixels

Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Embeddings:
    """Image features (B, C, g, g) on the model's device, and the frame of each, which may show a part of an image."""

    features: Tensor
    frames: tuple[Frame, ...]

    def followed_by(self, more: "Embeddings") -> "Embeddings":
        """These, then the others: a copy of both."""
        return Embeddings(torch.cat([self.features, more.features]), self.frames + more.frames)


@dataclass(frozen=True)
class Head:
    """What may be tuned: a mask decoder and, if class-aware, the prompt encoder's branch."""

    decoder: MaskDecoder
    branch: ClassAwarePrompts | None = None


@dataclass(frozen=True)
class Ask:
    """One question: its image's place in the embeddings, the prompt, and a class vector (d,) if the head wants one.

    `mask`: low-res logits (4g, 4g) of an earlier answer over the same input square, a prompt too.
    """

    image: int
    prompt: Prompt
    text: Tensor | None = None
    mask: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Answer:
    """Low-res logits (4g, 4g) float32 over the padded input square, on the CPU, and SAM's own IoU estimate."""

    low_res_logits: npt.NDArray[np.float32]
    pred_iou: float


# Image (or None for any), number of points, box or not, mask or not: rows equal in this may stand in one chunk.
_Group = tuple[int | None, int, bool, bool]


class SamPredictor:
    """A frozen SAM on a device, and how work is cut (CPU: chunks of 1-4 are fastest; GPU: large, shared ones).

    With `encoder_bf16` the image encoder runs under autocast; features are float32 all the same.
    """

    def __init__(
        self,
        sam: Sam,
        *,
        chunk: int = 4,
        embed_batch: int = 1,
        share: bool = False,
        encoder_bf16: bool = False,
    ) -> None:
        self.sam = sam
        self.chunk = chunk
        self.embed_batch = embed_batch
        self.share = share
        self.encoder_bf16 = encoder_bf16
        with torch.no_grad():
            self._position = sam.prompt_encoder.get_dense_pe()

    @property
    def low_res(self) -> tuple[int, int]:
        """Rows and columns of the decoder's logits: four times the embedding grid."""
        height, width = self.sam.prompt_encoder.image_embedding_size
        return 4 * height, 4 * width

    def plain_head(self) -> Head:
        """The zero-shot SAM."""
        return Head(self.sam.mask_decoder)

    @torch.no_grad()
    def embed(self, images: Sequence[Rgb], windows: Sequence[Window | None] | None = None) -> Embeddings:
        """Features of images (H, W, 3) uint8 RGB of any sizes, or of a window of each, in the order given."""
        shown = list(zip(images, [None] * len(images) if windows is None else windows, strict=True))
        features = [self._position.new_zeros(0, *self._position.shape[1:])]
        frames: list[Frame] = []
        for start in range(0, len(shown), self.embed_batch):
            squares = [
                to_input_pixels(image, self.sam, window)
                for image, window in shown[start : start + self.embed_batch]
            ]
            filled = torch.zeros(self.embed_batch, *squares[0][0].shape)
            filled[: len(squares)] = torch.stack([pixels for pixels, _ in squares])
            features.append(self._encoded(filled)[: len(squares)])
            frames += [frame for _, frame in squares]
        return Embeddings(torch.cat(features), tuple(frames))

    def _encoded(self, pixels: Tensor) -> Tensor:
        with torch.autocast(self.sam.device.type, torch.bfloat16, enabled=self.encoder_bf16):
            features: Tensor = self.sam.image_encoder(pixels.to(self.sam.device))
        return features.float()

    @torch.no_grad()
    def decode(self, head: Head, embeddings: Embeddings, asks: Sequence[Ask]) -> Iterator[tuple[int, Answer]]:
        """(index into `asks`, answer) of every prompt, each once, in chunk order; nothing is kept between chunks.

        A part of an image is decoded one prompt at a time unless chunks are shared: it seldom has a second one.
        """
        groups: dict[_Group, list[int]] = {}
        for index, ask in enumerate(asks):
            image = None if self.share else ask.image
            group = image, len(ask.prompt.points), ask.prompt.box_xyxy is not None, ask.mask is not None
            groups.setdefault(group, []).append(index)
        for (image, *_), rows in groups.items():
            alone = image is not None and embeddings.frames[image].window is not None
            chunk = 1 if alone else self.chunk
            for start in range(0, len(rows), chunk):
                some = rows[start : start + chunk]
                filled = [asks[some[min(i, len(some) - 1)]] for i in range(chunk)]
                logits, pred_iou = self.forward(head, embeddings, filled)
                arrays = logits.float().cpu().numpy()
                for index, array, iou in zip(some, arrays, pred_iou.tolist(), strict=False):
                    yield index, Answer(array, iou)

    def forward(self, head: Head, embeddings: Embeddings, asks: Sequence[Ask]) -> tuple[Tensor, Tensor]:
        """Logits (N, 4g, 4g) and predicted IoU (N,) of prompts of one form in one batch; differentiable."""
        points, boxes = self._coordinates(embeddings, asks)
        encoder = self.sam.prompt_encoder
        sparse, _ = encoder(points=points, boxes=boxes, masks=None)
        dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        if (masks := _masks(asks)) is not None:
            dense = encoder.mask_downscaling(masks.to(self.sam.device))
        if head.branch is not None:
            sparse = head.branch(sparse, points, boxes, text=_texts(asks).to(self.sam.device))
        gathered = embeddings.features[[ask.image for ask in asks]]
        return decode_masks(head.decoder, gathered, self._position, sparse=sparse, dense=dense)

    def _coordinates(
        self, embeddings: Embeddings, asks: Sequence[Ask]
    ) -> tuple[Points | None, Tensor | None]:
        """Points ((N, P, 2), (N, P)) and boxes (N, 4) as the prompt encoder takes them, None if the form has none."""
        frames = [embeddings.frames[ask.image] for ask in asks]
        prompts = [ask.prompt for ask in asks]
        device = self.sam.device
        points, boxes = None, None
        if prompts[0].points:
            xy = [[(p.x, p.y) for p in prompt.points] for prompt in prompts]
            mapped = np.stack([frame.to_input(np.array(row)) for frame, row in zip(frames, xy, strict=True)])
            labels = torch.tensor([[p.label for p in prompt.points] for prompt in prompts])
            points = torch.from_numpy(mapped).to(device), labels.to(device)
        if prompts[0].box_xyxy is not None:
            corners = [np.array(prompt.box_xyxy).reshape(2, 2) for prompt in prompts]
            mapped = np.stack([frame.to_input(c).ravel() for frame, c in zip(frames, corners, strict=True)])
            boxes = torch.from_numpy(mapped).to(device)
        return points, boxes


def _masks(asks: Sequence[Ask]) -> Tensor | None:
    """Mask prompts (N, 1, 4g, 4g), None if the form has none."""
    given = [ask.mask for ask in asks if ask.mask is not None]
    return torch.from_numpy(np.stack(given))[:, None] if given else None


def _texts(asks: Sequence[Ask]) -> Tensor:
    """Class vectors (N, d); ValueError when a prompt has none."""
    vectors = [ask.text for ask in asks if ask.text is not None]
    if len(vectors) != len(asks):
        raise ValueError("a class-aware head needs a class vector for every prompt")
    return torch.stack(vectors)
