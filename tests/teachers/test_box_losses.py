"""Losses of boxes, scores and masks in boxes, against known values and torchvision's."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, sigmoid_focal_loss

from teachers.box_losses import ciou_loss, cropped_mask_loss, focal_loss, holds_pixels


def boxes(count: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    corners = 40 * torch.rand(count, 2, generator=draw, dtype=torch.float64)
    return torch.cat([corners, corners + 1 + 30 * torch.rand(count, 2, generator=draw)], 1)


def box(*sides: float) -> Tensor:
    return torch.tensor(sides, dtype=torch.float64)


@pytest.mark.parametrize(
    ("one", "other", "loss"),
    [
        (box(2, 3, 7, 9), box(2, 3, 7, 9), 0.0),
        # Halves: IoU 1/2, centres 1 apart of a diagonal of 4^2 + 2^2, widths 2 and 4 of height 2.
        (
            box(0, 0, 2, 2),
            box(0, 0, 4, 2),
            0.5 + 1 / 20 + (v := 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2) * v / (0.5 + v),
        ),
        # Nothing in common: centres 10 apart, hull 12 x 2.
        (box(0, 0, 2, 2), box(10, 0, 12, 2), 1 + 100 / 148),
        # One in the other with its centre and shape: IoU alone.
        (box(4, 4, 6, 6), box(0, 0, 10, 10), 1 - 4 / 100),
    ],
    ids=["the same", "half", "apart", "inside"],
)
def test_ciou_of_known_boxes(one: Tensor, other: Tensor, loss: float) -> None:
    assert ciou_loss(one, other).item() == pytest.approx(loss, abs=1e-6)
    assert ciou_loss(other, one).item() == pytest.approx(loss, abs=1e-6)


def test_ciou_and_its_gradient_are_torchvisions() -> None:
    found, true = boxes(200, 0).requires_grad_(), boxes(200, 1)
    mine, theirs = ciou_loss(found, true), complete_box_iou_loss(found, true)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(loss.sum(), found)[0] for loss in (mine, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert ciou_loss(found.reshape(4, 50, 4), true.reshape(4, 50, 4)).shape == (4, 50)


@pytest.mark.parametrize(
    "sides", [(5, 5, 5, 9), (5, 5, 9, 5), (5, 5, 5, 5)], ids=["no width", "no height", "a point"]
)
def test_ciou_of_a_box_without_an_area_is_finite_and_so_is_its_gradient(sides: tuple[float, ...]) -> None:
    found = box(*sides).requires_grad_()
    loss = ciou_loss(found, box(2, 3, 7, 9))
    (gradient,) = torch.autograd.grad(loss, found)
    assert loss > 1
    assert gradient.isfinite().all()


def test_focal_loss_is_torchvisions() -> None:
    logits = torch.linspace(-8, 8, 33, dtype=torch.float64)
    for targets in (torch.zeros_like(logits), torch.ones_like(logits)):
        theirs = sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=1.5)
        torch.testing.assert_close(focal_loss(logits, targets), theirs)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(focal_loss(logits, targets, alpha=0.5, gamma=0), entropy / 2)


def test_focal_loss_forgives_what_is_right_already() -> None:
    shares = [
        (focal_loss(logit, torch.ones(())) / F.binary_cross_entropy_with_logits(logit, torch.ones(()))).item()
        for logit in torch.tensor([-4.0, -1.0, 1.0, 4.0])
    ]
    assert all(before > after for before, after in pairwise(shares))
    assert shares[0] == pytest.approx(0.25, rel=0.05)


def test_a_mask_counts_inside_its_box_alone() -> None:
    logits = torch.full((2, 8, 8), 3.0)
    logits[:, 2:5, 1:4] = -3.0
    masks = (logits > 0).float()
    masks[:, :2] = 1 - masks[:, :2]  # wrong, but outside
    some = torch.tensor([[1.0, 2.0, 4.0, 8.0], [0.0, 0.0, 8.0, 8.0]])
    inside, everywhere = cropped_mask_loss(logits, masks, some).tolist()
    right, wrong = math.log(1 + math.exp(-3)), math.log(1 + math.exp(3))
    assert inside == pytest.approx(right)
    assert everywhere == pytest.approx((6 * right + 2 * wrong) / 8)


@pytest.mark.parametrize(
    ("edges", "pixels"),
    [
        ((0.0, 0.0, 2.0, 3.0), 6),
        ((0.5, 0.5, 2.5, 3.5), 6),  # a centre on the first edge is inside, on the last one outside
        ((0.6, 0.0, 2.4, 1.0), 1),
        ((-9.0, -9.0, 99.0, 99.0), 16),
        ((1.6, 1.6, 2.4, 2.4), 0),
        ((9.0, 9.0, 12.0, 12.0), 0),
    ],
)
def test_a_pixel_is_inside_if_its_centre_is(edges: tuple[float, ...], pixels: int) -> None:
    logits = torch.zeros(1, 4, 4, requires_grad=True)
    loss = cropped_mask_loss(logits, torch.ones(1, 4, 4), torch.tensor([edges]))
    assert loss.item() == pytest.approx(math.log(2) if pixels else 0.0)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert int((gradient != 0).sum()) == pixels


def test_no_gradient_goes_through_the_crop() -> None:
    edges = torch.tensor([[0.0, 0.0, 2.0, 3.0]], requires_grad=True)
    loss = cropped_mask_loss(torch.zeros(1, 4, 4, requires_grad=True), torch.ones(1, 4, 4), edges)
    assert torch.autograd.grad(loss.sum(), edges, allow_unused=True) == (None,)


@pytest.mark.parametrize(
    ("box", "holds"),
    [
        ([0.0, 0.0, 4.0, 4.0], True),
        ([0.5, 0.5, 0.6, 0.6], True),
        ([0.6, 0.0, 1.5, 4.0], False),
        ([0.6, 0.0, 1.51, 4.0], True),
        ([0.0, 3.51, 4.0, 9.0], False),
        ([-9.0, -9.0, 0.4, 4.0], False),
        ([-9.0, -9.0, 0.6, 0.6], True),
        ([9.0, 0.0, 12.0, 4.0], False),
    ],
)
def test_a_box_holds_the_pixels_whose_centres_it_does(box: list[float], holds: bool) -> None:
    given = torch.tensor([box], dtype=torch.float64)
    assert holds_pixels(given, 4).tolist() == [holds]
    asked = cropped_mask_loss(torch.zeros(1, 4, 4), torch.ones(1, 4, 4), given)
    assert bool(asked > 0) is holds
