"""A detector's own training on boxes, as a phase: on parts of images, scaled and mirrored anew at every step.

What a student that aligns a detector with SAM begins with (Liao et al. 2026), and how AM-SAM's is tuned on few masks.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes

from pipeline.engine.team import Team
from teachers.bilevel import Level
from teachers.detector import DetectorNetwork, Targets
from teachers.phases import Phase, mean_loss
from teachers.pool import Loader, threads
from teachers.settings import DETECTOR_CLIP, DETECTOR_DECAY
from teachers.targets import Batch, collate

WARMUP = 50  # steps

Seen = tuple[Tensor, tuple[Targets, ...]]  # images (B, 3, S, S) and the objects of each


@dataclass(frozen=True)
class Shares:
    """Weights of a detector's three losses."""

    box: float
    obj: float
    cls: float


def detector_phase(
    detector: DetectorNetwork, loader: Loader, shares: Shares, *, epochs: int, lr: float, device: str
) -> Phase:
    """The detector alone, for `epochs` over the loader's images: AdamW, a warm-up and then a cosine down to nothing."""
    epoch = -(-len(loader.pool) // loader.batch)
    steps = epochs * epoch
    phi = tuple(detector.parameters())
    optimizer = torch.optim.AdamW(phi, lr=lr, weight_decay=DETECTOR_DECAY)
    level = Level(phi, optimizer, DETECTOR_CLIP, loader.team)

    def rate(step: int) -> float:
        warm = min((step + 1) / min(WARMUP, steps), 1.0)
        return warm * 0.5 * (1 + math.cos(math.pi * step / steps))

    def draw(first: int, last: int) -> Iterator[Seen]:
        for batch in loader.batches(first, last, threads=threads()):
            there = batch.to(device)
            yield square_pixels(there), detector_targets(there)

    return Phase(
        "detector", steps, [optimizer], draw, detecting(detector, level, shares, loader.team), rate, epoch
    )


def detecting(
    detector: DetectorNetwork, level: Level, shares: Shares, team: Team
) -> Callable[[Seen], tuple[float]]:
    """A step of the detector on its own losses; it returns their weighed sum, the mean of all processes."""

    def step(seen: Seen) -> tuple[float]:
        pixels, targets = seen
        raw = detector.predict(pixels)
        parts = detector.losses(raw, targets, detector.assign(raw, targets))
        loss = shares.box * parts["box"] + shares.obj * parts["obj"] + shares.cls * parts["cls"]
        level.apply(level.gradient(loss))
        return (mean_loss(loss, team),)

    return step


def detector_targets(batch: Batch) -> tuple[Targets, ...]:
    """The objects of each image by the tight boxes of their masks."""
    found, start = [], 0
    for row, count in enumerate(batch.counts):
        own = slice(start, start + count)
        start += count
        masks = batch.masks[own]
        corners = masks_to_boxes(masks) if count else torch.zeros(0, 4, device=masks.device)
        # Pixel i covers [i, i + 1): torchvision says which pixels are the last.
        boxes = corners + corners.new_tensor([0, 0, 1, 1])
        found.append(Targets(boxes, batch.classes[own], batch.weights[own], batch.ignore[row]))
    return tuple(found)


def square_pixels(batch: Batch) -> Tensor:
    """Images (B, 3, S, S) float in 0..255 as a detector takes them."""
    return batch.pixels.permute(0, 3, 1, 2).float()


def first_pixels(whole: Loader, count: int) -> Tensor:
    """The first images of a pool (count or fewer, 3, S, S), the same in each process of a team."""
    places = range(min(count, len(whole.pool)))
    return square_pixels(collate([whole.example(0, 0, whole.pool[place]) for place in places]))
