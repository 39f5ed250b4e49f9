"""Scores of a run: pseudo-masks against hidden truth, students against the val images' human masks."""

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.data import masks
from pipeline.data.coco import CocoWriter
from pipeline.data.coco_ap import Detection, detections
from pipeline.data.matching import Key
from pipeline.data.matching import Pair as Matched
from pipeline.data.metrics import coco_ap, dice, iou, matched_miou
from pipeline.data.records import RLE, Instance, Ontology, Record, Source
from pipeline.engine.stage import TrainContext
from pipeline.report.documents import PseudoQuality, StudentScore
from pipeline.stages.samples import read_batches
from pipeline.stages.trust import Spread
from students.protocols import Student
from teachers.protocols import Sample

SURE = 0.5  # score from which a student's mask counts as foreground of a semantic set
BATCH = 4

Number = TypeVar("Number", int, float)
Pair = tuple[Record, Record]  # (truth, what the run found) of one image
Note = Callable[[int, float], None]  # (image id, IoU) of one image


class ImageIous:
    """Every image's IoU, 16 bytes an image: all are ranked, without a second look at their masks."""

    def __init__(self) -> None:
        self._ids, self._ious = array("q"), array("d")

    def note(self, image_id: int, iou: float) -> None:
        """One more image."""
        self._ids.append(image_id)
        self._ious.append(iou)

    def worst_first(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Image ids [n] and their IoUs [n], by ascending IoU and then id."""
        ids, ious = np.array(self._ids, np.int64), np.array(self._ious, np.float64)
        order = np.lexsort((ids, ious))
        return ids[order], ious[order]


def pseudo_quality(
    pairs: Iterable[Pair], *, ontology: Ontology, semantic: bool, note: Note
) -> PseudoQuality | None:
    """Pseudo-masks against the hidden truth of the same images; None without a pair. `pairs` is iterated repeatedly.

    `note` hears the mean IoU of every image's true objects, or its foreground IoU for a semantic set; an image
    without a true object has none in the first case.
    """
    images = dropped = 0
    for _, found in pairs:
        images += 1
        dropped += sum(i.source is Source.TEACHER and i.dropped is not None for i in found.instances)
    if not images:
        return None
    if semantic:
        return _foreground_quality(pairs, dropped, note)
    spread = Spread()

    def look(matched: list[Matched], false: list[Instance]) -> None:
        spread(matched, false)
        if matched:
            note(matched[0].image_id, sum(pair.iou for pair in matched) / len(matched))

    scores = matched_miou((truth for truth, _ in pairs), (found for _, found in pairs), each=look)
    return PseudoQuality(
        images=images,
        instances=scores.truths,
        pseudo_masks=scores.pseudos,
        dropped=dropped,
        miou=scores.miou,
        miou_images=scores.miou_images,
        misses=scores.misses,
        false_positives=scores.false_positives,
        by_class=_named(scores.by_class, ontology),
        by_origin=scores.by_origin,
        objects_by_class=_named(spread.objects, ontology),
        missed_by_class=_named(spread.missed, ontology),
        masks_by_origin=dict(sorted(spread.masks_by_origin.items())),
        iou_counts=spread.iou_counts,
        reliability=dict(spread.reliability()),
    )


def _named(groups: Mapping[Key, Number], ontology: Ontology) -> dict[str, Number]:
    return {key_name(key, ontology): value for key, value in groups.items()}


def key_name(key: int | str, ontology: Ontology) -> str:
    """A class id as its name (with the id where two classes share it), an open phrase as it is."""
    if isinstance(key, str):
        return key
    name = ontology.name(key)
    shared = sum(category.name == name for category in ontology.categories) > 1
    return f"{name} ({key})" if shared else name


def _foreground_quality(pairs: Iterable[Pair], dropped: int, note: Note) -> PseudoQuality:
    truths = pseudos = 0
    overlaps = []
    for truth, found in pairs:
        real, drawn = kept_masks(truth.instances), kept_masks(found.instances)
        truths, pseudos = truths + len(real), pseudos + len(drawn)
        overlaps.append(overlap(real, drawn))
        note(truth.image_id, overlaps[-1][0])
    return PseudoQuality(
        images=len(overlaps),
        instances=truths,
        pseudo_masks=pseudos,
        dropped=dropped,
        miou=None,
        miou_images=None,
        misses=None,
        false_positives=None,
        by_class={},
        by_origin={},
        foreground_iou=_mean([first for first, _ in overlaps]),
        foreground_dice=_mean([second for _, second in overlaps]),
    )


def kept_masks(instances: Iterable[Instance]) -> list[RLE]:
    """Masks of the instances that were not set aside."""
    return [i.rle for i in instances if i.rle is not None and i.dropped is None]


def overlap(truth: Sequence[RLE], found: Sequence[RLE]) -> tuple[float, float]:
    """(IoU, Dice) in [0, 1] of all pixels of `truth` against all of `found`; 1 when both are empty."""
    if not truth or not found:
        same = float(not truth and not found)
        return same, same
    real, drawn = masks.decode(masks.union(truth)), masks.decode(masks.union(found))
    return iou(real, drawn), dice(real, drawn)


def student_score(
    student: Student, val: Iterable[Record], context: TrainContext, *, semantic: bool
) -> StudentScore:
    """COCO AP of a student on the val records, their sizes by pixels; foreground overlap for semantic sets."""
    batches = read_batches(val, context.images_root, size=BATCH)
    if semantic:
        return _foreground_score(student, batches)
    path = context.scratch / "val.json"
    writer = CocoWriter(path, context.ontology, info={}, crowd=True)
    images, found = student_results(student, batches, truth=writer)
    return StudentScore(images=images, **coco_ap(path, found))


def student_results(
    student: Student, batches: Iterable[Sequence[Sample]], *, truth: CocoWriter
) -> tuple[int, list[Detection]]:
    """(images, what a student finds on them); the samples' records, by ascending id, go into `truth`.

    They are written on the way, so that no more than a batch of them is held.
    """
    images = 0
    found: list[Detection] = []
    with truth:
        for samples in batches:
            for sample, instances in zip(samples, student.predict(samples), strict=True):
                truth.add(sample.record)
                found += detections(sample.record, instances)
                images += 1
    return images, found


def _foreground_score(student: Student, batches: Iterable[Sequence[Sample]]) -> StudentScore:
    overlaps = []
    for samples in batches:
        for sample, instances in zip(samples, student.predict(samples), strict=True):
            sure = [i for i in instances if (i.score or 0.0) >= SURE]
            overlaps.append(overlap(kept_masks(sample.record.instances), kept_masks(sure)))
    return StudentScore(
        images=len(overlaps),
        foreground_iou=_mean([first for first, _ in overlaps]),
        foreground_dice=_mean([second for _, second in overlaps]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
