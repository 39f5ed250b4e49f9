"""Which boxes prompt SAM, and what they are matched with."""

import pytest
import torch
from told_boxes import ALL, FAR, HALF, KEEPING, LEFT, NEAR, RIGHT, Told, aligned, filled, images, moved
from torch import Tensor

from students.blo_objective import (
    NOBODY,
    Keeping,
    choose,
    losses,
)
from students.blo_settings import Match

FIRST = torch.tensor([0])  # of the kept boxes


@pytest.mark.parametrize(
    ("box", "label", "target", "instance", "union"),
    [
        (NEAR, 0, 0, [LEFT], [LEFT, RIGHT]),
        (HALF, 0, 0, [LEFT], [LEFT, RIGHT]),
        (FAR, 0, NOBODY, None, [LEFT, RIGHT]),
        (moved(RIGHT, 2), 0, 2, [RIGHT], [LEFT, RIGHT]),
        (NEAR, 1, NOBODY, None, [[0.0, 0.0, 8.0, 8.0]]),
        (NEAR, 2, NOBODY, None, []),
    ],
    ids=["near", "half", "far", "the other", "another class", "no such class"],
)
def test_what_a_box_is_matched_with(
    box: list[float], label: int, target: int, instance: list[list[float]] | None, union: list[list[float]]
) -> None:
    logits = [-5.0, -5.0, -5.0]
    logits[label] = 3.0
    own = images([(0, LEFT, 0.5), (1, [0.0, 0.0, 8.0, 8.0], 1.0), (0, RIGHT, 0.25)])
    found = choose(Told([[box]], [[logits]]), own, KEEPING)
    assert found.target.tolist() == [target]
    assert found.boxes.tolist() == [[*box[:3], min(box[3], 64.0)]]  # what of it lies in the image
    if instance is None:
        assert found.weights.tolist() == [0.0]
    else:
        assert found.weights.tolist() == [0.5 if target == 0 else 0.25]
        assert torch.equal(found.truth(own, FIRST), filled(*instance))
    published = choose(Told([[box]], [[logits]]), own, KEEPING, match="class_union")
    assert published.target.tolist() == [target]
    assert published.weights.tolist() == [1.0]
    assert torch.equal(published.truth(own, FIRST)[0], filled(*union).sum(0))


def test_the_union_of_masks_that_overlap_is_a_mask() -> None:
    own = images([(0, LEFT, 1.0), (0, NEAR, 1.0)])
    found = choose(Told([[LEFT]], [[[3.0]]]), own, KEEPING, match="class_union")
    assert torch.equal(found.truth(own, FIRST)[0], filled([4.0, 4.0, 28.0, 64.0])[0])


def test_several_boxes_share_an_object_and_each_is_of_its_own_image() -> None:
    """Two of the first image's, of which one overlaps the other too much; one in an image without objects."""
    said = Told([[LEFT, NEAR, HALF], [LEFT, RIGHT, FAR]], [[[3.0], [2.0], [1.0]], [[2.0], [-9.0], [-9.0]]])
    own = images([(0, LEFT, 1.0)], [])
    found = choose(said, own, KEEPING)
    assert found.kept.image.tolist() == [0, 0, 0, 1]
    assert found.target.tolist() == [0, 0, 0, NOBODY]
    fewer = choose(said, own, Keeping(0.5, 0.8, 10))
    assert fewer.kept.location[fewer.kept.image == 0].tolist() == [0, 2]
    assert len(choose(said, own, Keeping(0.5, 0.9, 1)).kept.score) == 2
    assert not found.boxes.requires_grad


def test_what_a_box_overlaps_counts_within_the_image() -> None:
    """SAM sees no more of it: the box is right, though it reaches far beyond."""
    own = images([(0, [0.0, 4.0, 28.0, 60.0], 1.0)])
    choice = choose(Told([[[-40.0, 4.0, 28.0, 60.0]]], [[[3.0]]]), own, KEEPING)
    assert choice.target.tolist() == [0]


WIDE = (64, 24)  # of the square; below it is padding


def test_padding_is_no_part_of_an_image() -> None:
    """A box that lies there is not kept and takes nobody's place; of one that reaches into it the rest is asked."""
    own = images([(0, [4.0, 4.0, 28.0, 24.0], 1.0)], extent=WIDE)
    said = Told([[[4.0, 30.0, 28.0, 60.0], [4.0, 4.0, 28.0, 60.0]]], [[[9.0], [3.0]]])
    found = choose(said, own, Keeping(0.5, 0.9, 1))
    assert found.kept.location.tolist() == [1]
    assert found.boxes.tolist() == [[4.0, 4.0, 28.0, 24.0]]
    assert found.target.tolist() == [0]
    loss = losses(said, aligned(), own, found, ALL)["seg"]
    (gradient,) = torch.autograd.grad(loss, said.boxes)
    assert gradient[0, 1].ne(0).tolist() == [True, True, True, False]
    assert not gradient[0, 0].any()


@pytest.mark.parametrize("match", ["instance", "class_union"])
def test_a_choice_holds_no_masks(match: Match) -> None:
    """Of 300 boxes at 1024 px they would be 80 MB an image."""
    own = images([(0, LEFT, 1.0), (0, RIGHT, 1.0)])
    found = choose(Told([[NEAR, moved(RIGHT, 2), FAR]], [[[3.0], [2.0], [1.0]]]), own, KEEPING, match=match)
    held = [value for value in vars(found).values() if isinstance(value, Tensor)]
    assert len(held) == 3
    assert all(value.numel() <= 4 * len(found.boxes) for value in held)
    expected = [LEFT, RIGHT] if match == "instance" else [LEFT, LEFT]
    truth = found.truth(own, torch.tensor([0, 1]))
    whole = filled(LEFT, RIGHT).sum(0)
    for mask, box in zip(truth, expected, strict=True):
        assert torch.equal(mask, filled(box)[0] if match == "instance" else whole)


def test_the_highest_score_is_told_though_nothing_is_kept() -> None:
    own = images([(0, LEFT, 1.0)])
    found = choose(Told([[NEAR, FAR]], [[[-2.0], [-1.0]]]), own, KEEPING)
    assert len(found.boxes) == 0
    assert found.surest == pytest.approx(torch.tensor(-1.0).sigmoid().item())
