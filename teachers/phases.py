"""The training loop of networks that learn in phases, what a phase is, and how the best epoch is kept.

Each phase keeps its states in a folder of its own and begins with the weights that the phase before ended with, so that
a training goes on in the phase where it was killed. Everything random in a step follows from (seed, step).
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.engine.context import Stopped, TrainContext
from pipeline.engine.team import Team
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


class Watch(Protocol):
    """Hears of each batch that is judged: how many of the images are; may end it by `Stopped`."""

    def __call__(self, done: int, whole: int) -> None: ...


def watching(context: TrainContext, what: str) -> Watch:
    """Shows how far something is, as `judging D2`, and ends it if the context asks for a stop."""

    def watch(done: int, whole: int) -> None:
        context.progress(done, whole, what)
        if context.should_stop():
            raise Stopped(f"stopped while {what}")

    return watch


@dataclass(frozen=True)
class Phase:
    """`steps` times `step(batch)`, which returns losses, on what `draw(first, last)` gives for those steps.

    The losses are one, or the upper level's and the lower level's, of what is called `lower`. `rate(step)`: share of
    the optimisers' learning rates. Before each epoch of `epoch` steps and after the last one
    `judge(number of the epoch, watch)` says whether to go on.
    """

    name: str
    steps: int
    optimizers: Sequence[torch.optim.Optimizer]
    draw: Callable[[int, int], Iterator[Any]]
    step: Callable[[Any], tuple[float, ...]]
    rate: Callable[[int], float]
    epoch: int
    judge: Callable[[int, Watch], bool] = lambda *_: True
    lower: str = "the lower level"


class Clock:
    """Adds what steps take to a progress, by the clock and by this process's cores; what lies between is left out."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.skip()

    def skip(self) -> None:
        """Leave out what was since it was last asked."""
        self._wall, self._core = time.monotonic(), time.process_time()

    def count(self) -> None:
        """Add what was since it was last asked."""
        self._progress.seconds += time.monotonic() - self._wall
        self._progress.core_seconds += time.process_time() - self._core
        self.skip()


def run_phases(
    phases: Sequence[Phase], network: nn.Module, context: TrainContext, *, recipe: str, every: int
) -> list[Progress]:
    """Run one after the other, each from its last state to its end, saving one `every` so many steps.

    `Stopped` after a state was saved if the context asks for it, while it is judged too; `FloatingPointError` if a loss
    or gradient is not finite.
    """
    whole, before, found = sum(phase.steps for phase in phases), 0, []
    for phase in phases:

        def tell(step: int, note: str, before: int = before) -> None:
            context.progress(before + step, whole, note)

        found.append(_Run(phase, network, context, tell, recipe, every).run())
        before += phase.steps
    return found


@dataclass(frozen=True)
class _Run:
    """One phase; `tell(step, note)` is how far it is."""

    phase: Phase
    network: nn.Module
    context: TrainContext
    tell: Callable[[int, str], None]
    recipe: str
    every: int

    @property
    def folder(self) -> Path:
        return self.context.workdir / self.phase.name

    def run(self) -> Progress:
        phase = self.phase
        self.folder.mkdir(exist_ok=True)
        rates = [group["lr"] for group in _groups(phase.optimizers)]
        progress = load_checkpoint(self.folder, self.network, phase.optimizers, recipe=self.recipe)
        self.context.team.agree(progress.step, "step of the saved state")
        loaded, clock = progress.step, Clock(progress)
        for batch in phase.draw(progress.step, phase.steps):
            epoch, place = divmod(progress.step, phase.epoch)
            if place == 0 and not self._judged(epoch, progress, clock, loaded):
                break
            for group, full in zip(_groups(phase.optimizers), rates, strict=True):
                group["lr"] = full * phase.rate(progress.step)
            self._step(batch, progress)
            clock.count()
            stop = self.context.should_stop()
            if stop or progress.step % self.every == 0:
                self._save(progress)
            if stop:
                raise self._stopped(progress)
        else:
            self._judged(-(-phase.steps // phase.epoch), progress, clock, loaded)
        if progress.step > loaded or not loaded:
            self._save(progress)
        return progress

    def _step(self, batch: Any, progress: Progress) -> None:
        name = self.phase.name
        try:
            loss, *lower = self.phase.step(batch)
        except FloatingPointError as error:
            raise FloatingPointError(f"{name}: step {progress.step}: {error}") from error
        for value in (loss, *lower):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name}: loss is {value} at step {progress.step}; a lower learning rate may help"
                )
        progress.losses.append(loss)
        progress.lower.extend(lower)
        of_lower = f", of {self.phase.lower} {lower[0]:.3f}" if lower else ""
        self.tell(progress.step, f"loss {loss:.3f}{of_lower}")

    def _judged(self, epoch: int, progress: Progress, clock: Clock, loaded: int) -> bool:
        """What a phase's judge says; a stop meanwhile leaves a state, and an epoch that is judged anew."""

        def watch(done: int, whole: int) -> None:
            self.tell(progress.step, f"judging, {done} of {whole} images")
            if self.context.should_stop():
                if progress.step > loaded:
                    self._save(progress)
                raise self._stopped(progress)

        clock.count()
        goes_on = self.phase.judge(epoch, watch)
        clock.skip()
        return goes_on

    def _save(self, progress: Progress) -> None:
        if self.context.team.leads:
            save_checkpoint(
                self.folder, self.network, self.phase.optimizers, progress=progress, recipe=self.recipe
            )

    def _stopped(self, progress: Progress) -> Stopped:
        return Stopped(f"stopped after step {progress.step} of {self.phase.steps} of {self.phase.name}")


def mean_loss(loss: Tensor, team: Team) -> float:
    """That of all processes."""
    return float(team.total(loss.detach())) / team.world


def _groups(optimizers: Sequence[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]
