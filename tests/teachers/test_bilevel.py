"""Bi-level steps on quadratic problems, whose hypergradients are known; through SAM: test_blo_second_order.

L1 = |theta - A phi|^2 / 2 and L2 = |theta - c|^2 / 2 + b phi. So dL1/dtheta = theta - A phi, d2L1/(dphi dtheta) = -A^T,
v = theta' - c, and the upper gradient is b + A^T (xi v).
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pipeline.engine.team import Team
from teachers.bilevel import Level, Order, StepLosses, bilevel_step, hypergradient, joint_step

RATES = 0.3, 0.05  # of theta's two parts
UPPER_RATE = 0.1


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Quadratic:
    """Theta is in two parts with a rate each."""

    def __init__(self, *, clip: float | None = None) -> None:
        self.a, self.b, self.c = numbers(5, 3, seed=1), numbers(3, seed=2), numbers(5, seed=3)
        self.parts = [nn.Parameter(numbers(2, seed=4)), nn.Parameter(numbers(3, seed=5))]
        self.phi = nn.Parameter(numbers(3, seed=6))
        groups = [{"params": [part], "lr": lr} for part, lr in zip(self.parts, RATES, strict=True)]
        self.lower = Level(tuple(self.parts), torch.optim.SGD(groups), clip)
        self.upper = Level((self.phi,), torch.optim.SGD([self.phi], UPPER_RATE), clip)
        self.xi = torch.cat([torch.full_like(p, r) for p, r in zip(self.parts, RATES, strict=True)]).detach()

    @property
    def theta(self) -> Tensor:
        return torch.cat(self.parts)

    def lower_loss(self) -> Tensor:
        return (self.theta - self.a @ self.phi).square().sum() / 2

    def upper_loss(self) -> Tensor:
        return (self.theta - self.c).square().sum() / 2 + self.b @ self.phi

    def upper_loss_at(self, theta: Tensor, phi: Tensor) -> float:
        return float((theta - self.c).square().sum() / 2 + self.b @ phi)

    def step(self, order: str) -> StepLosses:
        if order == "joint":
            return joint_step(self.lower, self.upper, self.lower_loss, self.upper_loss)
        known: Order = "second" if order == "second" else "first"
        return bilevel_step(self.lower, self.upper, self.lower_loss, self.upper_loss, order=known)

    def gradients(self, theta: Tensor, phi: Tensor, order: str) -> tuple[Tensor, Tensor]:
        """Of theta and phi, by the formulas above."""
        lower = theta - self.a @ phi
        if order == "joint":
            return (lower + theta - self.c) / 2, (self.b - self.a.T @ lower) / 2
        implicit = self.a.T @ (self.xi * (theta - self.xi * lower - self.c))
        return lower, self.b + (implicit if order == "second" else 0.0)


@pytest.mark.parametrize("order", ["joint", "first", "second"])
def test_steps_go_where_the_formulas_say(order: str) -> None:
    """Three of them: what one level left in the other's gradients would move the next."""
    problem = Quadratic()
    for _ in range(3):
        theta, phi = problem.theta.detach(), problem.phi.detach().clone()
        lower = problem.lower_loss().item()
        down, up = problem.gradients(theta, phi, order)
        found = problem.step(order)
        after = theta - problem.xi * down
        torch.testing.assert_close(problem.theta.detach(), after)
        torch.testing.assert_close(problem.phi.detach(), phi - UPPER_RATE * up)
        assert found.lower == pytest.approx(lower)
        assert found.upper == pytest.approx(problem.upper_loss_at(theta if order == "joint" else after, phi))
        assert all(p.grad is None for p in (*problem.parts, problem.phi))


def test_the_hypergradient_in_its_terms() -> None:
    problem = Quadratic()
    theta, phi = problem.theta.detach(), problem.phi.detach()
    found = hypergradient(problem.lower, problem.upper, problem.lower_loss, problem.upper_loss)
    lower, whole = problem.gradients(theta, phi, "second")
    torch.testing.assert_close(found.direct, (problem.b,))
    torch.testing.assert_close(found.implicit, (whole - problem.b,), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(torch.cat(found.lower), lower)
    torch.testing.assert_close(found.total(), (whole,))
    assert found.implicit[0].norm() > 0.1 * problem.b.norm()
    assert all(p.grad is None for p in (*problem.parts, problem.phi))


def test_first_order_is_the_direct_term() -> None:
    one, other = Quadratic(), Quadratic()
    other.upper_loss = lambda: one_more(other)  # type: ignore[method-assign]
    one.upper_loss = lambda: one_more(one)  # type: ignore[method-assign]
    direct = hypergradient(one.lower, one.upper, one.lower_loss, one.upper_loss).direct
    before = other.phi.detach().clone()
    other.step("first")
    torch.testing.assert_close(other.phi.detach(), before - UPPER_RATE * direct[0])


def one_more(problem: Quadratic) -> Tensor:
    """An upper loss whose direct term depends on theta'."""
    return (problem.theta[:3] * problem.phi.square()).sum()


@pytest.mark.parametrize("fails", [0, 1, 2, 3, None])
def test_parameters_are_restored_to_the_bit(fails: int | None) -> None:
    """Whatever loss of the four fails: before the virtual step, at it, and on either side of it."""
    problem = Quadratic()
    # So far that what is added and taken away again leaves another number.
    problem.lower.optimizer.param_groups[0]["lr"] = 1e12
    before = [p.detach().clone() for p in (*problem.parts, problem.phi)]
    asked = []

    def counted(loss: Tensor) -> Tensor:
        asked.append(torch.cat([p.detach() for p in problem.parts]))
        if len(asked) - 1 == fails:
            raise ArithmeticError
        return loss

    def run() -> None:
        hypergradient(
            problem.lower,
            problem.upper,
            lambda: counted(problem.lower_loss()),
            lambda: counted(problem.upper_loss()),
        )

    if fails is None:
        run()
        assert len({tuple(theta.tolist()) for theta in asked}) == 4
    else:
        with pytest.raises(ArithmeticError):
            run()
    after = [p.detach() for p in (*problem.parts, problem.phi)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_lower_level_is_known_at_parameters_near_each_other() -> None:
    """The two sides of the difference lie 2 epsilon apart, however long v is."""
    problem = Quadratic()
    asked = []

    def watched() -> Tensor:
        asked.append(problem.theta.detach())
        return problem.lower_loss()

    hypergradient(problem.lower, problem.upper, watched, lambda: 1e4 * problem.upper_loss(), epsilon=0.02)
    assert float((asked[1] - asked[2]).norm()) == pytest.approx(0.04)
    torch.testing.assert_close((asked[1] + asked[2]) / 2, asked[0])


@pytest.mark.parametrize("upper", ["of phi alone", "of nothing"])
def test_where_the_upper_loss_knows_no_theta_there_is_no_implicit_term(upper: str) -> None:
    problem = Quadratic()

    def loss() -> Tensor:
        return problem.b @ problem.phi if upper == "of phi alone" else torch.zeros(())

    found = hypergradient(problem.lower, problem.upper, problem.lower_loss, loss)
    assert torch.equal(found.implicit[0], torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(found.direct[0], problem.b if upper == "of phi alone" else 0 * problem.b)


def test_a_level_that_its_loss_does_not_know_stays() -> None:
    problem = Quadratic()
    before = problem.theta.detach()
    bilevel_step(problem.lower, problem.upper, lambda: torch.ones(()), problem.upper_loss)
    assert torch.equal(problem.theta.detach(), before)
    assert not torch.equal(problem.phi.detach(), numbers(3, seed=6))


@pytest.mark.parametrize("order", ["joint", "first", "second"])
@pytest.mark.parametrize("clip", [1e-2, 1e6, None])
def test_each_level_is_clipped_by_itself(order: str, clip: float | None) -> None:
    problem = Quadratic(clip=clip)
    theta, phi = problem.theta.detach(), problem.phi.detach().clone()
    down, up = problem.gradients(theta, phi, order)
    problem.step(order)
    found = (theta - problem.theta.detach()) / problem.xi, (phi - problem.phi.detach()) / UPPER_RATE
    for gradient, moved in zip((down, up), found, strict=True):
        length = min(float(gradient.norm()), clip or 1e9)
        torch.testing.assert_close(moved, gradient / gradient.norm() * length, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("clip", [10.0, None])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_nothing(wrong: float, clip: float | None) -> None:
    """Though its loss is: the step after the last one has no loss to tell by."""
    problem = Quadratic(clip=clip)
    before = problem.theta.detach()
    gradient = [torch.full_like(part, 1.0) for part in problem.parts]
    gradient[1][0] = wrong
    with pytest.raises(FloatingPointError, match="a gradient is not finite"):
        problem.lower.apply(gradient)
    assert torch.equal(problem.theta.detach(), before)


def test_rates_are_those_of_the_groups_now() -> None:
    problem = Quadratic()
    assert problem.lower.rates() == RATES
    problem.lower.optimizer.param_groups[1]["lr"] = 0.5
    assert problem.lower.rates() == (0.3, 0.5)


class Doubled(Team):
    """Two processes, of which the other one's gradients are three times ours."""

    def means(self, values: Sequence[Tensor]) -> list[Tensor]:
        return [2 * value for value in values]


def test_gradients_are_those_of_the_team() -> None:
    """Of both levels, and v: an implicit term has both factors."""
    problem = Quadratic()
    lower, upper = (replace(level, team=Doubled()) for level in (problem.lower, problem.upper))
    theta, phi = problem.theta.detach(), problem.phi.detach()
    down, _ = problem.gradients(theta, phi, "first")
    found = hypergradient(lower, upper, problem.lower_loss, problem.upper_loss)
    torch.testing.assert_close(torch.cat(found.lower), 2 * down)
    torch.testing.assert_close(found.direct[0], 2 * problem.b)
    v = theta - problem.xi * 2 * down - problem.c
    torch.testing.assert_close(found.implicit[0], 4 * problem.a.T @ (problem.xi * v))


def solved(order: Order) -> float:
    """Phi after steps on L1 = (theta - phi)^2 / 2, L2 = (theta - 3)^2 / 2: L2 knows phi through theta alone."""
    theta, phi = (nn.Parameter(torch.zeros(1, dtype=torch.float64)) for _ in range(2))
    lower = Level((theta,), torch.optim.SGD([theta], 0.5))
    upper = Level((phi,), torch.optim.SGD([phi], 0.5))
    for _ in range(60):
        bilevel_step(
            lower,
            upper,
            lambda: (theta - phi).square().sum() / 2,
            lambda: (theta - 3).square().sum() / 2,
            order=order,
        )
    return phi.item()


def test_only_the_second_order_solves_what_the_direct_term_does_not_show() -> None:
    assert solved("second") == pytest.approx(3, abs=1e-3)
    assert solved("first") == 0
