"""The few images that the report draws: where pseudo-masks are worst, and where they are as good as usual."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipeline.data.matching import match_image
from pipeline.data.records import Instance, Ontology
from pipeline.report.documents import Case, CaseMask
from pipeline.stages.samples import read_sample
from pipeline.stages.scoring import Pair, kept_masks, overlap
from students.protocols import Student

LOOKED_AT = 2000  # images ranked at most; evenly spread over the data set
STUDENT_MASKS = 20  # of a student's masks, the best ones are drawn
STUDENT_SCORE = 0.3


@dataclass(frozen=True)
class Choice:
    """One image to draw: why, and the mean IoU of its objects."""

    pair: Pair
    why: str
    miou: float


def choose(pairs: Iterable[Pair], *, worst: int, typical: int, semantic: bool) -> list[Choice]:
    """The images with the worst pseudo-masks and those around the median; empty images have no IoU and are left out.

    `pairs` is iterated repeatedly.
    """
    step = max(1, sum(1 for _ in pairs) // LOOKED_AT)
    looked_at = islice(pairs, 0, None, step)
    known = ((_image_iou(pair, semantic=semantic), pair[0].image_id) for pair in looked_at)
    ranked = sorted((miou, image_id) for miou, image_id in known if miou is not None)
    bad, rest = ranked[:worst], ranked[worst:]
    start = max(0, len(rest) // 2 - typical // 2)
    plan = {image_id: ("worst", miou) for miou, image_id in bad}
    plan |= {image_id: ("typical", miou) for miou, image_id in rest[start : start + typical]}
    found = {pair[0].image_id: pair for pair in pairs if pair[0].image_id in plan}
    return [Choice(found[image_id], why, miou) for image_id, (why, miou) in plan.items()]


def _image_iou(pair: Pair, *, semantic: bool) -> float | None:
    truth, found = pair
    if semantic:
        return overlap(kept_masks(truth.instances), kept_masks(found.instances))[0]
    matched, _ = match_image(truth, found)
    return sum(p.iou for p in matched) / len(matched) if matched else None


def draw_case(
    choice: Choice, *, students: Mapping[str, Student], images_root: Path, ontology: Ontology
) -> Case:
    """One case with what every student finds on it."""
    truth, found = choice.pair
    sample = read_sample(found, images_root)
    seen = {name: student.predict([sample])[0] for name, student in students.items()}
    return Case(
        image_id=found.image_id,
        uri=found.uri,
        sha256=found.sha256,
        why=choice.why,
        miou=choice.miou,
        truth=_masks(truth.instances, ontology),
        pseudo=_masks(found.instances, ontology),
        students={name: _masks(_best(instances), ontology) for name, instances in seen.items()},
    )


def _best(instances: Iterable[Instance]) -> list[Instance]:
    sure = [i for i in instances if (i.score or 0.0) >= STUDENT_SCORE]
    return sorted(sure, key=lambda i: -(i.score or 0.0))[:STUDENT_MASKS]


def _masks(instances: Iterable[Instance], ontology: Ontology) -> list[CaseMask]:
    drawn = [i for i in instances if i.rle is not None and i.dropped is None]
    return [CaseMask.of(i, instance_name(i, ontology)) for i in drawn]


def instance_name(instance: Instance, ontology: Ontology) -> str:
    """What an instance is, in words."""
    if instance.class_id is not None:
        return ontology.name(instance.class_id)
    return instance.phrase or "no class"
