"""What a detector is to a training that goes through its boxes: raw predictions out, a loss from fixed assignments.

Legend: B images of S x S pixels, A locations of the detector, K classes, G true objects of an image. Boxes are xyxy in
pixels of the S x S frame, computed out of place, so that a loss on masks made from them reaches the detector. What is
chosen (assigned, kept) is chosen on detached values and comes as indices: the same choice can be asked again at other
parameters (Liao et al. 2026, sec. 3.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

LEAST_SIDE = 1.0  # pixels: a thinner box prompts nothing


@dataclass(frozen=True)
class Targets:
    """The objects of one image: `boxes` (G, 4), `labels` (G,) class indices, `weights` (G,) of their losses.

    `ignored` (S, S) bool: pixels of which nothing is known; None if there are none.
    """

    boxes: Tensor
    labels: Tensor
    weights: Tensor
    ignored: Tensor | None = None


@dataclass(frozen=True)
class Raw:
    """All that a detector says: boxes (B, A, 4), logits of classes (B, A, K) and of being an object (B, A).

    Said from `centres` (A, 2) of cells that are `strides` (A,) pixels wide, of images of `side` S pixels.
    `object_logits` is None of a detector whose classes alone say how sure it is.
    """

    boxes: Tensor
    class_logits: Tensor
    object_logits: Tensor | None
    centres: Tensor
    strides: Tensor
    side: int

    def scores(self) -> Tensor:
        """Confidence of each location and class, detached (B, A, K)."""
        classes = self.class_logits.detach().sigmoid()
        if self.object_logits is None:
            return classes
        return (classes * self.object_logits.detach().sigmoid()[..., None]).sqrt()


@dataclass(frozen=True)
class Assignment:
    """Which location learns which object: `image`, `location` and `target` (the index in its image), each (N,).

    `unsaid` (B, A) bool: locations that are told nothing, as an object is there that no location can learn.
    `quality` (N,) in 0..1: how much of an object a location should say it is; None for all of it.
    """

    image: Tensor
    location: Tensor
    target: Tensor
    unsaid: Tensor
    quality: Tensor | None = None


@dataclass(frozen=True)
class Kept:
    """The predictions that prompt: `image`, `location`, `label` and `score`, each (N,), best first in each image."""

    image: Tensor
    location: Tensor
    label: Tensor
    score: Tensor

    def boxes(self, raw: Raw) -> Tensor:
        """Theirs (N, 4) in any raw predictions, with gradients."""
        return raw.boxes[self.image, self.location]

    def shown(self, raw: Raw, extents: Tensor) -> Tensor:
        """What of their boxes lies in their images, of `extents` (B, 2); a side beyond one takes no gradient."""
        return within(self.boxes(raw), extents[self.image])


class Detector(Protocol):
    """A network with boxes; `torch.nn.Module` in all that concerns parameters and modes."""

    def predict(self, pixels: Tensor) -> Raw:
        """Of images (B, 3, S, S), float in 0..255."""
        ...

    def assign(self, raw: Raw, targets: Sequence[Targets]) -> Assignment:
        """Which locations learn which objects; no gradient goes through it."""
        ...

    def losses(self, raw: Raw, targets: Sequence[Targets], assignment: Assignment) -> dict[str, Tensor]:
        """Scalars `box`, `obj` and `cls`, without their weights; `obj` is 0 where `Raw` has no `object_logits`."""
        ...


class DetectorNetwork(nn.Module):
    """A `Detector` around the network `model`, of which `class_part` begins the names of weights that depend on K."""

    class_part: str

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def meet(self, pixels: Tensor) -> None:
        """See images (B, 3, S, S) before anything is learned from them; most need not."""

    def predict(self, pixels: Tensor) -> Raw:
        """As `Detector`."""
        raise NotImplementedError

    def assign(self, raw: Raw, targets: Sequence[Targets]) -> Assignment:
        """As `Detector`."""
        raise NotImplementedError

    def losses(self, raw: Raw, targets: Sequence[Targets], assignment: Assignment) -> dict[str, Tensor]:
        """As `Detector`."""
        raise NotImplementedError


def within(boxes: Tensor, extents: Tensor) -> Tensor:
    """What of boxes (..., 4) lies in images of `extents` (..., 2): width and height in pixels of the square."""
    return torch.minimum(boxes.clamp(min=0), torch.cat([extents, extents], -1).to(boxes))


def lost(raw: Raw, boxes: Tensor, learned: Tensor) -> Tensor:
    """The locations (A,) whose cells touch boxes (G, 4) of one image that are not among the indices `learned` (N,)."""
    free = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    free[learned] = False
    rest = boxes[free]
    apart = torch.maximum(rest[:, None, :2] - raw.centres, raw.centres - rest[:, None, 2:]).amax(-1)
    return (apart <= raw.strides / 2).any(0)


def ignored(raw: Raw, own: Targets) -> Tensor:
    """The locations (A,) whose centres lie where nothing is known."""
    x, y = raw.centres.long().unbind(1)
    return torch.zeros_like(raw.strides, dtype=torch.bool) if own.ignored is None else own.ignored[y, x]


def gathered(
    targets: Sequence[Targets], assignment: Assignment, *, like: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (N, 4), labels (N,) and weights (N,) of what the locations learn."""
    first = [0]
    for own in targets:
        first.append(first[-1] + len(own.boxes))
    place = torch.tensor(first, device=like.device)[assignment.image] + assignment.target
    boxes = torch.cat([own.boxes for own in targets]).to(like)
    labels = torch.cat([own.labels for own in targets]).to(like.device)
    weights = torch.cat([own.weights for own in targets]).to(like)
    return boxes[place], labels[place], weights[place]


@torch.no_grad()
def keep(raw: Raw, *, confidence: float, overlap: float, most: int, extents: Tensor | None = None) -> Kept:
    """Each location's best class above a confidence, without those that overlap a better one of the class.

    `extents` (B, 2): the width and height that each image has of the square, whose rest is padding; None for all of it.
    Boxes of which less than a pixel's width or height lies in the image are left out; at most `most` an image.
    """
    scores, labels = raw.scores().max(-1)
    limits = raw.boxes.new_tensor([[raw.side, raw.side]]) if extents is None else extents
    seen = within(raw.boxes.detach(), limits[:, None])
    sides = seen[..., 2:] - seen[..., :2]
    possible = (scores > confidence) & (sides >= LEAST_SIDE).all(-1)
    parts = []
    for image, found in enumerate(row.nonzero()[:, 0] for row in possible):
        # Clipped: batched_nms tells classes apart by moving boxes, and expects no coordinate below 0.
        boxes, own = seen[image, found].float(), labels[image, found]
        chosen = found[batched_nms(boxes, scores[image, found].float(), own, overlap)[:most]]
        parts.append((torch.full_like(chosen, image), chosen, labels[image, chosen], scores[image, chosen]))
    return Kept(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
