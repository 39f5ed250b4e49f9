"""Algorithm 1 of Das et al. 2024: which detector box, if any, takes the place of the box of a point's own SAM mask."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.data.assignment import assign
from pipeline.data.boxes import iou_xyxy, points_inside
from pipeline.data.errors import BadInput
from pipeline.data.records import Match, Prompt

MIN_SIDE = 1.0  # pixels; a thinner box holds no pixel

FloatArray = npt.NDArray[np.floating]


def refine(
    points: FloatArray,
    sam_boxes: FloatArray,
    *,
    classes: Sequence[int | None],
    proposals: Sequence[Prompt],
    alpha: float,
    beta: float,
    tau: float,
) -> tuple[Match, ...]:
    """For each point the detector box that takes the place of SAM's own: by a one-to-one assignment of least cost.

    `points` (P, 2) x, y and `sam_boxes` (P, 4) xyxy in pixels; a row of NaN stands for an empty SAM mask, its IoU is 0
    with everything. `classes`: one a point, None matches nothing. The cost of a pair is -IoU - beta * confidence, plus
    alpha if the classes differ or the point lies outside the box (edges count as inside); an invalid pair takes nothing
    (`proposal` None), so that the point keeps SAM's box. Proposals below `tau`,
    thinner than a pixel or without a box are left out, which equals the paper's infinite rows and is never infeasible.
    One proposal serves one point; equal confidences keep their order. Raises BadInput for a proposal without a score
    and ValueError for shapes that don't fit (Das et al. 2024, Alg. 1).
    """
    points, own = np.asarray(points, np.float64), np.asarray(sam_boxes, np.float64)
    if points.shape != (len(classes), 2) or own.shape != (len(classes), 4):
        raise ValueError(f"refine: {len(classes)} classes, points {points.shape}, boxes {own.shape}")
    matches = [Match(proposal=None, cost=None)] * len(own)
    keep = _usable(proposals, tau)
    if len(own) and keep:
        found = np.array([proposals[index].box_xyxy for index in keep], np.float64)
        sure = np.array([proposals[index].score for index in keep], np.float64)
        meant = [proposals[index].class_id for index in keep]
        invalid = ~points_inside(points, found) | ~_same_class(meant, classes)
        iou = _iou(found, own)
        cost = np.where(invalid, alpha, 0.0) - iou - beta * sure[:, None]
        for row, column in zip(*assign(cost), strict=True):
            matches[column] = Match(
                proposal=None if invalid[row, column] else keep[row],
                cost=float(cost[row, column]),
                iou=float(iou[row, column]),
            )
    return tuple(matches)


def _usable(proposals: Sequence[Prompt], tau: float) -> list[int]:
    """Indices of the proposals that take part, surest first."""
    usable: list[tuple[float, int]] = []
    for index, proposal in enumerate(proposals):
        if proposal.score is None:
            raise BadInput(f"proposal {index}: no score, expected a confidence in [0, 1]")
        if proposal.box_xyxy is None:
            continue
        x0, y0, x1, y1 = proposal.box_xyxy
        if proposal.score >= tau and x1 - x0 >= MIN_SIDE and y1 - y0 >= MIN_SIDE:
            usable.append((-proposal.score, index))
    return [index for _, index in sorted(usable)]


def _same_class(meant: Sequence[int | None], classes: Sequence[int | None]) -> npt.NDArray[np.bool_]:
    """(N, P) bool; None equals nothing, itself included."""
    return np.array([[a is not None and a == b for b in classes] for a in meant], bool)


def _iou(found: FloatArray, own: FloatArray) -> FloatArray:
    """IoU (N, P) in [0, 1]; 0 for a row of NaN in `own`."""
    there = np.isfinite(own).all(axis=1, keepdims=True)
    # iou_xyxy of a box of no area is 0, so an empty mask may stand as the empty box.
    return np.clip(iou_xyxy(found, np.where(there, own, 0.0)), 0.0, 1.0)
