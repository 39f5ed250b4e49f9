"""From one prompt's low-res logits to a mask at the original size, with SAM's two quality estimates."""

from dataclasses import dataclass

import numpy as np

from pipeline.data.masks import encode_crop
from pipeline.data.records import RLE, Box
from teachers.sam.predictor import Answer
from teachers.sam.upsample import Crop, Upsampler

MASK_THRESHOLD = 0.0  # segment-anything
STABILITY_OFFSET = 1.0  # segment-anything


@dataclass(frozen=True)
class PredictedMask:
    """`rle` at the original size and its tight `box`, both None when no pixel is positive.

    `pred_iou` in [0, 1] is SAM's estimate, clipped; `stability` in [0, 1] is the IoU of the masks at threshold + offset
    and - offset, 0 when the lower one is empty too.
    """

    rle: RLE | None
    box: Box | None
    pred_iou: float
    stability: float


def to_mask(
    answer: Answer,
    upsampler: Upsampler,
    *,
    threshold: float = MASK_THRESHOLD,
    offset: float = STABILITY_OFFSET,
) -> PredictedMask:
    """Upsample, threshold and encode; only the part of the image that reaches threshold - offset is computed."""
    pred_iou = min(max(answer.pred_iou, 0.0), 1.0)
    crop = upsampler.above(answer.low_res_logits, threshold - offset)
    if crop is None:
        return PredictedMask(None, None, pred_iou, 0.0)
    low = np.count_nonzero(crop.logits > threshold - offset)
    high = np.count_nonzero(crop.logits > threshold + offset)
    rle, box = _encode(crop, upsampler.size, threshold)
    return PredictedMask(rle, box, pred_iou, high / low if low else 0.0)


def _encode(crop: Crop, size: tuple[int, int], threshold: float) -> tuple[RLE | None, Box | None]:
    mask = crop.logits > threshold
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None, None
    top, bottom, left, right = (int(v) for v in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    tight = mask[top:bottom, left:right]
    y, x = crop.top + top, crop.left + left
    box = (float(x), float(y), float(crop.left + right), float(crop.top + bottom))
    return encode_crop(tight, size, top=y, left=x), box
