"""The few images that the report draws: where pseudo-masks are worst, and where they are as good as usual."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pipeline.data.matching import match_image
from pipeline.data.paths import Place
from pipeline.data.records import Instance, Ontology, Record
from pipeline.report.case_documents import Case, CaseMask
from pipeline.stages.samples import read_sample
from pipeline.stages.scoring import ImageIous, Pair
from students.protocols import Student

STUDENT_MASKS = 20  # of a student's masks, the best ones are drawn
STUDENT_SCORE = 0.3


@dataclass(frozen=True)
class Choice:
    """One image to draw: why, the mean IoU of its objects, and its place from 1 among all `ranked`, worst first."""

    pair: Pair
    why: str
    miou: float
    rank: int
    ranked: int


def choose(pairs: Iterable[Pair], ious: ImageIous, *, worst: int, typical: int) -> list[Choice]:
    """The images with the worst pseudo-masks and those around the median, of all that have an IoU."""
    ids, values = ious.worst_first()
    start = worst + max(0, (len(ids) - worst) // 2 - typical // 2)
    plan = dict.fromkeys(range(min(worst, len(ids))), "worst")
    plan |= dict.fromkeys(range(start, min(start + typical, len(ids))), "typical")
    wanted = {int(ids[index]) for index in plan}
    found = {pair[0].image_id: pair for pair in pairs if pair[0].image_id in wanted}
    return [
        Choice(found[int(ids[index])], why, float(values[index]), index + 1, len(ids))
        for index, why in plan.items()
    ]


def draw_case(
    choice: Choice, *, students: Mapping[str, Student], images_root: Place, ontology: Ontology
) -> Case:
    """One case with what every student finds on it, each mask with the true object that it was matched with."""
    truth, found = choice.pair
    sample = read_sample(found, images_root)
    seen = {name: _best(student.predict([sample])[0]) for name, student in students.items()}
    return Case(
        image_id=found.image_id,
        uri=found.uri,
        sha256=found.sha256,
        why=choice.why,
        miou=choice.miou,
        rank=choice.rank,
        ranked=choice.ranked,
        truth=[CaseMask.of(i, _name(i, ontology)) for i in _drawn(truth.instances)],
        pseudo=_masks(truth, found, ontology),
        students={
            name: _masks(truth, replace(found, instances=instances), ontology)
            for name, instances in seen.items()
        },
    )


def _best(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    sure = [i for i in instances if (i.score or 0.0) >= STUDENT_SCORE]
    return tuple(sorted(sure, key=lambda i: -(i.score or 0.0))[:STUDENT_MASKS])


def _drawn(instances: Iterable[Instance]) -> list[Instance]:
    return [i for i in instances if i.rle is not None and i.dropped is None]


def _masks(truth: Record, found: Record, ontology: Ontology) -> list[CaseMask]:
    """The drawn masks of `found` with their matches; partners are indices into the drawn true objects."""
    pairs, _ = match_image(truth, found)
    matches = {id(pair.pseudo): pair for pair in pairs if pair.pseudo is not None}
    place = {id(instance): index for index, instance in enumerate(_drawn(truth.instances))}
    drawn = []
    for instance in _drawn(found.instances):
        mask = CaseMask.of(instance, _name(instance, ontology))
        pair = matches.get(id(instance))
        drawn.append(mask if pair is None else mask.matched(place[id(pair.truth)], pair.iou))
    return drawn


def _name(instance: Instance, ontology: Ontology) -> str:
    return thing_name(instance.class_id, instance.phrase, ontology)


def thing_name(class_id: int | None, phrase: str | None, ontology: Ontology) -> str:
    """What a labelled or proposed thing is, in words."""
    if class_id is not None:
        return ontology.name(class_id)
    return phrase or "no class"
