"""A stand-in for a detector, whose boxes and logits are its parameters, and images for it.

SAM is the small one of 64 px, its masks 32 x 32.
"""

from collections.abc import Sequence

import torch
from small_models import WIDTH, build_small_sam
from torch import Tensor, nn

from students.blo_objective import (
    AlignedSam,
    Images,
    Keeping,
    Weights,
)
from teachers.detector import Assignment, Raw, Targets
from teachers.sam.lora import LoRALinear

SIDE, LOW = 64, 32
KEEPING = Keeping(0.5, 0.9, 10)
ALL = Weights(0.3, 0.7, 0.3, 0.7)
LEFT, RIGHT = [4.0, 4.0, 28.0, 60.0], [36.0, 4.0, 60.0, 60.0]
Object = tuple[int, list[float], float]  # class, box and weight


class Told(nn.Module):
    """Boxes (B, A, 4) and logits (B, A, K); its losses are one of each location it is asked about."""

    side = SIDE

    def __init__(
        self, boxes: Sequence[Sequence[Sequence[float]]], logits: Sequence[Sequence[Sequence[float]]]
    ) -> None:
        super().__init__()
        self.boxes = nn.Parameter(torch.tensor(boxes, dtype=torch.float64))
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float64))

    def predict(self, pixels: Tensor) -> Raw:
        assert len(pixels) == len(self.boxes)
        count = self.boxes.shape[1]
        return Raw(self.boxes, self.logits, None, torch.zeros(count, 2), torch.ones(count), self.side)

    def assign(self, raw: Raw, _: Sequence[Targets]) -> Assignment:
        none = torch.zeros(0, dtype=torch.int64)
        return Assignment(none, none, none, torch.zeros(raw.boxes.shape[:2], dtype=torch.bool))

    def losses(self, raw: Raw, *_: object) -> dict[str, Tensor]:
        return {
            "box": raw.boxes.square().mean(),
            "obj": raw.boxes.mean() * 0 + 2.0,
            "cls": raw.class_logits.square().mean(),
        }


def aligned(rank: int = 2) -> AlignedSam:
    """In float64, its deltas no longer zero."""
    torch.manual_seed(3)
    sam = AlignedSam(build_small_sam(), rank=rank).double()
    for module in sam.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.up, std=0.1)
    return sam


def filled(*boxes: list[float]) -> Tensor:
    """Low-res masks of boxes."""
    masks = torch.zeros(len(boxes), LOW, LOW, dtype=torch.float64)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[int(y0 / 2) : int(y1 / 2), int(x0 / 2) : int(x1 / 2)] = 1
    return masks


def images(*objects: list[Object], extent: tuple[int, int] = (SIDE, SIDE)) -> Images:
    """An image each: class, box and weight of its objects, whose masks are the boxes; `extent`: width and height."""
    draw = torch.Generator().manual_seed(7)
    features = torch.randn(len(objects), WIDTH, 8, 8, generator=draw, dtype=torch.float64)
    targets = tuple(
        Targets(
            torch.tensor([box for _, box, _ in own], dtype=torch.float64).reshape(-1, 4),
            torch.tensor([label for label, _, _ in own], dtype=torch.int64),
            torch.tensor([weight for _, _, weight in own], dtype=torch.float64),
        )
        for own in objects
    )
    masks = tuple(filled(*(box for _, box, _ in own)) for own in objects)
    pixels, extents = torch.zeros(len(objects), 3, SIDE, SIDE), torch.tensor([extent] * len(objects))
    return Images(pixels, features, targets, masks, extents)


def agree(sam: AlignedSam, own: Images, image: int, index: int, box: list[float]) -> None:
    """Make an object's mask what SAM says to a box."""
    logits, _ = sam(own.features[[image]], torch.tensor([box], dtype=torch.float64))
    own.masks[image][index] = (logits[0] > 0).double()


def moved(box: list[float], by: float) -> list[float]:
    return [box[0], box[1] + by, box[2], box[3] + by]


NEAR, HALF, FAR = moved(LEFT, 4), moved(LEFT, 18), moved(LEFT, 30)  # IoU 0.87, 0.51, 0.3
