"""What AM-SAM learns from: two halves of few images, and which share of each low-res pixel is of which class.

Legend: K classes, n = K + 1 with the background first, g grid of SAM's features; low-res maps are of 4g x 4g pixels.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.data.masks import area
from pipeline.data.records import Record, Role
from pipeline.engine.context import Records
from teachers.pool import Halves, Pool
from teachers.targets import canvas_labels, labels_of, low_res_masks
from teachers.window import sam_window

_SPLIT = 2  # stream of random numbers, beside the pool's two


@dataclass(frozen=True)
class Shots:
    """The human-masked records of a job's data; reserved ones, and those of other roles, are left alone."""

    data: Records

    def __iter__(self) -> Iterator[Record]:
        return (record for record in self.data if record.role is Role.HUMAN_MASKED)

    def __len__(self) -> int:
        return len(self.data)


def halves(classes: Sequence[frozenset[int]], seed: int) -> Halves:
    """A random split of at least two images, of which `classes` tells what is on each; D1 has the odd one.

    At least two images have a class. Theta cannot learn a class that it does not see: an image of D2 with a class that
    D1 lacks changes places with one of D1 whose classes are in D1 elsewhere, if there is such. D2 judges, so it has an
    image with a class.
    """
    order = np.random.default_rng([seed, _SPLIT]).permutation(len(classes)).tolist()
    count = (len(order) + 1) // 2
    lower, upper = order[:count], order[count:]
    for wanted in sorted(frozenset().union(*classes)):
        if any(wanted in classes[place] for place in lower):
            continue
        spare = next((place for place in reversed(lower) if _is_spare(place, lower, classes)), None)
        if spare is not None:
            found = next(place for place in upper if wanted in classes[place])
            lower[lower.index(spare)], upper[upper.index(found)] = found, spare
    if not any(classes[place] for place in upper):
        shown = [place for place in lower if classes[place]]
        spare = next((place for place in reversed(shown) if _is_spare(place, lower, classes)), shown[-1])
        lower[lower.index(spare)], upper[0] = upper[0], spare
    return Halves(tuple(sorted(lower)), tuple(sorted(upper)))


def _is_spare(place: int, half: Sequence[int], classes: Sequence[frozenset[int]]) -> bool:
    others = frozenset().union(*(classes[other] for other in half if other != place))
    return classes[place] <= others


def classes_of(pool: Pool, class_index: Mapping[int, int]) -> list[frozenset[int]]:
    """The indices of the classes with a pixel on each image; BadInput for a class that the ontology lacks."""
    return [
        frozenset(t.class_index for t in labels_of(pool[place], class_index).found if area(t.rle))
        for place in range(len(pool))
    ]


@dataclass(frozen=True)
class Truth:
    """`shares` (B, n, 4g, 4g): which share of what is known of a pixel is of which class; `known` (B, 4g, 4g) in 0..1.

    Nothing is known of the padding, nor of regions that a record leaves open.
    """

    shares: Tensor
    known: Tensor

    @classmethod
    def of(cls, several: Sequence["Truth"]) -> "Truth":
        """That of a batch."""
        return cls(torch.cat([one.shares for one in several]), torch.cat([one.known for one in several]))

    def to(self, device: str) -> "Truth":
        return Truth(self.shares.to(device), self.known.to(device))


def truth_of(record: Record, class_index: Mapping[int, int], *, side: int, low: int) -> Truth:
    """One image's, as SAM sees it in a square of `side` pixels and answers in one of `low`.

    Where masks overlap, the smaller one is on top.
    """
    window = sam_window((record.height, record.width), side)
    labels = canvas_labels(record, class_index, size=side, window=window)
    classes = np.zeros((side, side), np.int64)
    for row in np.argsort([-mask.sum() for mask in labels.masks], kind="stable"):
        classes[labels.masks[row]] = labels.classes[row] + 1
    known = np.zeros((side, side), np.bool_)
    known[: window.height, : window.width] = True
    known &= ~labels.ignore
    each = torch.from_numpy((classes == np.arange(len(class_index) + 1)[:, None, None]) & known)
    covered = low_res_masks(each, low)
    told = covered.sum(0)
    shares = covered / told.clamp(min=torch.finfo(covered.dtype).tiny)
    shares[0] += told == 0  # of what nothing is known: anything that sums to 1
    return Truth(shares[None], told[None])


def mean_dice(logits: Tensor, truth: Truth) -> list[float]:
    """Dice of each image (B,): the mean over the classes that are there or are found, the background apart.

    By the most likely class of each low-res pixel and the one that covers most of it, where at least half of the pixel
    is known; 1 where no class is there and none is found.
    """
    found, true = logits.argmax(1), truth.shares.argmax(1)
    out = []
    for own, real, known in zip(found, true, truth.known >= 0.5, strict=True):
        count = logits.shape[1]
        drawn, there = (torch.bincount(values[known], minlength=count)[1:] for values in (own, real))
        shared = torch.bincount(own[known & (own == real)], minlength=count)[1:]
        present = (drawn + there) > 0
        scores = 2 * shared[present] / (drawn + there)[present]
        out.append(float(scores.mean()) if len(scores) else 1.0)
    return out
