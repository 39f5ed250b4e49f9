"""Batch norms that learn, in a team of processes: their statistics are those of the images of all.

torch's own SyncBatchNorm works on GPUs only. B images, C channels.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.engine.team import Team


def share_batch_norms(model: nn.Module, team: Team) -> None:
    """Replace every batch norm of a model by one with statistics of the whole team; names and numbers stay."""
    if team.world == 1:
        return
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                shared = SharedBatchNorm(child.num_features, child.eps, child.momentum, team=team)
                shared.load_state_dict(child.state_dict())
                setattr(parent, name, shared)


class SharedBatchNorm(nn.BatchNorm2d):
    """Normalises by mean and variance over the images of all processes, which have equally many."""

    def __init__(self, features: int, eps: float, momentum: float | None, *, team: Team) -> None:
        super().__init__(features, eps, momentum)
        self._team = team

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        values = input.float()
        count = values.numel() // values.shape[1] * self._team.world
        mean = _Total.apply(values.sum((0, 2, 3)), self._team) / count
        away = values - mean[:, None, None]
        variance = _Total.apply(away.square().sum((0, 2, 3)), self._team) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, rate)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), rate)
        scale: Tensor = self.weight * torch.rsqrt(variance + self.eps)
        normal: Tensor = away * scale[:, None, None] + self.bias[:, None, None]
        return normal.to(input.dtype)


class _Total(torch.autograd.Function):
    """Sum over the team, through which gradients pass: each process's input is part of the output of all."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, team: Team) -> Tensor:
        ctx.team = team
        return team.total(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        team: Team = ctx.team
        return team.total(gradient), None
