"""Boxes as arrays: float [N, 4], xyxy unless the name says otherwise, absolute pixels, pixel i covers [i, i+1)."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


def area(boxes: FloatArray) -> FloatArray:
    """Areas [N] of boxes [N, 4]; a reversed box has none."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def iou_xyxy(a: FloatArray, b: FloatArray) -> FloatArray:
    """IoU [N, M] of boxes [N, 4] and [M, 4]; 0 where both are empty."""
    corner = np.maximum(a[:, None, :2], b[None, :, :2])
    opposite = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(opposite - corner, 0)
    overlap = sides[..., 0] * sides[..., 1]
    whole = area(a)[:, None] + area(b)[None, :] - overlap
    result: FloatArray = np.divide(overlap, whole, out=np.zeros_like(overlap), where=whole > 0)
    return result


def cxcywh_to_xyxy(boxes: FloatArray) -> FloatArray:
    """Centre and size [N, 4] to corners [N, 4]."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def clip(boxes: FloatArray, height: int, width: int) -> FloatArray:
    """Boxes [N, 4] cut to the image [0, width] x [0, height]."""
    limit = np.array([width, height, width, height], boxes.dtype)
    return np.clip(boxes, 0, limit)


def points_inside(points: FloatArray, boxes: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether each of points [P, 2] (x, y) lies in each of boxes [N, 4], edges included; [N, P] bool."""
    low = points[None] >= boxes[:, None, :2]
    high = points[None] <= boxes[:, None, 2:]
    inside: npt.NDArray[np.bool_] = np.logical_and.reduce(low & high, axis=-1)
    return inside


def nms(boxes: FloatArray, scores: FloatArray, iou: float) -> npt.NDArray[np.int64]:
    """Indices of the boxes [N, 4] that greedy suppression keeps, best score [N] first.

    A box goes when its IoU with a kept one is above `iou`; equal scores keep the order given.
    """
    order = np.argsort(-scores, kind="stable")
    alive = np.ones(len(boxes), bool)
    keep: list[int] = []
    for index in order:
        if alive[index]:
            keep.append(int(index))
            alive &= iou_xyxy(boxes[index : index + 1], boxes)[0] <= iou
            alive[index] = False
    return np.array(keep, np.int64)
