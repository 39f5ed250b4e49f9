"""The objective of both levels: what the losses are, and what reaches whom."""

import pytest
import torch
from told_boxes import ALL, FAR, KEEPING, LEFT, NEAR, RIGHT, SIDE, Told, agree, aligned, images, moved
from torch import Tensor, nn

from students.blo_objective import (
    NOBODY,
    Choice,
    Images,
    Keeping,
    Weights,
    choose,
    losses,
    mask_loss,
    missed,
    total,
)
from teachers.detector import Kept


def test_the_mask_loss_is_the_mean_of_what_was_matched_by_its_weight() -> None:
    sam, own = aligned(), images([(0, LEFT, 1.0), (0, RIGHT, 0.25)])
    every = Told([[NEAR, moved(RIGHT, 2), FAR]], [[[3.0], [2.0], [1.0]]])
    choice = choose(every, own, Keeping(0.5, 1.0, 10))
    assert choice.target.tolist() == [0, 1, NOBODY]
    single = [
        mask_loss(
            sam, own, choose(Told([[box]], [[[3.0]]]), own, KEEPING), torch.tensor([box], dtype=torch.float64)
        )
        for box in (NEAR, moved(RIGHT, 2))
    ]
    whole = mask_loss(sam, own, choice, choice.boxes)
    torch.testing.assert_close(whole, (single[0] + single[1]) / 2)
    certain = images([(0, LEFT, 1.0), (0, RIGHT, 1.0)])
    surely = mask_loss(sam, certain, choose(every, certain, KEEPING), choice.boxes)
    torch.testing.assert_close(surely, (single[0] + 4 * single[1]) / 2)


def test_each_box_is_asked_of_its_own_image() -> None:
    sam, both = aligned(), images([(0, LEFT, 1.0)], [(0, LEFT, 1.0)])
    for image in range(2):
        agree(sam, both, image, 0, NEAR)
    parts = [
        Images(
            both.pixels[:1],
            both.features[[i]],
            both.targets[i : i + 1],
            both.masks[i : i + 1],
            both.extents[:1],
        )
        for i in range(2)
    ]
    alone, together = Told([[NEAR]], [[[3.0]]]), Told([[NEAR]] * 2, [[[3.0]]] * 2)
    every = [mask_loss(sam, part, found := choose(alone, part, KEEPING), found.boxes) for part in parts]
    assert every[0] != every[1]
    choice = choose(together, both, KEEPING)
    torch.testing.assert_close(mask_loss(sam, both, choice, choice.boxes), (every[0] + every[1]) / 2)
    sums = [missed(sam, part, choose(alone, part, KEEPING))[0] for part in parts]
    assert missed(sam, both, choice)[0] == pytest.approx(sum(sums))


def test_the_mask_loss_is_that_of_the_masks_pixels_in_the_box() -> None:
    sam, own = aligned(), images([(0, LEFT, 1.0)])
    box = torch.tensor([[4.0, 8.0, 28.0, 64.0]], dtype=torch.float64)
    found = mask_loss(sam, own, choose(Told([[NEAR]], [[[3.0]]]), own, KEEPING), box)
    logits, _ = sam(own.features, box)
    part = logits[0, 4:32, 2:14]
    truth = own.masks[0][0, 4:32, 2:14]
    torch.testing.assert_close(found, nn.functional.binary_cross_entropy_with_logits(part, truth))


def test_gradients_of_a_mask_loss_reach_the_boxes_as_finite_differences_do() -> None:
    sam, own = aligned(), images([(0, LEFT, 1.0)], [(0, RIGHT, 0.5)])
    said = Told([[moved(LEFT, 2), FAR], [moved(RIGHT, -2), FAR]], [[[3.0], [-9.0]]] * 2)
    choice = choose(said, own, KEEPING)

    def loss() -> Tensor:
        return losses(said, sam, own, choice, ALL)["seg"]

    (gradient,) = torch.autograd.grad(loss(), said.boxes)
    assert gradient[:, 1].abs().max() == 0  # not kept
    assert (gradient[:, 0] != 0).all()
    epsilon = 1e-5
    for image in range(2):
        for edge in range(4):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    before = said.boxes[image, 0, edge].clone()
                    said.boxes[image, 0, edge] += sign * epsilon
                    sides.append(loss().item())
                    said.boxes[image, 0, edge] = before
            difference = (sides[0] - sides[1]) / (2 * epsilon)
            assert gradient[image, 0, edge].item() == pytest.approx(difference, rel=1e-5, abs=1e-9)


def test_the_four_losses_have_their_weights() -> None:
    sam, own = aligned(), images([(0, LEFT, 1.0)])
    said = Told([[NEAR]], [[[3.0]]])
    choice = choose(said, own, KEEPING)
    found = losses(said, sam, own, choice, Weights(2.0, 3.0, 5.0, 7.0))
    expected = {
        "box": 2 * said.boxes.square().mean(),
        "obj": torch.tensor(6.0, dtype=torch.float64),
        "cls": 5 * said.logits.square().mean(),
        "seg": 7 * mask_loss(sam, own, choice, said.boxes[0]),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    torch.testing.assert_close(total(found), sum(expected.values(), torch.zeros(())))


def test_only_the_mask_loss_depends_on_sam() -> None:
    sam, own = aligned(), images([(0, LEFT, 1.0)])
    said = Told([[NEAR]], [[[3.0]]])
    found = losses(said, sam, own, choose(said, own, KEEPING), ALL)
    theta = list(sam.trained().values())
    for name, loss in found.items():
        gradients = torch.autograd.grad(loss, theta, allow_unused=True, retain_graph=True)
        reached = [gradient is not None and bool(gradient.any()) for gradient in gradients]
        assert any(reached) is (name == "seg"), name


@pytest.mark.parametrize(
    ("said", "objects"),
    [
        (Told([[NEAR]], [[[-9.0]]]), [(0, LEFT, 1.0)]),
        (Told([[NEAR]], [[[3.0]]]), []),
        (Told([[FAR]], [[[3.0]]]), [(0, LEFT, 1.0)]),
        (Told([[NEAR]], [[[3.0]]]), [(0, LEFT, 0.0)]),
    ],
    ids=["nothing found", "an empty image", "nothing matched", "nothing trusted"],
)
def test_where_no_mask_teaches_the_detector_still_learns(
    said: Told, objects: list[tuple[int, list[float], float]]
) -> None:
    sam, own = aligned(), images(objects)
    choice = choose(said, own, KEEPING)
    found = losses(said, sam, own, choice, ALL)
    assert found["seg"] == 0
    assert not found["seg"].requires_grad
    gradients = torch.autograd.grad(total(found), [said.boxes, said.logits])
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_many_boxes_are_taught_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same loss and gradients, of SAM's part and of the boxes."""
    sam, own = aligned(), images([(0, LEFT, 1.0), (0, RIGHT, 0.5)])
    boxes = [moved(box, by) for by in (0.0, 2.0, 4.0) for box in (LEFT, RIGHT)]
    said = Told([boxes], [[[3.0]] * 6])
    choice = choose(said, own, Keeping(0.5, 1.0, 10))
    asked: list[int] = []
    sam.register_forward_hook(lambda _, given, __: asked.append(len(given[1])))

    def found() -> tuple[Tensor, ...]:
        loss = mask_loss(sam, own, choice, choice.kept.boxes(said.predict(own.pixels)))
        return (
            loss,
            *torch.autograd.grad(loss, [said.boxes, *sam.trained().values()], materialize_grads=True),
        )

    at_once = found()
    assert set(asked) == {6}
    asked.clear()
    monkeypatch.setattr("students.blo_objective.AT_ONCE", 4)
    torch.testing.assert_close(found(), at_once)
    assert set(asked) == {4, 2}


def test_a_choice_is_asked_again_at_other_parameters() -> None:
    """The same boxes, wherever they have gone, with the objects that they had."""
    sam, own = aligned(), images([(0, LEFT, 1.0)])
    said = Told([[NEAR, FAR]], [[[3.0], [2.0]]])
    choice: Choice = choose(said, own, Keeping(0.5, 1.0, 10))
    with torch.no_grad():
        said.boxes[0, 0] += 30.0
        said.boxes[0, 1] -= 30.0
    again = losses(said, sam, own, choice, ALL)["seg"] / ALL.seg
    torch.testing.assert_close(again, mask_loss(sam, own, choice, said.boxes[0].clamp(0, SIDE)))
    assert isinstance(choice.kept, Kept)
