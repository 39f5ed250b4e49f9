"""The tuning loop of one head (Das et al. 2024, section 3.3): 5 * CE + 5 * dice on sampled points, AdamW, one lr drop.

Everything random is drawn from (seed, name, step), so a state is parameters, optimiser moments and the step; after a
kill the loop goes on from the last saved state and ends, on a CPU, with the same bits. A team of processes shares the
instances of each step; but for rounding its step is that of one process.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.data import masks
from pipeline.data.errors import BadInput
from pipeline.engine.context import Stopped
from pipeline.engine.states import last_state, save_state
from pipeline.engine.team import ALONE, Team
from teachers.class_texts import ClassTexts
from teachers.embedding_cache import EmbeddingCache
from teachers.heads import fill, trained_parameters
from teachers.losses import PointSampling, choose_points, point_sample, weighed
from teachers.sam.pixels import Frame
from teachers.sam.predictor import Ask, Head, SamPredictor
from teachers.sam.zoom import Zoom
from teachers.settings import ClassAwareSettings
from teachers.training_set import Target


@dataclass(frozen=True)
class Bench:
    """What all heads of one run are tuned with."""

    predictor: SamPredictor
    cache: EmbeddingCache
    texts: ClassTexts | None
    settings: ClassAwareSettings
    seed: int
    zoom: Zoom
    team: Team = ALONE


@dataclass(frozen=True)
class HeadTask:
    """One head to tune. `name` is unique within the run: its draws go by it."""

    name: str
    variant: str
    head: Head
    targets: tuple[Target, ...]
    bench: Bench

    def entropy(self, step: int) -> int:
        """A 63-bit seed for everything random in a step (negative: in a pass over the targets)."""
        digest = hashlib.sha256(f"{self.bench.seed}:{self.name}:{step}".encode()).digest()
        return int.from_bytes(digest[:8], "big") >> 1


class HeadTrainer:
    """One head's optimiser, losses so far and saved states (in `folder`, under the name of the variant)."""

    def __init__(self, task: HeadTask, folder: Path) -> None:
        self._task = task
        self._folder = folder
        self._parameters = trained_parameters(task.head)
        settings = task.bench.settings
        self._optimizer = torch.optim.AdamW(
            _groups(task.head, settings), weight_decay=settings.weight_decay, foreach=False
        )
        self.losses: list[float] = []
        state = last_state(folder, task.variant)
        if state is not None:
            self._resume(state)
        task.bench.team.agree(len(self.losses), "step of the saved state")

    def run(self, should_stop: Callable[[], bool], progress: Callable[[int], None]) -> None:
        """Train to the last step; raises Stopped, with the state saved, as soon as `should_stop()`."""
        settings = self._task.bench.settings
        while len(self.losses) < settings.steps:
            if should_stop():
                self._save()
                raise Stopped
            self.losses.append(self.step(len(self.losses)))
            done = len(self.losses)
            progress(done)
            if done % settings.checkpoint_every == 0 or done == settings.steps:
                self._save()

    def step(self, step: int) -> float:
        """Train one step; its loss. BadInput when that is not finite."""
        settings = self._task.bench.settings
        dropped = step >= settings.decay_step
        for group in self._optimizer.param_groups:
            group["lr"] = group["full_lr"] * (settings.decay if dropped else 1.0)
        loss = batch_loss(self._task, step)
        team = self._task.bench.team
        value = float(team.total(loss.detach())) / team.world
        if not math.isfinite(value):
            raise BadInput(f"{self._task.name}: the loss at step {step} is {value}; a lower lr may help")
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        team.average_gradients(self._parameters.values())
        self._optimizer.step()
        return value

    def _save(self) -> None:
        if not self._task.bench.team.leads:
            return
        state = {f"parameter/{name}": value.detach() for name, value in self._parameters.items()}
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state[parameter].items():
                state[f"{key}/{name}"] = value
        state["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        whole = {name: value.cpu().contiguous() for name, value in state.items()}
        save_state(self._folder, self._task.variant, len(self.losses), lambda path: save_file(whole, path))

    def _resume(self, saved_state: Path) -> None:
        state = load_file(saved_state)
        self.losses = state.pop("losses").tolist()
        saved: dict[str, dict[str, Tensor]] = {}
        for key, value in state.items():
            kind, name = key.split("/", 1)
            saved.setdefault(kind, {})[name] = value
        fill(self._parameters, saved.pop("parameter"))
        for name, parameter in self._parameters.items():
            moments = {kind: values[name] for kind, values in saved.items() if name in values}
            self._optimizer.state[parameter] = {
                # Trap: AdamW keeps its step count on the CPU whatever the device.
                kind: value if kind == "step" else value.to(parameter.device)
                for kind, value in moments.items()
            }


def _groups(head: Head, settings: ClassAwareSettings) -> list[dict[str, Any]]:
    """AdamW's groups: what is SAM's or a copy of it, and what the branch adds; each with its own `full_lr`."""
    added = {id(parameter) for parameter in head.branch.added()} if head.branch is not None else set()
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for parameter in trained_parameters(head).values():
        groups[id(parameter) in added].append(parameter)
    rates = {False: settings.lr, True: settings.branch_lr or settings.lr}
    return [{"params": own, "full_lr": rates[new]} for new, own in groups.items() if own]


def batch_targets(task: HeadTask, step: int) -> list[Target]:
    """The instances of a step: pass after pass over all targets, each in its own shuffled order."""
    size, count = task.bench.settings.batch_size, len(task.targets)
    positions = range(step * size, (step + 1) * size)
    orders = {
        epoch: np.random.default_rng(task.entropy(-1 - epoch)).permutation(count)
        for epoch in {position // count for position in positions}
    }
    return [task.targets[orders[position // count][position % count]] for position in positions]


def batch_loss(task: HeadTask, step: int) -> Tensor:
    """5 * CE + 5 * dice of a step's instances (of our share of them) on sampled points of the image area, their mean.

    What is random is drawn for all instances, whatever our share.
    """
    bench, targets = task.bench, batch_targets(task, step)
    rng = np.random.default_rng(task.entropy(step))
    own, count = bench.team.share(len(targets)), len(targets)
    jitter = bench.settings.box_jitter
    prompts = [target.prompt(task.variant, rng, jitter=jitter) for target in targets][own]
    targets = targets[own]
    parts = [target.part(task.variant, bench.zoom, jitter=jitter) for target in targets]
    shown = list(dict.fromkeys(parts))
    embeddings = bench.cache.gather(shown)
    asks = [
        Ask(
            shown.index(part),
            prompt,
            bench.texts.vector(target.class_id, target.phrase) if bench.texts else None,
        )
        for target, prompt, part in zip(targets, prompts, parts, strict=True)
    ]
    frames = [embeddings.frames[ask.image] for ask in asks]
    logits, _ = bench.predictor.forward(task.head, embeddings, asks)
    extent = torch.tensor([frame.extent for frame in frames])
    generator = torch.Generator().manual_seed(task.entropy(step))
    sampling = PointSampling(task.bench.settings.points)
    points = choose_points(logits.detach(), sampling, generator, extent=extent, drawn_for=count, own=own)
    labels = _labels(targets, frames, points.cpu() / extent[:, None, :]).to(logits.device)
    return weighed(point_sample(logits, points), labels)


def _labels(targets: list[Target], frames: list[Frame], points: Tensor) -> Tensor:
    """Human masks (N, P) at `points` (N, P, 2) in [0, 1] of what is seen of each image, at its original size."""
    rows = []
    for target, frame, own in zip(targets, frames, points, strict=True):
        seen = frame.seen.of(masks.decode(target.rle))
        mask = torch.from_numpy(np.ascontiguousarray(seen, np.float32))
        rows.append(point_sample(mask[None], own[None])[0])
    return torch.stack(rows)
