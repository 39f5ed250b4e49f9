"""Which prompts a record's weak labels become, mixed kinds included."""

from dataclasses import replace

import pytest

from pipeline.data.records import RLE, Instance, Origin, Point, Prompt, Record, Role, Source, WeakKind
from teachers.point_way import refined_prompts
from teachers.settings import SamSettings
from teachers.weak_prompts import Way, requests

CAT, DOG = 1, 2


def proposal(class_id: int, score: float, x: float = 0.0, width: float = 10.0) -> Prompt:
    return Prompt(Origin.DINO, (x, 0.0, x + width, 10.0), class_id=class_id, score=score)


PROPOSALS = (
    proposal(CAT, 0.9),
    proposal(DOG, 0.8),  # the same box under another name
    proposal(DOG, 0.5, x=40.0),
    proposal(CAT, 0.2, x=70.0),  # below 0.3
    proposal(DOG, 0.6, x=80.0, width=0.5),  # thinner than a pixel
)
BOXED = Instance(Source.HUMAN, CAT, box_xyxy=(1.0, 2.0, 30.0, 40.0), human_id=7, weak_kind=WeakKind.BOX)
CLICKED = Instance(Source.HUMAN, DOG, points=(Point(50.5, 5.5),), human_id=8, weak_kind=WeakKind.POINT)
MASKED = Instance(Source.HUMAN, DOG, rle=RLE((100, 100), "PPYo1"), human_id=9)


def record(
    tags: tuple[int, ...] | None, *instances: Instance, proposals: tuple[Prompt, ...] = PROPOSALS
) -> Record:
    weak = Record(1, "a.jpg", "0" * 64, 100, 100, "train", Role.WEAK, tags=tags)
    return replace(weak, instances=instances, proposals=proposals)


def summary(found: Record, settings: SamSettings) -> list[tuple[str, int | None, float | None]]:
    return [(r.way.value, r.prompt.class_id, r.prompt.score) for r in requests(found, settings)]


SETTINGS = SamSettings()
TABLE = [
    ("none: every class", record(None), [("proposal", CAT, 0.9), ("proposal", DOG, 0.5)]),
    ("class: present ones", record((DOG,)), [("proposal", DOG, 0.8), ("proposal", DOG, 0.5)]),
    ("class: checked and empty", record(()), []),
    ("class: nothing proposed", record((CAT,), proposals=()), []),
    ("box", record((CAT,), BOXED), [("human_box", CAT, None)]),
    ("point", record((DOG,), CLICKED), [("human_point", DOG, None)]),
    ("both, in their order", record(None, CLICKED, BOXED), [("human_point", DOG, None), ("human_box", CAT, None)]),
    ("a tag of its own", record((CAT, DOG), CLICKED), [("human_point", DOG, None), ("proposal", CAT, 0.9)]),
    ("tags unknown, one localised", record(None, BOXED), [("human_box", CAT, None)]),
    ("a human mask covers its class and is asked nothing", record((CAT, DOG), MASKED), [("proposal", CAT, 0.9)]),
    ("a box wins over points", record(None, replace(BOXED, points=CLICKED.points)), [("human_box", CAT, None)]),
    ("teacher's are no labels", record((CAT,), replace(BOXED, source=Source.TEACHER)), [("proposal", CAT, 0.9)]),
    ("machine masks are used as given", record(None, replace(MASKED, source=Source.TEACHER)), []),
    ("and cover their class", record((CAT, DOG), replace(MASKED, source=Source.TEACHER)), [("proposal", CAT, 0.9)]),
    ("dropped labels are no labels", record((CAT,), replace(BOXED, dropped="odd")), [("proposal", CAT, 0.9)]),
    ("only points off the object", record(None, replace(CLICKED, points=(Point(1, 1, 0),)), proposals=()), []),
]  # fmt: skip


@pytest.mark.parametrize(("found", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_ways(found: Record, expected: list[tuple[str, int | None, float | None]]) -> None:
    assert summary(found, SETTINGS) == expected


def test_what_a_request_carries() -> None:
    box, point = requests(record((CAT, DOG), BOXED, CLICKED), SETTINGS)
    assert (box.human, box.weak_kind, box.prompt.box_xyxy) == (BOXED, WeakKind.BOX, BOXED.box_xyxy)
    assert (box.prompt.origin, box.prompt.points) == (Origin.HUMAN, ())
    assert (point.human, point.weak_kind, point.prompt.points) == (CLICKED, WeakKind.POINT, CLICKED.points)
    none, _ = requests(record(None), SETTINGS)
    assert (none.human, none.weak_kind, none.prompt) == (None, WeakKind.NONE, PROPOSALS[0])
    assert requests(record((DOG,)), SETTINGS)[0].weak_kind is WeakKind.CLASS


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (SamSettings(nms_by_class=True), [0.9, 0.8, 0.5]),
        (SamSettings(score=0.1), [0.9, 0.5, 0.2]),
        (SamSettings(nms=1.0), [0.9, 0.8, 0.5]),
    ],
)
def test_threshold_and_nms(settings: SamSettings, expected: list[float]) -> None:
    assert [score for _, _, score in summary(record(None), settings)] == expected


CLICK = Prompt(Origin.HUMAN, points=(Point(45.0, 5.0),), class_id=DOG)
OWN = (41.0, 1.0, 49.0, 9.0)


@pytest.mark.parametrize(
    ("own", "proposals", "origin", "box", "score"),
    [
        (OWN, PROPOSALS, Origin.DINO, (40.0, 0.0, 50.0, 10.0), 0.5),
        (None, PROPOSALS, Origin.DINO, (40.0, 0.0, 50.0, 10.0), 0.5),
        (OWN, PROPOSALS[:2], Origin.SAM, OWN, None),  # the point lies outside both
        (OWN, (), Origin.SAM, OWN, None),
        (None, (), Origin.HUMAN, None, None),  # no box at all: the point alone
    ],
)
def test_refined_prompts(
    own: tuple[float, ...] | None,
    proposals: tuple[Prompt, ...],
    origin: Origin,
    box: tuple[float, ...] | None,
    score: float | None,
) -> None:
    [(prompt, match)] = refined_prompts([CLICK], [own], proposals, SETTINGS)
    assert (prompt.origin, prompt.box_xyxy, prompt.score) == (origin, box, score)
    assert (prompt.points, prompt.class_id) == (CLICK.points, DOG)
    assert match.proposal == (2 if origin is Origin.DINO else None)


def test_a_click_of_several_points_stands_at_its_first_on_the_object() -> None:
    several = replace(CLICK, points=(Point(90.0, 90.0, 0), *CLICK.points, Point(3.0, 3.0)))
    [(prompt, match)] = refined_prompts([several], [OWN], PROPOSALS, SETTINGS)
    assert (prompt.points, match.proposal) == (several.points, 2)


def test_settings_reach_algorithm_1() -> None:
    strict = SamSettings(tau=0.55)
    [(prompt, match)] = refined_prompts([CLICK], [OWN], PROPOSALS, strict)
    assert (prompt.origin, match.proposal) == (Origin.SAM, None)
    assert refined_prompts([], [], PROPOSALS, strict) == []


def test_way_names_are_stable() -> None:
    assert [way.value for way in Way] == ["human_box", "human_point", "proposal"]
