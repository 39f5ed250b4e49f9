"""From a Mask2Former's last predictions to instances at the image's own size (official instance inference).

Q queries, K classes, S side of the canvas, H x W the image.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from pipeline.data.masks import area, encode, tight_box
from pipeline.data.records import RLE, Instance, Source
from teachers.window import Window

DETECTIONS = 100  # per image, as COCO counts them
_PIXELS = 2**26  # of float masks held at once


def to_instances(
    class_logits: Tensor, mask_logits: Tensor, *, window: Window, size: int, class_ids: Sequence[int]
) -> list[Instance]:
    """Instances of one image, best first, from (Q, K + 1) and (Q, h, w) logits seen through `window`.

    The best `DETECTIONS` pairs of query and class; score = class probability x mean probability within the mask. A pair
    with an empty mask gives none.
    """
    probabilities = class_logits.softmax(-1)[:, :-1]
    best = probabilities.flatten().sort(descending=True, stable=True).indices[:DETECTIONS]
    pairs = [divmod(int(index), probabilities.shape[1]) for index in best]
    queries = sorted({query for query, _ in pairs})
    masks = full_masks(mask_logits, queries, window=window, size=size)
    found: list[Instance] = []
    for query, column in pairs:
        if query in masks:
            rle, confidence = masks[query]
            found.append(
                Instance(
                    source=Source.STUDENT,
                    class_id=class_ids[column],
                    rle=rle,
                    box_xyxy=tight_box(rle),
                    score=min(float(probabilities[query, column]) * confidence, 1.0),
                )
            )
    return sorted(found, key=lambda instance: -(instance.score or 0.0))


def full_masks(
    mask_logits: Tensor, queries: Sequence[int], *, window: Window, size: int
) -> dict[int, tuple[RLE, float]]:
    """Mask and mean probability within it of each query whose mask is not empty, a few at a time.

    Of logits (Q, h, w) of the canvas, at the image's size; the asked queries alone.
    """
    height, width = window.source
    at_once = max(_PIXELS // max(height * width, size * size), 1)
    found: dict[int, tuple[RLE, float]] = {}
    for start in range(0, len(queries), at_once):
        chunk = list(queries[start : start + at_once])
        logits = F.interpolate(mask_logits[chunk][None], (size, size), mode="bilinear", align_corners=False)
        logits = logits[:, :, : window.height, : window.width]
        logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)[0]
        for query, values in zip(chunk, logits, strict=True):
            inside = values > 0
            rle = encode(inside.cpu().numpy())
            if area(rle):  # the sigmoid, the dear part, only where it counts
                found[query] = (rle, float(values[inside].sigmoid().mean()))
    return found
