"""The training loop of BLO-Inst's phases, and what a phase is.

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

from pipeline.engine.stage import Stopped, TrainContext
from students.blo_objective import AlignedSam
from students.checkpoint import Progress, load_checkpoint, save_checkpoint
from teachers.detector import DetectorNetwork


class Pair(nn.Module):
    """A detector and SAM's part, and what they were at the best epoch so far."""

    best_loss: Tensor
    best_epoch: Tensor

    def __init__(self, detector: DetectorNetwork, sam: AlignedSam) -> None:
        super().__init__()
        self.detector, self.sam = detector, sam
        self.best_detector = deepcopy(detector).requires_grad_(False)
        self.best_sam = deepcopy(sam).requires_grad_(False)
        self.register_buffer("best_loss", torch.tensor(math.inf, dtype=torch.float64))
        self.register_buffer("best_epoch", torch.tensor(-1))

    def note(self, loss: float, epoch: int) -> None:
        """Keep the weights as they are now if no epoch before had as low a loss."""
        if loss < float(self.best_loss):
            self.best_detector.load_state_dict(self.detector.state_dict())
            self.best_sam.load_state_dict(self.sam.state_dict())
            self.best_loss.fill_(loss)
            self.best_epoch.fill_(epoch)

    def take_best(self) -> None:
        """Go back to the best epoch, if any was judged."""
        if int(self.best_epoch) >= 0:
            self.detector.load_state_dict(self.best_detector.state_dict())
            self.sam.load_state_dict(self.best_sam.state_dict())


class Watch(Protocol):
    """Hears of each batch that is judged: how many of the images are; may end it by `Stopped`."""

    def __call__(self, done: int, whole: int) -> None: ...


@dataclass(frozen=True)
class Phase:
    """`steps` times `step(batch)`, which returns losses, on what `draw(first, last)` gives for those steps.

    The losses are one, or the upper level's and the lower level's. `rate(step)`: share of the optimisers' learning
    rates. Before each epoch of `epoch` steps and after the last one `judge(number of the epoch, watch)` says whether to
    go on.
    """

    name: str
    steps: int
    optimizers: Sequence[torch.optim.Optimizer]
    draw: Callable[[int, int], Iterator[Any]]
    step: Callable[[Any], tuple[float, ...]]
    rate: Callable[[int], float]
    epoch: int
    judge: Callable[[int, Watch], bool] = lambda *_: True


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
    phases: Sequence[Phase], pair: Pair, context: TrainContext, *, recipe: str, every: int
) -> list[Progress]:
    """Run one after the other, each from its last state to its end, saving one `every` so many steps.

    `Stopped` after a state was saved if the context asks for it, while it is judged too; `FloatingPointError` if a loss
    or gradient is not finite.
    """
    whole, before, found = sum(phase.steps for phase in phases), 0, []
    for phase in phases:

        def tell(step: int, note: str, before: int = before) -> None:
            context.progress(before + step, whole, note)

        found.append(_Run(phase, pair, context, tell, recipe, every).run())
        before += phase.steps
    return found


@dataclass(frozen=True)
class _Run:
    """One phase; `tell(step, note)` is how far it is."""

    phase: Phase
    pair: Pair
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
        progress = load_checkpoint(self.folder, self.pair, phase.optimizers, recipe=self.recipe)
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
        of_sam = f", of SAM's half {lower[0]:.3f}" if lower else ""
        self.tell(progress.step, f"loss {loss:.3f}{of_sam}")

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
                self.folder, self.pair, self.phase.optimizers, progress=progress, recipe=self.recipe
            )

    def _stopped(self, progress: Progress) -> Stopped:
        return Stopped(f"stopped after step {progress.step} of {self.phase.steps} of {self.phase.name}")


def _groups(optimizers: Sequence[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    return [group for optimizer in optimizers for group in optimizer.param_groups]
