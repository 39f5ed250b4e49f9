"""What a pair is worth: the loss of each object's best box."""

import math
from dataclasses import replace

import pytest
from told_boxes import HALF, KEEPING, LEFT, NEAR, RIGHT, Told, agree, aligned, images, moved

from students.blo_objective import (
    NOBODY,
    Keeping,
    choose,
    mask_loss,
    missed,
)
from students.blo_settings import Match


def test_what_a_pair_is_worth() -> None:
    """The first object is found twice, the second badly, the third by no box; an image without any beside it."""
    sam = aligned()
    own = images([(0, LEFT, 1.0), (0, RIGHT, 1.0), (1, LEFT, 1.0)], [])
    agree(sam, own, 0, 0, HALF)
    said = Told(
        [[NEAR, HALF, moved(RIGHT, 18)], [LEFT, LEFT, LEFT]], [[[3.0, -9.0], [2.0, -9.0], [1.0, -9.0]]] * 2
    )
    choice = choose(said, own, Keeping(0.5, 1.0, 10))
    assert choice.target[:3].tolist() == [0, 0, 1]
    each = []
    for box, index in ((NEAR, 0), (HALF, 0), (moved(RIGHT, 18), 1)):
        truth, mask = (LEFT, RIGHT)[index], own.masks[0][[index]]
        one = replace(images([(0, truth, 1.0)]), features=own.features[:1], masks=(mask,))
        found = choose(Told([[box]], [[[3.0]]]), one, KEEPING)
        each.append(mask_loss(sam, one, found, found.boxes).item())
    unknown = math.log(2)
    assert each[1] < each[0]
    assert each[1] < unknown < each[2]
    lost, found, count = missed(sam, own, choice)
    assert (found, count) == (2, 3)
    assert lost == pytest.approx(min(each[0], each[1], unknown) + min(each[2], unknown) + unknown)
    assert missed(sam, images([], []), choose(said, images([], []), KEEPING)) == (0, 0, 0)


def test_finding_less_is_not_better() -> None:
    sam, own = aligned(), images([(0, LEFT, 1.0), (0, RIGHT, 1.0)])
    nothing = missed(sam, own, choose(Told([[NEAR]], [[[-9.0]]]), own, KEEPING))
    assert nothing == (pytest.approx(2 * math.log(2)), 0, 2)
    assert missed(sam, own, choose(Told([[NEAR]], [[[3.0]]]), own, KEEPING))[0] <= nothing[0]


def test_many_boxes_are_judged_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sam, own = aligned(), images([(0, LEFT, 1.0), (0, RIGHT, 1.0)])
    boxes = [moved(box, by) for by in (0.0, 2.0, 4.0) for box in (LEFT, RIGHT)]
    choice = choose(Told([boxes], [[[3.0]] * 6]), own, Keeping(0.5, 1.0, 10))
    at_once = missed(sam, own, choice)
    monkeypatch.setattr("students.blo_objective.AT_ONCE", 2)
    assert missed(sam, own, choice) == (pytest.approx(at_once[0]), 2, 2)


THIN = [LEFT[0] + 1.2, LEFT[1], LEFT[0] + 2.8, LEFT[3]]  # between the centres of two low-res pixels


@pytest.mark.parametrize("match", ["instance", "class_union"])
def test_a_box_without_a_pixel_finds_and_teaches_nothing(match: Match) -> None:
    sam, own = aligned(), images([(0, THIN, 1.0)])
    choice = choose(Told([[THIN]], [[[3.0]]]), own, KEEPING, match=match)
    assert (choice.target.tolist(), choice.weights.tolist()) == ([NOBODY], [0.0])
    assert missed(sam, own, choice) == (pytest.approx(math.log(2)), 0, 1)


def test_an_object_counts_as_much_as_it_is_trusted() -> None:
    """In what is lost, in what is found, and in how many there are."""
    sam, boxes = aligned(), Told([[NEAR]], [[[3.0]]])
    sure, doubted = (images([(0, LEFT, weight), (0, RIGHT, 0.5)]) for weight in (1.0, 0.25))
    lost, found, objects = missed(sam, sure, choose(boxes, sure, KEEPING))
    assert (found, objects) == (1.0, 1.5)
    other = missed(sam, doubted, choose(boxes, doubted, KEEPING))
    unknown = math.log(2) / 2
    assert other == (pytest.approx(0.25 * (lost - unknown) + unknown), 0.25, 0.75)
    nobody = images([(0, LEFT, 0.0)])
    assert missed(sam, nobody, choose(boxes, nobody, KEEPING)) == (0, 0, 0)
