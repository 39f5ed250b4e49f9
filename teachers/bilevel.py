"""Bi-level optimisation: a lower level learns from one half of the data, an upper one from what that does to the other.

Legend: theta the lower parameters, phi the upper ones, L1 and L2 the losses on the halves D1 and D2, xi the learning
rate of the virtual lower step, theta' = theta - xi * dL1/dtheta. The upper level wants to lower L2(theta', phi):

    dL2(theta', phi)/dphi  -  xi * d2L1(theta, phi)/(dphi dtheta) . v,     v = dL2(theta', phi)/dtheta'

`first` order leaves the second term out (Liao et al. 2026, their default); `second` takes it by a central difference of
the upper gradient along v (Liu et al. 2019, eq. 8), over a step of the length `EPSILON` to either side, however long
v is. Of L1 the parts that do not depend on theta may be left out: they have no implicit term, and in the difference
they would leave nothing but their rounding. Gradients are asked for by name (`autograd.grad`), so that no level
leaves anything in the other's.

A loss is asked several times within a step at parameters that differ a little: whatever it draws or chooses
(augmentation, assignment, kept boxes, batch statistics) must be the same each time.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.engine.team import ALONE, Team

Order = Literal["first", "second"]
Loss = Callable[[], Tensor]
# The length of the difference's step; Liu et al. 2019 have 0.01, within which some of the decoder's ReLUs turn, so that
# the implicit term is wrong by 1 to 50 %. At a tenth of ours float32 rounds it away.
EPSILON = 3e-4
_NO_LENGTH = 1e-15


@dataclass(frozen=True)
class Level:
    """Parameters and what moves them; `clip`: largest norm of their gradient, None for any.

    In a `team` every gradient is the mean of those of all processes.
    """

    parameters: tuple[nn.Parameter, ...]
    optimizer: torch.optim.Optimizer
    clip: float | None = None
    team: Team = ALONE

    def gradient(self, loss: Tensor) -> tuple[Tensor, ...]:
        """Of a loss, zeros where it does not depend on a parameter."""
        found: Sequence[Tensor | None] = [None] * len(self.parameters)
        if loss.requires_grad:
            found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        own = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, found, strict=True)]
        return tuple(self.team.means(own))

    def apply(self, gradient: Sequence[Tensor]) -> None:
        """One step of the optimiser along a gradient, clipped; FloatingPointError for one that is not finite."""
        for parameter, value in zip(self.parameters, gradient, strict=True):
            parameter.grad = value.detach().clone()
        length = nn.utils.clip_grad_norm_(self.parameters, math.inf if self.clip is None else self.clip)
        if not math.isfinite(float(length)):
            raise FloatingPointError("a gradient is not finite; a lower learning rate may help")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def rates(self) -> tuple[float, ...]:
        """The learning rate of each parameter now."""
        by_id = {id(p): float(g["lr"]) for g in self.optimizer.param_groups for p in g["params"]}
        return tuple(by_id[id(p)] for p in self.parameters)


@dataclass(frozen=True)
class StepLosses:
    """L1 and L2 of a step, each at the parameters where it was first asked."""

    lower: float
    upper: float


@dataclass(frozen=True)
class Hypergradient:
    """The upper level's gradient in its two terms, beside the lower level's own at theta."""

    direct: tuple[Tensor, ...]
    implicit: tuple[Tensor, ...]
    lower: tuple[Tensor, ...]
    losses: StepLosses

    def total(self) -> tuple[Tensor, ...]:
        """What the upper level descends along."""
        return tuple(a + b for a, b in zip(self.direct, self.implicit, strict=True))


def joint_step(lower: Level, upper: Level, lower_loss: Loss, upper_loss: Loss) -> StepLosses:
    """Both levels on the mean of both losses: no bi-level optimisation, what it is compared with.

    The mean, where Liao et al. 2026 write the sum: so a step is as long as one of the other orders.
    """
    first, second = lower_loss(), upper_loss()
    both = replace(lower, parameters=(*lower.parameters, *upper.parameters))
    gradient = both.gradient((first + second) / 2)
    lower.apply(gradient[: len(lower.parameters)])
    upper.apply(gradient[len(lower.parameters) :])
    return StepLosses(float(first.detach()), float(second.detach()))


def bilevel_step(
    lower: Level, upper: Level, lower_loss: Loss, upper_loss: Loss, *, order: Order = "first"
) -> StepLosses:
    """One step of each level: the lower one on `lower_loss`, the upper one on `upper_loss` at what became of it.

    In `first` order the upper level sees the lower one's real step, in `second` a plain descent by its learning rates,
    which is not clipped: theta' has to be linear in the gradient for the implicit term to be that of theta'.
    """
    if order == "second":
        found = hypergradient(lower, upper, lower_loss, upper_loss)
        upper.apply(found.total())
        lower.apply(found.lower)
        return found.losses
    before = lower_loss()
    lower.apply(lower.gradient(before))
    after = upper_loss()
    upper.apply(upper.gradient(after))
    return StepLosses(float(before.detach()), float(after.detach()))


def hypergradient(
    lower: Level, upper: Level, lower_loss: Loss, upper_loss: Loss, *, epsilon: float = EPSILON
) -> Hypergradient:
    """The upper level's gradient to second order; both levels' parameters are as they were, to the bit, afterwards."""
    before = lower_loss()
    theta = lower.gradient(before)
    with _kept(lower.parameters):
        _move(lower.parameters, [-r * g for r, g in zip(lower.rates(), theta, strict=True)])
        after = upper_loss()
        both = replace(upper, parameters=(*upper.parameters, *lower.parameters)).gradient(after)
    direct, v = both[: len(upper.parameters)], both[len(upper.parameters) :]
    # With a rate for each parameter the vector that the Hessian is multiplied with is xi * v.
    along = [r * value for r, value in zip(lower.rates(), v, strict=True)]
    product = _along(lower.parameters, along, lambda: upper.gradient(lower_loss()), epsilon)
    return Hypergradient(
        direct,
        tuple(-value for value in product),
        theta,
        StepLosses(float(before.detach()), float(after.detach())),
    )


def _along(
    parameters: Sequence[nn.Parameter],
    direction: Sequence[Tensor],
    gradient: Callable[[], tuple[Tensor, ...]],
    epsilon: float,
) -> tuple[Tensor, ...]:
    """How a gradient changes along a direction: the central difference over `epsilon` to either side."""
    length = torch.sqrt(sum((value.double().square().sum() for value in direction), torch.zeros(())))
    share = epsilon / (float(length) + _NO_LENGTH)
    sides = []
    for sign in (1.0, -1.0):
        with _kept(parameters):
            _move(parameters, [sign * share * value for value in direction])
            sides.append(gradient())
    return tuple((up - down) / (2 * share) for up, down in zip(*sides, strict=True))


@torch.no_grad()
def _move(parameters: Sequence[nn.Parameter], by: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, by, strict=True):
        parameter.add_(value)


@contextmanager
def _kept(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Parameters may be moved inside and are copied back after it: what arithmetic brings back is not the same."""
    saved = [parameter.detach().clone() for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, saved, strict=True):
                parameter.copy_(value)
