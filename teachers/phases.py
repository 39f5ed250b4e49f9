"""The training loop of networks that learn in phases, what a phase is, and how the best epoch is kept.

Each phase keeps its states in a folder of its own and begins with the weights that the phase before ended with, so that
a training goes on in the phase where it was killed. Everything random in a step follows from (seed, step).
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.engine.context import Stopped, TrainContext
from teachers.checkpoint import Progress, load_checkpoint, save_checkpoint


class BestKept(nn.Module):
    """Networks by name, and as `best_<name>` what they were at the best epoch so far."""

    best_loss: Tensor
    best_epoch: Tensor

    def __init__(self, **networks: nn.Module) -> None:
        super().__init__()
        self._networks = tuple(networks)
        for name, network in networks.items():
            self.add_module(name, network)
            self.add_module(f"best_{name}", deepcopy(network).requires_grad_(False))
        self.register_buffer("best_loss", torch.tensor(math.inf, dtype=torch.float64))
        self.register_buffer("best_epoch", torch.tensor(-1))

    def note(self, loss: float, epoch: int) -> None:
        """Keep the weights as they are now if no epoch before had as low a loss."""
        if loss < float(self.best_loss):
            for name in self._networks:
                _copy(self.get_submodule(name), self.get_submodule(f"best_{name}"))
            self.best_loss.fill_(loss)
            self.best_epoch.fill_(epoch)

    def take_best(self) -> None:
        """Go back to the best epoch, if any was judged."""
        if int(self.best_epoch) >= 0:
            for name in self._networks:
                _copy(self.get_submodule(f"best_{name}"), self.get_submodule(name))


def _copy(source: nn.Module, target: nn.Module) -> None:
    target.load_state_dict(source.state_dict())


@dataclass(frozen=True)
class Phase:
    """`steps` times `step(batch)`, which returns a loss, on what `draw(first, last)` gives for those steps.

    `rate(step)`: share of the optimisers' learning rates. Before each epoch of `epoch` steps and after the last one
    `judge(number of the epoch)` says whether to go on.
    """

    name: str
    steps: int
    optimizers: Sequence[torch.optim.Optimizer]
    draw: Callable[[int, int], Iterator[Any]]
    step: Callable[[Any], float]
    rate: Callable[[int], float]
    epoch: int
    judge: Callable[[int], bool] = lambda _: True


def run_phases(
    phases: Sequence[Phase], network: nn.Module, context: TrainContext, *, recipe: str, every: int
) -> list[Progress]:
    """Run one after the other, each from its last state to its end, saving one `every` so many steps.

    `Stopped` after a state was saved if the context asks for it, `FloatingPointError` if a loss or gradient is not
    finite.
    """
    whole, before, found = sum(phase.steps for phase in phases), 0, []
    for phase in phases:

        def show(progress: Progress, before: int = before) -> None:
            context.progress(before + progress.step, whole, f"loss {progress.losses[-1]:.3f}")

        found.append(_run(phase, network, context, show, recipe=recipe, every=every))
        before += phase.steps
    return found


def _run(
    phase: Phase,
    network: nn.Module,
    context: TrainContext,
    show: Callable[[Progress], None],
    *,
    recipe: str,
    every: int,
) -> Progress:
    folder, team = context.workdir / phase.name, context.team
    folder.mkdir(exist_ok=True)
    rates = [group["lr"] for group in _groups(phase.optimizers)]
    progress = load_checkpoint(folder, network, phase.optimizers, recipe=recipe)
    team.agree(progress.step, "step of the saved state")
    before, began, loaded = progress.seconds, time.monotonic(), progress.step

    def save() -> None:
        progress.seconds = before + time.monotonic() - began
        if team.leads:
            save_checkpoint(folder, network, phase.optimizers, progress=progress, recipe=recipe)

    for batch in phase.draw(progress.step, phase.steps):
        epoch, place = divmod(progress.step, phase.epoch)
        if place == 0 and not phase.judge(epoch):
            break
        for group, full in zip(_groups(phase.optimizers), rates, strict=True):
            group["lr"] = full * phase.rate(progress.step)
        try:
            loss = phase.step(batch)
        except FloatingPointError as error:
            raise FloatingPointError(f"{phase.name}: step {progress.step}: {error}") from error
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"{phase.name}: loss is {loss} at step {progress.step}; a lower learning rate may help"
            )
        progress.losses.append(loss)
        show(progress)
        stop = context.should_stop()
        if stop or progress.step % every == 0:
            save()
        if stop:
            raise Stopped(f"stopped after step {progress.step} of {phase.steps} of {phase.name}")
    else:
        phase.judge(-(-phase.steps // phase.epoch))
    if progress.step > loaded or not loaded:
        save()
    return progress


def _groups(optimizers: Sequence[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]
