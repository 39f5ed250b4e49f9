"""How far a student trusts the masks it learns from: a weight for each, and borders of which nothing is said.

A pseudo-mask's trust is its expected IoU with the truth: the calibrated `quality` if there is one, else what SAM
predicts. Human masks, and those of which nothing is known, are trusted in full.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from pipeline.data.records import Instance, Source

BoolMask = npt.NDArray[np.bool_]
CERTAIN = 1.0
LEAST_TRUST = 0.05  # below it the estimate is no more than that: little
MARGIN = 2  # of a mask's box, in shares of its sides: no doubtful border reaches further


@dataclass(frozen=True)
class Doubt:
    """What trust changes: `weights` of the losses of a mask, and whether its doubtful `borders` are ignored."""

    weights: bool = False
    borders: bool = False


def trust_of(instance: Instance) -> float:
    """Expected IoU of an instance's mask with the truth, in [0.05, 1]."""
    if instance.source is Source.HUMAN:
        return CERTAIN
    known = instance.pred_iou if instance.quality is None else instance.quality
    return CERTAIN if known is None else max(known, LEAST_TRUST)


def doubtful_border(mask: BoolMask, trust: float) -> BoolMask:
    """The pixels (H, W) nearest to the border of a mask (H, W), so many as would be wrong if all errors lay there.

    With half of the errors inside and half outside, IoU t means e = 2 A (1 - t) / (1 + t) wrong pixels of a mask of
    area A. Pixels as far from the border as the first that is one too many stay out: the band never has more than e.
    """
    band = np.zeros_like(mask)
    half = int(mask.sum() * (1 - trust) / (1 + trust))
    if half == 0:
        return band
    part = _around(mask)
    inside = mask[part]
    for side in (inside, ~inside):
        if side.all():  # the mask fills the image: there is no border
            continue
        distances = distance_transform_edt(side)
        sorted_ = np.sort(distances[side])
        if len(sorted_) > half:
            band[part] |= side & (distances < sorted_[half])
        else:
            band[part] |= side
    return band


def _around(mask: BoolMask) -> tuple[slice, slice]:
    """The part of the image that holds the mask and its surroundings."""
    spans = []
    for axis, size in ((1, mask.shape[0]), (0, mask.shape[1])):
        seen = np.flatnonzero(mask.any(axis))
        low, high = int(seen[0]), int(seen[-1]) + 1
        margin = MARGIN * (high - low) + 1
        spans.append(slice(max(low - margin, 0), min(high + margin, size)))
    return spans[0], spans[1]
