"""Gradients of FCOS, and gradients of those: against finite differences."""

from collections.abc import Iterator

import pytest
import torch
from small_fcos import SOME, pixels, tiny, total
from torch import Tensor, nn

from teachers.detector import Targets, keep
from teachers.fcos import FcosDetector


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gradients(loss: Tensor, detector: FcosDetector) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(detector.parameters()))])


def along(loss: Tensor, detector: FcosDetector, direction: Tensor) -> Tensor:
    """The Hessian of a loss times a direction, by two gradients."""
    first = torch.autograd.grad(loss, list(detector.parameters()), create_graph=True)
    return gradients(torch.cat([g.flatten() for g in first]) @ direction, detector)


def direction_of(detector: FcosDetector) -> Tensor:
    draw = torch.Generator().manual_seed(5)
    drawn = torch.randn(sum(p.numel() for p in detector.parameters()), generator=draw, dtype=torch.float64)
    return drawn / drawn.norm()


def test_second_order_is_linear_in_the_loss() -> None:
    """transformers' RT-DETR fails this without a word."""
    detector = tiny()
    direction = direction_of(detector)

    def product(*weighted: tuple[float, list[Targets]]) -> Tensor:
        loss = torch.stack([weight * total(detector, pixels(), targets) for weight, targets in weighted])
        return along(loss.sum(), detector, direction)

    one, three, other = product((1.0, SOME)), product((3.0, SOME)), product((1.0, SOME[::-1]))
    both = product((1.0, SOME), (1.0, SOME[::-1]))
    assert one.abs().max() > 1e-3
    torch.testing.assert_close(three, 3 * one)
    torch.testing.assert_close(both, one + other)


def test_second_order_is_the_difference_of_first_ones() -> None:
    """Of boxes and scores; not of CIoU, whose a is a constant for the gradient but no constant."""

    def loss(of: FcosDetector) -> Tensor:
        raw = of.predict(pixels())
        assignment = of.assign(raw, SOME)
        parts = of.losses(raw, SOME, assignment)
        boxes = raw.boxes[assignment.image, assignment.location]
        return parts["obj"] + parts["cls"] + (boxes / 64).square().mean()

    detector, sides = tiny(), []
    direction, epsilon = direction_of(detector), 1e-6
    exact = along(loss(detector), detector, direction)
    start = nn.utils.parameters_to_vector(detector.parameters()).detach()
    for sign in (1, -1):
        nn.utils.vector_to_parameters(start + sign * epsilon * direction, detector.parameters())
        sides.append(gradients(loss(detector), detector))
    difference = (sides[0] - sides[1]) / (2 * epsilon)
    assert (difference - exact).norm() < 1e-5 * exact.norm()


def test_norms_learn_no_statistics_and_asking_twice_gives_the_same_bits() -> None:
    detector = tiny()
    before = {name: value.clone() for name, value in detector.named_buffers()}
    first = total(detector, pixels(), SOME)
    (gradient, *_) = torch.autograd.grad(first, list(detector.parameters()))
    again = total(detector, pixels(), SOME)
    assert torch.equal(first, again)
    assert gradient.any()
    assert all(torch.equal(value, before[name]) for name, value in detector.named_buffers())


def test_all_parameters_learn() -> None:
    detector = tiny()
    found = torch.autograd.grad(total(detector, pixels(), SOME), list(detector.parameters()))
    names = [name for name, _ in detector.named_parameters()]
    assert [name for name, gradient in zip(names, found, strict=True) if not gradient.any()] == []


def test_descending_makes_the_losses_smaller() -> None:
    detector = tiny()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        loss = total(detector, pixels(), SOME)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    kept = keep(detector.predict(pixels()), confidence=0.0, overlap=0.5, most=1)
    assert len(kept.score) == 2
