"""COCO's average precision and recall of instance masks: IoU .50:.05:.95, 101 recall points, 100 detections an image.

hotcoco does the matching (many times faster than pycocotools); the means are pycocotools' own, to the last digit.
"""

import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypedDict, cast

import hotcoco
import numpy as np
import numpy.typing as npt

from pipeline.data import masks
from pipeline.data.coco_fields import MAX_ID, EntryError, as_object, integer
from pipeline.data.errors import BadInput, show
from pipeline.data.records import Instance, Record
from pipeline.data.rle_text import all_canonical

AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
AR_NAMES = ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
_AREAS = {"s": 1, "m": 2, "l": 3}  # s < 32^2 <= m < 96^2 <= l; 0 is all
_AT_ONCE = 256  # results that are checked together

Images = Mapping[int, dict[str, object]]


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
    """The first six of `coco_scores`."""
    scores = coco_scores(truth, results, left_out=left_out)
    return {name: scores[name] for name in AP_NAMES}


def coco_scores(
    truth: Path | Mapping[str, object], results: Iterable[object], *, left_out: Collection[int] = ()
) -> dict[str, float | None]:
    """COCO's twelve numbers of results (`Detection`s) against a COCO file (or its content); each 0..1.

    The truth is trusted (our own writer's, or a test's). Results may be anybody's JSON; BadInput names one that cannot
    be used. Results on the images `left_out` count for nothing. None where there is no true instance to find
    (pycocotools says -1).
    """
    gt = hotcoco.COCO(str(truth) if isinstance(truth, Path) else dict(truth))
    checked = _checked_all(results, gt.imgs, left_out)
    evaluator = hotcoco.COCOeval(gt, gt.load_res(cast(list[dict[str, Any]], checked)), "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    table = evaluator.eval or {}
    # precision [IoU threshold, recall point, class, area, detections], recall without the points; of detections, the
    # most an image has counted are 1, 10, 100.
    precision = np.asarray(table["precision"], np.float64)[..., -1]
    recall = np.asarray(table["recall"], np.float64)
    cuts = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
    cuts |= {f"AP{name}": precision[..., area] for name, area in _AREAS.items()}
    cuts |= {f"AR{most}": recall[:, :, 0, rank] for rank, most in enumerate((1, 10, 100))}
    cuts |= {f"AR{name}": recall[:, :, area, -1] for name, area in _AREAS.items()}
    return {name: _mean(cuts[name]) for name in (*AP_NAMES, *AR_NAMES)}


def _checked_all(results: Iterable[object], images: Images, left_out: Collection[int]) -> list[Detection]:
    """The results with validated masks, less those on images `left_out`; BadInput names the first bad one."""
    sizes = {n: [image.get("height"), image.get("width")] for n, image in images.items() if n not in left_out}
    checked: list[Detection] = []
    todo, done = iter(results), 0
    while batch := list(islice(todo, _AT_ONCE)):
        quick = _as_they_are(batch, sizes)
        checked += _one_by_one(batch, done, images, left_out) if quick is None else quick
        done += len(batch)
    return checked


def _as_they_are(batch: Sequence[object], sizes: Mapping[int, list[object]]) -> list[Detection] | None:
    """The results of a batch if each is one that we could have written; None if one needs a closer look."""
    rows: Sequence[Any] = batch  # whatever they are, what does not fit raises
    try:
        images, classes, scores = ([row[key] for row in rows] for key in ("image_id", "category_id", "score"))
        shapes, counts = ([row["segmentation"][key] for row in rows] for key in ("size", "counts"))
        own = [sizes[number] for number in images]
    except (TypeError, KeyError, IndexError):
        return None
    plain = all(
        set(map(type, column)) == {kind}
        for column, kind in ((images, int), (classes, int), (scores, float), (counts, str))
    )
    if not plain or min(classes) < 0 or max(classes) > MAX_ID or not all(map(math.isfinite, scores)):
        return None
    if shapes != own or set(map(type, chain.from_iterable(shapes))) != {int}:
        return None
    if not all_canonical(counts, [height * width for height, width in shapes]):
        return None
    return [row if len(row) == 4 and len(row["segmentation"]) == 2 else _bare(row) for row in rows]


def _bare(row: Detection) -> Detection:
    """Without what else it holds, of which scorers would take some for theirs."""
    mask = row["segmentation"]
    return {
        "image_id": row["image_id"],
        "category_id": row["category_id"],
        "segmentation": {"size": mask["size"], "counts": mask["counts"]},
        "score": row["score"],
    }


def _one_by_one(
    batch: Sequence[object], start: int, images: Images, left_out: Collection[int]
) -> Iterator[Detection]:
    for index, result in enumerate(batch, start):
        where = f"results[{index}]"
        try:
            raw = as_object(result)
            if integer(raw, "image_id", low=0) not in left_out:
                yield _checked(raw, images, where=where)
        except EntryError as error:
            raise BadInput(f"{where}.{error}") from None


def _checked(raw: dict[str, object], images: Images, *, where: str) -> Detection:
    """The result with a validated mask; EntryError, or BadInput with `where` for a mask, otherwise."""
    image_id, category_id = integer(raw, "image_id", low=0), integer(raw, "category_id", low=0)
    if image_id not in images:
        raise EntryError("image_id", f"expected the id of a true image, found {image_id}")
    score = _finite(raw.get("score"))
    if "segmentation" not in raw and "bbox" in raw:
        raise EntryError("segmentation", "expected a mask, found a bbox alone; boxes are not scored")
    height, width = integer(images[image_id], "height", low=1), integer(images[image_id], "width", low=1)
    rle = masks.rle_from_coco(raw.get("segmentation"), height, width, where=f"{where}.segmentation")
    mask: RleDict = {"size": list(rle.size), "counts": rle.counts}
    return {"image_id": image_id, "category_id": category_id, "segmentation": mask, "score": score}


def _finite(value: object) -> float:
    """A score as a float; EntryError for anything but a finite number."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)  # NaN, infinity and integers beyond every float fail the comparison
    raise EntryError("score", f"expected a finite number, found {show(value)}")


def _mean(cut: npt.NDArray[np.float64]) -> float | None:
    """Mean of a cut of a table without its -1 entries (classes without a true instance)."""
    known = cut[cut > -1]
    return float(np.mean(known)) if known.size else None
