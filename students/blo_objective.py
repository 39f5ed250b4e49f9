"""The one objective of BLO-Inst's two levels: a detector's losses, and that of the masks which SAM makes of its boxes.

    L = l_box CIoU + l_obj L_obj + l_cls L_cls + l_seg L_seg        (Liao et al. 2026, eq. 1)

on the images of either half. Only L_seg depends on SAM; on the detector all four do, L_seg through the coordinates
of the boxes that are kept. What is chosen (assignments, kept boxes, the object that a box is matched with) is chosen
once a step and stays fixed while the step asks for the loss at other parameters.

Legend: B images of S x S pixels, C x g x g their embeddings, N kept boxes, low-res masks of 4g x 4g.
"""

import math
from copy import deepcopy
from dataclasses import dataclass

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import box_iou

from students.blo_settings import Match, Part
from teachers.box_losses import cropped_mask_loss, holds_pixels
from teachers.detector import Assignment, Detector, Kept, Raw, Targets, keep
from teachers.sam import lora
from teachers.sam.decode import decode_masks

MATCHED = 0.5  # IoU from which a kept box is of an object
NOBODY = -1
UNKNOWN = math.log(2)  # the loss of a mask that knows nothing
AT_ONCE = 32  # boxes that SAM's decoder is asked together: what bounds the memory
# Of what the published code trains, what L_seg does not come from: the estimate of IoU, and the other masks' networks.
UNASKED = ("iou_prediction_head", *(f"output_hypernetworks_mlps.{mask}" for mask in (1, 2, 3)))


@dataclass(frozen=True)
class Weights:
    """Of the four losses."""

    box: float
    obj: float
    cls: float
    seg: float


@dataclass(frozen=True)
class Keeping:
    """Which boxes prompt SAM: `confidence` and `overlap` of the suppression, at most `most` an image."""

    confidence: float
    overlap: float
    most: int


@dataclass(frozen=True)
class Images:
    """Some of a half: pixels (B, 3, S, S) in 0..255, features (B, C, g, g), objects and masks (G, 4g, 4g) of each.

    A mask says which share of each pixel its object covers. `extents` (B, 2): the width and height that each image has
    of the square; the rest is padding, and SAM is asked of no box there.
    """

    pixels: Tensor
    features: Tensor
    targets: tuple[Targets, ...]
    masks: tuple[Tensor, ...]
    extents: Tensor


@dataclass(frozen=True)
class Choice:
    """What stays fixed within a step: `weights` (N,) of the kept boxes' losses, 0 where a box has nothing to learn.

    `target` (N,): the index of a box's object in its image, `NOBODY` without one. `boxes` (N, 4): what of them lay in
    their images as they were chosen. `match`: what a box's true mask is. `surest`: the highest score of all locations,
    kept or not.
    """

    assignment: Assignment
    kept: Kept
    weights: Tensor
    target: Tensor
    boxes: Tensor
    match: Match
    surest: float

    def truth(self, images: Images, rows: Tensor) -> Tensor:
        """The true masks (n, 4g, 4g) of some of the boxes, by their indices (n,)."""
        return torch.stack([self._truth(images, row) for row in rows.tolist()])

    def _truth(self, images: Images, row: int) -> Tensor:
        image = int(self.kept.image[row])
        masks = images.masks[image]
        if self.match == "instance":
            return masks[int(self.target[row])]
        same = images.targets[image].labels == self.kept.label[row]
        return masks[same].sum(0).clamp(max=1)


class AlignedSam(nn.Module):
    """SAM's answer to boxes with what BLO-Inst trains of it: the decoder's deltas and small parts, `no_mask_embed`.

    `part` trains what the prompt encoder adds to the corners of boxes instead, and `no_mask_embed`, or all of this.
    Pretrained mask tokens and the hypernetwork of the single mask are kept; the rest is a frozen copy of `sam`'s. What
    L_seg does not come from (`UNASKED`) is not trained, though the published code lists it: it would never move.
    """

    position: Tensor

    def __init__(self, sam: Sam, *, rank: int, part: Part = "decoder") -> None:
        super().__init__()
        self.prompt_encoder = deepcopy(sam.prompt_encoder).requires_grad_(False)
        self.prompt_encoder.no_mask_embed.requires_grad_(True)
        if part != "decoder":
            for corner in lora.CORNERS:
                self.prompt_encoder.point_embeddings[corner].requires_grad_(True)
        self.decoder = deepcopy(sam.mask_decoder).requires_grad_(False)
        if part != "prompt_encoder":
            lora.adapt(self.decoder, rank)
            for name in UNASKED:
                self.decoder.get_submodule(name).requires_grad_(False)
        self.side = int(sam.image_encoder.img_size)
        with torch.no_grad():
            self.register_buffer("position", sam.prompt_encoder.get_dense_pe(), persistent=False)

    def trained(self) -> dict[str, nn.Parameter]:
        """The lower level's parameters by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def forward(self, features: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, 4g, 4g) and estimated IoU (N,) for boxes (N, 4) within their images, an embedding each.

        In pixels of the square.
        """
        encoder = self.prompt_encoder
        # Not encoder(boxes=...): that casts to float32, and takes pixel indices, to which it adds half a pixel.
        corners = encoder.pe_layer._pe_encoding(boxes.reshape(-1, 2, 2) / self.side)
        kinds = torch.cat([encoder.point_embeddings[corner].weight for corner in lora.CORNERS])
        dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        return decode_masks(self.decoder, features, self.position, sparse=corners + kinds, dense=dense)


@torch.no_grad()
def choose(detector: Detector, images: Images, keeping: Keeping, *, match: Match = "instance") -> Choice:
    """The choices of a step at the parameters as they are now.

    `instance`: a box's object is the one of its class that it overlaps most, from IoU 0.5; boxes without one teach no
    masks. `class_union`, as published: the target of a box is the union of all masks of its class, cropped to it,
    whatever they are trusted. What of a box lies in its image counts, and SAM is asked of no more; one so thin that it
    holds no pixel of a mask finds and teaches nothing.
    """
    raw = detector.predict(images.pixels)
    kept = keep(
        raw,
        confidence=keeping.confidence,
        overlap=keeping.overlap,
        most=keeping.most,
        extents=images.extents,
    )
    boxes = kept.shown(raw, images.extents)
    side = 4 * images.features.shape[-1]
    judged = holds_pixels(boxes * (side / raw.side), side)
    weights = images.features.new_zeros(len(boxes))
    target = torch.full((len(boxes),), NOBODY, device=boxes.device)
    for row, (image, label) in enumerate(zip(kept.image.tolist(), kept.label.tolist(), strict=True)):
        if not judged[row]:
            continue
        own = images.targets[image]
        same = (own.labels == label).nonzero()[:, 0]
        best = _best(boxes[row], own.boxes[same])
        if best is not None:
            target[row] = same[best]
            weights[row] = own.weights[same[best]]
        if match == "class_union":
            weights[row] = 1.0
    surest = float(raw.scores().max())
    return Choice(detector.assign(raw, images.targets), kept, weights, target, boxes, match, surest)


def _best(box: Tensor, others: Tensor) -> int | None:
    """Which of the boxes (G, 4) a box (4,) overlaps most; None if none by half."""
    if not len(others):
        return None
    overlap, best = box_iou(box[None].float(), others.float())[0].max(0)
    return int(best) if overlap >= MATCHED else None


def losses(
    detector: Detector, sam: AlignedSam, images: Images, choice: Choice, weights: Weights
) -> dict[str, Tensor]:
    """The four weighted parts; `seg` is a zero without a gradient where no kept box has an object."""
    raw = detector.predict(images.pixels)
    parts = detector.losses(raw, images.targets, choice.assignment)
    seg = boxes_loss(sam, images, choice, raw)
    return {
        "box": weights.box * parts["box"],
        "obj": weights.obj * parts["obj"],
        "cls": weights.cls * parts["cls"],
        "seg": weights.seg * seg,
    }


def boxes_loss(sam: AlignedSam, images: Images, choice: Choice, raw: Raw) -> Tensor:
    """L_seg, without its weight, of the kept boxes as a detector says them: with gradients of SAM and of its own."""
    return mask_loss(sam, images, choice, choice.kept.shown(raw, images.extents))


def mask_loss(sam: AlignedSam, images: Images, choice: Choice, boxes: Tensor) -> Tensor:
    """L_seg of the kept boxes (N, 4), without its weight; a zero without a gradient where none has an object."""
    rows = (choice.weights > 0).nonzero()[:, 0]
    if not len(rows):
        return images.features.new_zeros(())

    def each(some: Tensor) -> Tensor:
        logits, _ = sam(images.features[choice.kept.image[some]], boxes[some])
        scale = logits.shape[-1] / sam.side
        return cropped_mask_loss(logits, choice.truth(images, some), boxes[some] * scale)

    if len(rows) <= AT_ONCE:
        found = each(rows)
    else:  # what the decoder keeps of a box for its gradient is some 90 MB at 1024 pixels: it is computed again instead
        parts = [checkpoint(each, some, use_reentrant=False) for some in torch.split(rows, AT_ONCE)]
        found = torch.cat(parts)
    return (found * choice.weights[rows]).mean()


@torch.no_grad()
def missed(sam: AlignedSam, images: Images, choice: Choice) -> tuple[float, float, float]:
    """What the pair is worth: the sum over all objects of the loss of their best box's mask; how many a box found; all.

    An object that no box found has the loss of a mask that knows nothing, ln 2. So a pair is not better for finding
    less, as it would be by L_seg, which is of the found ones alone. Boxes where no object is do not count. In each sum
    an object counts as much as it is trusted, as it does in what is learned.
    """
    lost: dict[tuple[int, int], float] = {
        (image, index): UNKNOWN for image, own in enumerate(images.targets) for index in range(len(own.boxes))
    }
    rows = (choice.target >= 0).nonzero()[:, 0]
    boxes = choice.boxes[rows]
    for start in range(0, len(rows), AT_ONCE):
        some, chosen = rows[start : start + AT_ONCE], boxes[start : start + AT_ONCE]
        image, target = choice.kept.image[some], choice.target[some]
        logits, _ = sam(images.features[image], chosen)
        truth = torch.stack(
            [images.masks[i][t] for i, t in zip(image.tolist(), target.tolist(), strict=True)]
        )
        each = cropped_mask_loss(logits, truth, chosen * (logits.shape[-1] / sam.side))
        for key, loss in zip(zip(image.tolist(), target.tolist(), strict=True), each.tolist(), strict=True):
            lost[key] = min(lost[key], loss)
    found = set(zip(choice.kept.image[rows].tolist(), choice.target[rows].tolist(), strict=True))
    trust = {(image, index): float(images.targets[image].weights[index]) for image, index in lost}
    return (
        sum(trust[key] * loss for key, loss in lost.items()),
        sum(trust[key] for key in found),
        sum(trust.values()),
    )


def total(parts: dict[str, Tensor]) -> Tensor:
    """L of eq. 1."""
    return torch.stack(list(parts.values())).sum()
