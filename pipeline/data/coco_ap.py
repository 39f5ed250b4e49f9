"""COCO's average precision of instance masks: IoU .50:.05:.95, 101 recall points, 100 detections an image.

hotcoco does the matching (many times faster than pycocotools); the means are pycocotools' own, to the last digit.
"""

import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TypedDict

import hotcoco
import numpy as np
import numpy.typing as npt

from pipeline.data import masks
from pipeline.data.coco_fields import EntryError, as_object, integer
from pipeline.data.errors import BadInput, show
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


def coco_ap(
    truth: Path | Mapping[str, object], results: Iterable[object], *, left_out: Collection[int] = ()
) -> dict[str, float | None]:
    """AP, AP50, AP75, APs, APm, APl of results (`Detection`s) against a COCO file (or its content); each 0..1.

    The truth is trusted (our own writer's, or a test's). Results may be anybody's JSON; BadInput names one that cannot
    be used. Results on the images `left_out` count for nothing. None where there is no true instance to find
    (pycocotools says -1).
    """
    gt = hotcoco.COCO(str(truth) if isinstance(truth, Path) else dict(truth))
    images = gt.imgs
    checked: list[dict[str, object]] = []
    for index, result in enumerate(results):
        where = f"results[{index}]"
        try:
            raw = as_object(result)
            if integer(raw, "image_id", low=0) not in left_out:
                checked.append(dict(_checked(raw, images, where=where)))
        except EntryError as error:
            raise BadInput(f"{where}.{error}") from None
    evaluator = hotcoco.COCOeval(gt, gt.load_res(checked), "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    table = evaluator.eval or {}
    # precision [IoU threshold, recall point, class, area, detections]: the last are 1, 10, 100.
    precision = np.asarray(table["precision"], np.float64)[..., -1]
    cuts = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
    cuts |= {name: precision[..., area] for name, area in _AREAS.items()}
    return {name: _mean(cuts[name]) for name in AP_NAMES}


def _checked(raw: dict[str, object], images: Mapping[int, dict[str, object]], *, where: str) -> Detection:
    """The result with a validated mask; EntryError, or BadInput with `where` for a mask, otherwise."""
    image_id, category_id = integer(raw, "image_id", low=0), integer(raw, "category_id", low=0)
    if image_id not in images:
        raise EntryError("image_id", f"expected the id of a true image, found {image_id}")
    score = _finite(raw.get("score"))
    height, width = integer(images[image_id], "height", low=1), integer(images[image_id], "width", low=1)
    rle = masks.rle_from_coco(raw.get("segmentation"), height, width, where=f"{where}.segmentation")
    mask: RleDict = {"size": list(rle.size), "counts": rle.counts}
    return {"image_id": image_id, "category_id": category_id, "segmentation": mask, "score": score}


def _finite(value: object) -> float:
    """A score as a float; EntryError for anything but a finite number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)  # NaN, infinity and integers beyond every float fail the comparison
    raise EntryError("score", f"expected a finite number, found {show(value)}")


def _mean(precision: npt.NDArray[np.float64]) -> float | None:
    """Mean of a cut of the precision table without its -1 entries (classes without a true instance)."""
    known = precision[precision > -1]
    return float(np.mean(known)) if known.size else None
