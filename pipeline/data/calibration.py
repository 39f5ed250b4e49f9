"""From what a pseudo-mask shows of itself to the IoU that it can be expected to have: ridge regression, cross-fitted.

Legend: n masks, d features. A feature is standardised over the masks that have it, and no mask counts as further away
from the mean than any that was seen; one that a mask lacks counts as the mean, and a second column says that it is
lacking.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, field_validator

from pipeline.data import boxes, masks
from pipeline.data.records import Instance, Point

FOLDS = 5
RIDGE = 10.0  # weights shrink as if that many more masks had been found at the mean
LEAST_SPREAD = 0.05  # of a feature: rarer differences tell of a few masks alone
MOST_SPREADS = 3.0  # that a mask's feature counts as away from the mean: further out nothing was seen
LEAST_MASKS = 10  # to calibrate on

Floats = npt.NDArray[np.float64]
UNKNOWN = math.nan


def features(instance: Instance) -> dict[str, float]:
    """What is known of a pseudo-mask, by name; NaN for what is not. ValueError for an instance without a mask."""
    if instance.rle is None:
        raise ValueError("an instance to calibrate needs a mask")
    height, width = instance.rle.size
    pixels = masks.area(instance.rle)
    asked = instance.prompt
    return {
        "pred_iou": _known(instance.pred_iou),
        "stability": _known(instance.stability),
        "proposal": _known(None if asked is None else asked.score),
        "match": _known(None if instance.match is None else instance.match.iou),
        "box": UNKNOWN if asked is None else _box_fit(instance, asked.box_xyxy),
        "points": UNKNOWN if asked is None else _points_fit(instance, asked.points),
        "area": math.log(max(pixels, 1) / (height * width)),
    }


FEATURES = ("pred_iou", "stability", "proposal", "match", "box", "points", "area")


def _known(value: float | None) -> float:
    return UNKNOWN if value is None else value


def _box_fit(instance: Instance, box: tuple[float, float, float, float] | None) -> float:
    """IoU of the mask's own box with the one that was asked for."""
    tight = None if instance.rle is None else masks.tight_box(instance.rle)
    if box is None or tight is None:
        return UNKNOWN
    return float(boxes.iou_xyxy(np.array([box], np.float64), np.array([tight], np.float64))[0, 0])


def _points_fit(instance: Instance, points: Sequence[Point]) -> float:
    """Share of the points that the mask heeds: on it if their label is 1, off it if 0."""
    if instance.rle is None or not points:
        return UNKNOWN
    mask = masks.decode(instance.rle)
    height, width = mask.shape
    heeded = [
        bool(mask[min(int(p.y), height - 1), min(int(p.x), width - 1)]) == (p.label == 1) for p in points
    ]
    return sum(heeded) / len(heeded)


class Calibrator(BaseModel):
    """A fitted regression: per feature its mean, spread, weight, and the weight of its absence; `bias` the mean IoU."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[str, ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    weights: tuple[float, ...]
    absent: tuple[float, ...]
    bias: float

    @field_validator("names")
    @classmethod
    def _known_here(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if names != FEATURES:
            raise ValueError(f"expected the estimates {list(FEATURES)}, found {list(names)}; calibrate again")
        return names

    def quality(self, instance: Instance) -> float:
        """Expected IoU in [0, 1] of a pseudo-mask."""
        known = features(instance)
        row = np.array([[known[name] for name in self.names]])
        return float(self.predict(row)[0])

    def predict(self, known: Floats) -> Floats:
        """Expected IoU (n,) for features (n, d), NaN where unknown."""
        columns = _columns(known, np.array(self.means), np.array(self.spreads))
        expected: Floats = columns @ np.array([*self.weights, *self.absent]) + self.bias
        return expected.clip(0, 1)


def fit(known: Floats, iou: Floats) -> Calibrator:
    """The ridge regression of IoU (n,) on features (n, d), in the order of FEATURES, NaN where unknown.

    No estimate counts against a mask by being high: with few masks a weight of the wrong sign is chance.
    """
    from scipy.optimize import (
        lsq_linear,
    )  # imported late: it takes long, and every command looks at the stages

    there = ~np.isnan(known)
    counts = np.maximum(there.sum(0), 1)
    means = np.where(there, known, 0).sum(0) / counts
    spreads = np.sqrt(np.where(there, (known - means) ** 2, 0).sum(0) / counts)
    columns = _columns(known, means, spreads)
    bias = float(iou.mean())
    shift = columns.mean(0)
    centred = columns - shift
    half = len(FEATURES)
    lowest = np.full(2 * half, -np.inf)
    lowest[: half - 1] = 0.0  # all but the area say how well something went
    rows = np.concatenate([centred, np.sqrt(RIDGE) * np.eye(2 * half)])
    wanted = np.concatenate([iou - bias, np.zeros(2 * half)])
    weights = lsq_linear(rows, wanted, bounds=(lowest, np.inf), method="bvls").x
    return Calibrator(
        names=FEATURES,
        means=tuple(means.tolist()),
        spreads=tuple(spreads.tolist()),
        weights=tuple(weights[:half].tolist()),
        absent=tuple(weights[half:].tolist()),
        bias=bias - float(shift @ weights),
    )


def _columns(known: Floats, means: Floats, spreads: Floats) -> Floats:
    """Standardised features and flags of absence (n, 2 d)."""
    there = ~np.isnan(known)
    away = np.where(there, known - means, 0) / np.maximum(spreads, LEAST_SPREAD)
    return np.concatenate([away.clip(-MOST_SPREADS, MOST_SPREADS), (~there).astype(np.float64)], 1)


def cross_fitted(known: Floats, iou: Floats, image_ids: npt.NDArray[np.int64]) -> Floats:
    """Expected IoU (n,) of each mask by a regression that has seen no mask of its image.

    Images fall into FOLDS folds by a hash; ValueError unless there are two at least.
    """
    images = sorted(set(image_ids.tolist()), key=lambda i: hashlib.sha256(f"calibrate:{i}".encode()).digest())
    if len(images) < 2:
        raise ValueError(f"cross-fitting needs masks of two images, got {len(images)}")
    number = {image: rank % min(FOLDS, len(images)) for rank, image in enumerate(images)}
    fold = np.array([number[image] for image in image_ids.tolist()])
    said = np.empty(len(iou))
    for held_out in sorted(set(fold.tolist())):
        mine = fold == held_out
        said[mine] = fit(known[~mine], iou[~mine]).predict(known[mine])
    return said
