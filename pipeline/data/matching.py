"""Pseudo-masks against the truth they stand for: which true instance was found, and how well.

Per image and class, true and pseudo instances are matched one to one so that the sum of IoUs is largest (Hungarian);
pairs that do not overlap count as unmatched. A miss counts as IoU 0.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data import masks
from pipeline.data.assignment import assign
from pipeline.data.records import RLE, Instance, Record

CROWD_OVERLAP = (
    0.5  # share of a pseudo-mask in a crowd region of its class from which it is no false positive
)

Key = int | str  # a class id, or the open phrase of an instance without one


@dataclass(frozen=True, slots=True)
class Pair:
    """One true instance and what became of it: IoU 0 and no pseudo instance for a miss."""

    image_id: int
    key: Key
    truth: Instance
    pseudo: Instance | None
    iou: float


Look = Callable[[list[Pair], list[Instance]], None]


@dataclass(frozen=True, slots=True)
class MatchScores:
    """`miou`: mean over true instances; `miou_images`: mean over images of their instances' mean.

    `by_class` as `miou` within a class; `by_origin`: mean over matched pairs by the origin of the pseudo-mask's box
    prompt (misses have none). Means over nothing are None. `false_positives` are pseudo instances that no true one
    was matched with and that do not lie in a crowd region of their class.
    """

    miou: float | None
    miou_images: float | None
    by_class: dict[Key, float]
    by_origin: dict[str, float]
    truths: int
    pseudos: int
    misses: int
    false_positives: int


def match_image(truth: Record, pseudo: Record) -> tuple[list[Pair], list[Instance]]:
    """(one pair for each true instance with a mask, the false positives) of one image."""
    if truth.image_id != pseudo.image_id:
        raise ValueError(f"records must be of one image, got {truth.image_id} and {pseudo.image_id}")
    real, found, crowd = _by_key(truth.instances), _by_key(pseudo.instances), _by_key(truth.crowd)
    pairs: list[Pair] = []
    false: list[Instance] = []
    for key in sorted(real.keys() | found.keys(), key=str):
        wanted, offered = real.get(key, []), found.get(key, [])
        overlap = masks.iou_matrix([_rle(i) for i in wanted], [_rle(i) for i in offered])
        rows, columns = assign(-overlap)
        taken = {int(r): int(c) for r, c in zip(rows, columns, strict=True) if overlap[r, c] > 0}
        for row, instance in enumerate(wanted):
            column = taken.get(row)
            partner = None if column is None else offered[column]
            iou = 0.0 if column is None else float(overlap[row, column])
            pairs.append(Pair(truth.image_id, key, instance, partner, iou))
        spare = [instance for column, instance in enumerate(offered) if column not in taken.values()]
        false += _outside(spare, crowd.get(key, []))
    return pairs, false


def matched_miou(
    truth: Iterable[Record], pseudo: Iterable[Record], *, each: Look | None = None
) -> MatchScores:
    """Score pseudo-masks (undropped instances) against the truth of the same images in the same order.

    `each` is shown every image's pairs and false positives as they come.
    """
    ious, images = array("d"), array("d")  # 8 bytes a true instance: the masks are let go image by image
    by_class: defaultdict[Key, array[float]] = defaultdict(lambda: array("d"))
    by_origin: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
    pseudos = misses = false_positives = 0
    for real, found in zip(truth, pseudo, strict=True):
        pairs, false = match_image(real, found)
        if each is not None:
            each(pairs, false)
        if pairs:
            images.append(float(np.mean([pair.iou for pair in pairs])))
        for pair in pairs:
            ious.append(pair.iou)
            by_class[pair.key].append(pair.iou)
            if pair.pseudo is None:
                misses += 1
            elif pair.pseudo.prompt is not None:
                by_origin[pair.pseudo.prompt.origin.value].append(pair.iou)
        false_positives += len(false)
        pseudos += sum(i.rle is not None and i.dropped is None for i in found.instances)
    return MatchScores(
        miou=_mean(ious),
        miou_images=_mean(images),
        by_class={key: float(np.mean(values)) for key, values in by_class.items()},
        by_origin={key: float(np.mean(values)) for key, values in sorted(by_origin.items())},
        truths=len(ious),
        pseudos=pseudos,
        misses=misses,
        false_positives=false_positives,
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _by_key(instances: Iterable[Instance]) -> dict[Key, list[Instance]]:
    """Undropped instances with masks, by class."""
    groups: dict[Key, list[Instance]] = {}
    for instance in instances:
        key = instance.class_id if instance.class_id is not None else instance.phrase
        if key is not None and instance.rle is not None and instance.dropped is None:
            groups.setdefault(key, []).append(instance)
    return groups


def _rle(instance: Instance) -> RLE:
    if instance.rle is None:
        raise ValueError("an instance to compare needs a mask")
    return instance.rle


def _outside(spare: list[Instance], crowd: list[Instance]) -> list[Instance]:
    """Those of `spare` that do not lie in a crowd region."""
    if not crowd:
        return spare
    share = masks.iou_matrix([_rle(i) for i in spare], [_rle(i) for i in crowd], crowd=True)
    return [i for i, row in zip(spare, share, strict=True) if row.max() < CROWD_OVERLAP]
