import math
from collections.abc import Callable

import pytest

from pipeline.data.records import (
    RLE,
    Category,
    Instance,
    Match,
    Ontology,
    Origin,
    Point,
    Prompt,
    Record,
    Role,
    Source,
)

BOX = (1.0, 2.0, 3.0, 4.0)


def record(**fields: object) -> Record:
    plain = {
        "image_id": 1,
        "uri": "a.jpg",
        "sha256": "",
        "width": 4,
        "height": 3,
        "split": "train",
        "role": Role.WEAK,
    }
    return Record(**(plain | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RLE((0, 3), ""), "at least 1x1"),
        (lambda: Point(math.nan, 0), "finite"),
        (lambda: Point(0, 0, 2), "0 or 1"),
        (lambda: Prompt(Origin.DINO), "a box or a point"),
        (lambda: Prompt(Origin.DINO, box_xyxy=(3, 0, 1, 1)), "x0 <= x1"),
        (lambda: Prompt(Origin.DINO, box_xyxy=BOX, class_id=1, phrase="a dog"), "not both"),
        (lambda: Prompt(Origin.DINO, box_xyxy=BOX, score=1.5), r"\[0, 1\]"),
        (lambda: Match(0, -1.0, iou=math.nan), r"\[0, 1\]"),
        (lambda: Instance(Source.HUMAN, class_id=1, phrase="a dog"), "not both"),
        (lambda: Instance(Source.HUMAN, phrase="  "), "blank"),
        (lambda: Instance(Source.HUMAN, box_xyxy=(0, 0, math.inf, 1)), "finite"),
        (lambda: Instance(Source.TEACHER, quality=-0.1), "quality"),
        (lambda: record(width=0), "at least 1x1"),
        (lambda: record(instances=(Instance(Source.HUMAN, rle=RLE((4, 3), "<")),)), "mask size"),
        (lambda: record(crowd=(Instance(Source.HUMAN, rle=RLE((4, 3), "<")),)), "mask size"),
        (lambda: Ontology((Category(1, "a"), Category(1, "b"))), "unique"),
    ],
)
def test_construction_refuses_what_breaks_a_rule(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_allowed() -> None:
    instance = Instance(Source.HUMAN, class_id=1, box_xyxy=(1, 1, 1, 1), rle=RLE((3, 4), "<"), score=1.0)
    assert record(instances=(instance,), tags=()).tags == ()
    assert record().tags is None


def test_class_names() -> None:
    ontology = Ontology((Category(7, "cat"), Category(0, "dog")))
    assert ontology.ids == (7, 0)
    assert ontology.name(0) == "dog"
    with pytest.raises(KeyError, match="no class with id 3"):
        ontology.name(3)
