"""The training of a Mask2Former: parameter groups, learning rate, loop, checkpoint and resumption.

Everything random in a step (windows, order, loss points, dropped paths) follows from (seed, step), so on one CPU a
training that was killed ends in the same bits as one that was not. A team of processes shares the images of each step;
but for rounding (and dropped paths) its step is that of one process.
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import Mask2FormerForUniversalSegmentation

from pipeline.engine.stage import Metrics, Stopped, TrainContext
from students.criterion import mask2former_loss
from students.layers import freeze_batch_norm, predictions
from students.settings import LR_DROPS, Recipe
from teachers.checkpoint import Progress, load_checkpoint, save_checkpoint
from teachers.pool import Loader, threads
from teachers.targets import Batch

_NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
_UNDECAYED = ("relative_position_bias_table", "position_embeddings")
_POINTS = 2  # stream of random numbers, beside the loader's two


@dataclass(frozen=True)
class Training:
    """One training: `bf16` autocasts as `students.layers` says; `frozen` keeps the backbone's batch norms."""

    model: Mask2FormerForUniversalSegmentation
    recipe: Recipe
    bf16: bool
    frozen: bool

    def run(self, loader: Loader, context: TrainContext) -> Progress:
        """Trains from the checkpoint in `context.workdir`, or from the start, to the recipe's last step.

        Raises `Stopped` after a checkpoint if the context says so, `FloatingPointError` if the loss is not finite.
        """
        optimizer = make_optimizer(self.model, self.recipe)
        team = context.team
        recipe = _recipe_text(self.recipe, bf16=self.bf16, seed=loader.seed)
        progress = load_checkpoint(context.workdir, self.model, [optimizer], recipe=recipe)
        team.agree(progress.step, "step of the saved state")
        device = str(self.model.class_predictor.weight.device)
        before = progress.seconds
        began = time.monotonic()
        self.model.train()
        if self.frozen:
            freeze_batch_norm(self.model.model.pixel_level_module.encoder)
        batches = loader.batches(progress.step, self.recipe.steps, threads=threads())
        for batch in batches:
            progress.losses.append(self._step(optimizer, batch.to(device), progress.step, loader=loader))
            progress.seconds = before + time.monotonic() - began
            context.progress(progress.step, self.recipe.steps, f"loss {progress.losses[-1]:.2f}")
            stop = context.should_stop()
            if team.leads and (stop or progress.step % self.recipe.checkpoint_every == 0):
                save_checkpoint(context.workdir, self.model, [optimizer], progress=progress, recipe=recipe)
            if stop:
                batches.close()
                raise Stopped(f"stopped after step {progress.step} of {self.recipe.steps}")
        return progress

    def _step(self, optimizer: torch.optim.Optimizer, batch: Batch, step: int, *, loader: Loader) -> float:
        team, seed = loader.team, int(np.random.default_rng([loader.seed, _POINTS, step]).integers(2**63))
        torch.manual_seed(seed + team.rank)  # processes drop paths of their own
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(self.recipe, step)
        outputs = predictions(self.model, batch.pixels, bf16=self.bf16)
        if team.world > 1:
            torch.manual_seed(seed)  # the points are drawn for the images of all
        loss = mask2former_loss(outputs, batch, self.model.config, team=team)
        value = float(team.total(loss.detach())) / team.world
        if not math.isfinite(value):
            raise FloatingPointError(f"loss is {value} at step {step}; a lower learning rate may help")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        team.average_gradients(self.model.parameters())
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        optimizer.step()
        return value


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of a step (from 0), before the backbone's factor."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    if recipe.schedule == "drops":
        return recipe.lr * 0.1 ** sum(step >= drop for drop in drop_steps(recipe))
    done = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))


def drop_steps(recipe: Recipe) -> tuple[int, ...]:
    """The steps at which the learning rate falls to a tenth."""
    return tuple(round(recipe.steps * share) for share in LR_DROPS)


def make_optimizer(model: Mask2FormerForUniversalSegmentation, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; backbone and class head at rates of their own, no decay on norms, embeddings and position tables."""
    parts = (
        (model.model.pixel_level_module.encoder, recipe.backbone_lr),
        (model.class_predictor, recipe.head_lr),
    )
    part_of = {id(p): part for part, (module, _) in enumerate(parts) for p in module.parameters()}
    factors = [*(factor for _, factor in parts), 1.0]
    groups = []
    for part, factor in enumerate(factors):
        for decayed in (True, False):
            chosen = [
                p
                for p, decays in _decays(model)
                if decays is decayed and part_of.get(id(p), len(parts)) == part
            ]
            decay = recipe.weight_decay if decayed else 0.0
            groups.append({"params": chosen, "factor": factor, "weight_decay": decay})
    return torch.optim.AdamW(groups, lr=recipe.lr)


def write_losses(progress: Progress, out: Path) -> Metrics:
    """Writes `loss.json` (a list, one mean loss a step) and sums the training up in numbers."""
    (out / "loss.json").write_text(json.dumps([round(loss, 5) for loss in progress.losses]) + "\n")
    window = max(min(20, progress.step // 4), 1)
    return {
        "steps": progress.step,
        "loss_first": float(np.mean(progress.losses[:window])),
        "loss_last": float(np.mean(progress.losses[-window:])),
        "seconds": round(progress.seconds, 1),
    }


def _recipe_text(recipe: Recipe, *, bf16: bool, seed: int) -> str:
    """All that the bits of a training follow from; how often it is saved is not among it."""
    numbers = {name: value for name, value in asdict(recipe).items() if name != "checkpoint_every"}
    return json.dumps({**numbers, "bf16": bf16, "seed": seed}, sort_keys=True)


def _decays(model: nn.Module) -> Iterator[tuple[nn.Parameter, bool]]:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield parameter, not isinstance(module, (*_NORMS, nn.Embedding)) and name not in _UNDECAYED
