"""COCO's average precision of instance masks: IoU .50:.05:.95, 101 recall points, 100 detections an image.

hotcoco does the matching (many times faster than pycocotools); the means are pycocotools' own, to the last digit.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

import hotcoco
import numpy as np
import numpy.typing as npt

from pipeline.data import masks
from pipeline.data.errors import BadInput
from pipeline.data.records import Instance, Record

AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_AREAS = {"APs": 1, "APm": 2, "APl": 3}  # s < 32^2 <= m < 96^2 <= l; 0 is all


class RleDict(TypedDict):
    """COCO's mask: size is [height, width], counts compressed text."""

    size: list[int]
    counts: str


class Detection(TypedDict):
    """One line of a COCO results file."""

    image_id: int
    category_id: int
    segmentation: RleDict
    score: float


def detections(record: Record, instances: Iterable[Instance]) -> list[Detection]:
    """COCO results of one image's scored instances; those without class, mask or score, or dropped, are left out."""
    return [
        {
            "image_id": record.image_id,
            "category_id": i.class_id,
            "segmentation": {"size": list(i.rle.size), "counts": i.rle.counts},
            "score": i.score,
        }
        for i in instances
        if i.class_id is not None and i.rle is not None and i.score is not None and i.dropped is None
    ]


def coco_ap(truth: Path | Mapping[str, object], results: Iterable[Detection]) -> dict[str, float | None]:
    """AP, AP50, AP75, APs, APm, APl of results against a COCO file (or its content); each 0..1.

    None where there is no true instance to find (pycocotools says -1). BadInput names a result that cannot be used.
    """
    gt = hotcoco.COCO(str(truth) if isinstance(truth, Path) else dict(truth))
    images = gt.imgs
    checked: list[dict[str, object]] = [dict(_checked(r, index, images)) for index, r in enumerate(results)]
    evaluator = hotcoco.COCOeval(gt, gt.load_res(checked), "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    table = evaluator.eval or {}
    # precision [IoU threshold, recall point, class, area, detections]: the last are 1, 10, 100.
    precision = np.asarray(table["precision"], np.float64)[..., -1]
    cuts = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
    cuts |= {name: precision[..., area] for name, area in _AREAS.items()}
    return {name: _mean(cuts[name]) for name in AP_NAMES}


def _checked(result: Detection, index: int, images: Mapping[int, Mapping[str, object]]) -> Detection:
    """The result with a validated mask; BadInput otherwise."""
    where = f"results[{index}]"
    image = images.get(result["image_id"])
    if image is None:
        raise BadInput(f"{where}.image_id: expected the id of a true image, found {result['image_id']}")
    if not math.isfinite(result["score"]):
        raise BadInput(f"{where}.score: expected a finite number, found {result['score']}")
    height, width = image["height"], image["width"]
    if not isinstance(height, int) or not isinstance(width, int):
        raise BadInput(
            f"image {result['image_id']}: expected integer height and width, found {height} and {width}"
        )
    rle = masks.rle_from_coco(result["segmentation"], height, width, where=f"{where}.segmentation")
    mask: RleDict = {"size": list(rle.size), "counts": rle.counts}
    return {
        "image_id": result["image_id"],
        "category_id": result["category_id"],
        "segmentation": mask,
        "score": result["score"],
    }


def _mean(precision: npt.NDArray[np.float64]) -> float | None:
    """Mean of a cut of the precision table without its -1 entries (classes without a true instance)."""
    known = precision[precision > -1]
    return float(np.mean(known)) if known.size else None
