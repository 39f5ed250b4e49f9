"""Scores of a run: pseudo-masks against hidden truth, students against the val images' human masks."""

from collections.abc import Iterable, Sequence

from pipeline.data import masks
from pipeline.data.coco import CocoWriter
from pipeline.data.coco_ap import Detection, coco_ap, detections
from pipeline.data.matching import matched_miou
from pipeline.data.records import RLE, Instance, Ontology, Record, Source
from pipeline.engine.stage import Records, TrainContext
from pipeline.report.documents import PseudoQuality, StudentScore
from pipeline.stages.samples import read_batches
from pipeline.stages.stopping import heed_stop
from students.protocols import Student

SURE = 0.5  # score from which a student's mask counts as foreground of a semantic set
BATCH = 4

Pair = tuple[Record, Record]  # (truth, what the run found) of one image


def pseudo_quality(pairs: Iterable[Pair], *, ontology: Ontology, semantic: bool) -> PseudoQuality | None:
    """Pseudo-masks against the hidden truth of the same images; None without a pair. `pairs` is iterated repeatedly."""
    images = dropped = 0
    for _, found in pairs:
        images += 1
        dropped += sum(i.source is Source.TEACHER and i.dropped is not None for i in found.instances)
    if not images:
        return None
    if semantic:
        return _foreground_quality(pairs, dropped)
    scores = matched_miou((truth for truth, _ in pairs), (found for _, found in pairs))
    return PseudoQuality(
        images=images,
        instances=scores.truths,
        pseudo_masks=scores.pseudos,
        dropped=dropped,
        miou=scores.miou,
        miou_images=scores.miou_images,
        misses=scores.misses,
        false_positives=scores.false_positives,
        by_class={key_name(key, ontology): value for key, value in scores.by_class.items()},
        by_origin=scores.by_origin,
    )


def key_name(key: int | str, ontology: Ontology) -> str:
    """A class id as its name (with the id where two classes share it), an open phrase as it is."""
    if isinstance(key, str):
        return key
    name = ontology.name(key)
    shared = sum(category.name == name for category in ontology.categories) > 1
    return f"{name} ({key})" if shared else name


def _foreground_quality(pairs: Iterable[Pair], dropped: int) -> PseudoQuality:
    truths = pseudos = 0
    overlaps = []
    for truth, found in pairs:
        real, drawn = kept_masks(truth.instances), kept_masks(found.instances)
        truths, pseudos = truths + len(real), pseudos + len(drawn)
        overlaps.append(overlap(real, drawn))
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
        foreground_iou=_mean([iou for iou, _ in overlaps]),
        foreground_dice=_mean([dice for _, dice in overlaps]),
    )


def kept_masks(instances: Iterable[Instance]) -> list[RLE]:
    """Masks of the instances that were not set aside."""
    return [i.rle for i in instances if i.rle is not None and i.dropped is None]


def overlap(truth: Sequence[RLE], found: Sequence[RLE]) -> tuple[float, float]:
    """(IoU, Dice) in [0, 1] of all pixels of `truth` against all of `found`; 1 when both are empty."""
    if not truth or not found:
        same = float(not truth and not found)
        return same, same
    iou = float(masks.iou_matrix([masks.union(truth)], [masks.union(found)])[0, 0])
    return iou, 2 * iou / (1 + iou)


def student_score(student: Student, val: Records, context: TrainContext, *, semantic: bool) -> StudentScore:
    """COCO AP of a student on the val records; foreground overlap for semantic sets. Stopped when asked to stop."""
    usable = [record for record in val if record.dropped is None]
    found: list[Detection] = []
    pairs: list[tuple[float, float]] = []
    for samples in read_batches(usable, context.images_root, size=BATCH):
        heed_stop(context)
        for sample, instances in zip(samples, student.predict(samples), strict=True):
            if semantic:
                sure = [i for i in instances if (i.score or 0.0) >= SURE]
                pairs.append(overlap(kept_masks(sample.record.instances), kept_masks(sure)))
            else:
                found += detections(sample.record, instances)
    if semantic:
        iou, dice = _mean([iou for iou, _ in pairs]), _mean([dice for _, dice in pairs])
        return StudentScore(images=len(usable), foreground_iou=iou, foreground_dice=dice)
    path = context.workdir / "val.json"
    with CocoWriter(path, context.ontology, info={}, crowd=True) as writer:
        for record in usable:
            writer.add(record)
    return StudentScore(images=len(usable), **coco_ap(path, found))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
