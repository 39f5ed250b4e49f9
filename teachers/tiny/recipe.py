"""The one training loop of the tiny family: AdamW or Muon, warm-up and cosine, resumable, same seed, same bits.

Step `s` of a run with seed `r` seeds torch by (r, s), and the loss functions draw their samples from
`step_rng(r, s)`, so a run that was killed goes on from its checkpoint and, on one machine with the same number of
threads, ends in the same weights as one that was not. A working folder holds `checkpoint.safetensors` (weights,
moments, average; the JSON in its metadata holds step, seconds and settings, so that one rename commits both) and
`log.jsonl`, one line per `log_every` steps.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.data.errors import BadInput

LossFn = Callable[[int], Tensor | Mapping[str, Tensor]]
Json = str | int | float | bool | None | Sequence["Json"]
_NOTHING: Mapping[str, Json] = MappingProxyType({})
LEAST = 8  # inputs or outputs of a layer, up to which it is a head and Muon leaves it alone
_FREE = ("save_every", "log_every")  # may differ between a run and its resumption


@dataclass(frozen=True)
class Recipe:
    """Settings of one training: `warmup` in steps, `final` a share of `lr`, `ema` a decay per step or None.

    `restarts`: ascending steps at which warm-up and cosine begin anew (Loshchilov and Hutter 2017). Weight decay is
    for parameters of two or more dimensions only. `bf16`: the loss function under autocast. `muon`, if not 0: the
    weights of linear layers are moved by orthogonalised momentum (Jordan et al. 2024) of that many times AdamW's step
    size (Liu et al. 2025), all else by AdamW.
    """

    steps: int
    lr: float
    seed: int = 0
    warmup: int = 100
    restarts: tuple[int, ...] = ()
    final: float = 0.01
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    ema: float | None = None
    bf16: bool = False
    muon: float = 0.0
    save_every: int = 250
    log_every: int = 25


@dataclass(frozen=True)
class Trained:
    """What a training gave: the weights to keep (the average if there is one), its steps and seconds."""

    state: dict[str, Tensor]
    steps: int
    seconds: float

    def under(self, prefix: str) -> "Trained":
        """The weights of a part of the model alone, by their names in it."""
        return replace(self, state=_under(prefix, self.state))


def step_rng(seed: int, step: int, stream: int = 0) -> np.random.Generator:
    """The random numbers of one step and of nothing else; `stream` tells users within a step apart."""
    return np.random.default_rng([seed, step, stream])


def lr_at(recipe: Recipe, step: int) -> float:
    """Learning rate of a 0-based step: linear over `warmup` steps, then a half cosine to `final` x `lr`."""
    begin = max((start for start in recipe.restarts if start <= step), default=0)
    end = min((start for start in recipe.restarts if start > step), default=recipe.steps)
    if step - begin < recipe.warmup:
        return recipe.lr * (step - begin + 1) / recipe.warmup
    done = (step - begin - recipe.warmup) / max(1, end - begin - recipe.warmup)
    return recipe.lr * (recipe.final + (1 - recipe.final) * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    model: nn.Module, *, loss_fn: LossFn, recipe: Recipe, workdir: Path, data: Mapping[str, Json] = _NOTHING
) -> Trained:
    """Minimise `loss_fn(step)` (a scalar, or named parts that are summed and logged) and return the weights.

    Goes on from `workdir` if it holds a checkpoint. `BadInput` if that is of another recipe, or of other `data`:
    whatever else the losses follow from. `FloatingPointError` if the loss is no longer finite.
    """
    run = _Run(model, recipe, workdir, data)
    run.resume()
    model.train()
    while run.step < recipe.steps:
        run.advance(loss_fn)
    run.save()
    return Trained(run.average or _copy(model.state_dict()), run.step, run.seconds)


def _optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW and, if the recipe has it and there are such, Muon for the weights of linear layers."""
    linear = {
        id(m.weight) for m in model.modules() if isinstance(m, nn.Linear) and min(m.weight.shape) > LEAST
    }
    turned = linear if recipe.muon else set()
    trained = [p for p in model.parameters() if p.requires_grad]
    rest = [p for p in trained if id(p) not in turned]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": recipe.weight_decay, "factor": 1.0},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0, "factor": 1.0},
    ]
    adam = torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas)
    matrices = [p for p in trained if id(p) in turned]
    if not matrices:
        return [adam]
    muon = torch.optim.Muon(
        [{"params": matrices, "factor": recipe.muon}],
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adam, muon]


class _Run:
    """The state of one training: everything that a checkpoint holds."""

    def __init__(self, model: nn.Module, recipe: Recipe, workdir: Path, data: Mapping[str, Json]) -> None:
        self.model, self.recipe, self.workdir = model, recipe, workdir
        self.settings: dict[str, Json] = json.loads(json.dumps({**asdict(recipe), **data}))
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizers = _optimizers(model, recipe)
        self.average = _copy(model.state_dict()) if recipe.ema is not None else None
        self.device_type = next(iter(self.named.values())).device.type
        self.step, self.seconds = 0, 0.0
        self.sums: dict[str, tuple[float, int]] = {}  # of each part of the loss, and how many steps had it

    def advance(self, loss_fn: LossFn) -> None:
        """One step of the optimiser, and the log line or checkpoint that is due after it."""
        began = time.monotonic()
        rate = lr_at(self.recipe, self.step)
        for group in self._groups():
            group["lr"] = rate * group["factor"]
        torch.manual_seed(int(step_rng(self.recipe.seed, self.step, 1).integers(2**62)))
        with torch.autocast(self.device_type, torch.bfloat16, enabled=self.recipe.bf16):
            parts = loss_fn(self.step)
        named = {"loss": parts} if isinstance(parts, Tensor) else {**parts, "loss": sum_of(parts)}
        if not bool(torch.isfinite(named["loss"])):
            raise FloatingPointError(
                f"{self.workdir}: the loss is {named['loss'].item()} at step {self.step}"
            )
        self.model.zero_grad(set_to_none=True)
        torch.autograd.backward(named["loss"])
        nn.utils.clip_grad_norm_(self.named.values(), self.recipe.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        self._update_average()
        self.step += 1
        self.seconds += time.monotonic() - began
        self._account(named, rate)
        if self.step % self.recipe.save_every == 0:
            self.save()

    def _update_average(self) -> None:
        if self.average is None or self.recipe.ema is None:
            return
        # A young average follows the weights closely, so that it never remembers the random start.
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value.detach(), 1 - decay)
            else:
                self.average[name].copy_(value)

    def _account(self, named: Mapping[str, Tensor], rate: float) -> None:
        for name, value in named.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + float(value.detach()), count + 1
        if self.step % self.recipe.log_every:
            return
        means = {name: round(total / count, 5) for name, (total, count) in self.sums.items()}
        line = {"step": self.step, "seconds": round(self.seconds, 1), "lr": float(f"{rate:.3g}"), **means}
        with (self.workdir / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        self.sums = {}

    def save(self) -> None:
        """Write the checkpoint: all of it or nothing."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in (self.average or {}).items()}
        for name, parameter in self.named.items():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"optimizer.{key}.{name}"] = value
        state = {"step": self.step, "seconds": self.seconds, "sums": self.sums, "settings": self.settings}
        path = self.workdir / "checkpoint.safetensors"
        partial = path.with_suffix(f".{os.getpid()}.partial")
        self.workdir.mkdir(parents=True, exist_ok=True)
        save_file(_copy(tensors), partial, metadata={"state": json.dumps(state)})
        partial.replace(path)

    def resume(self) -> None:
        """Take up the checkpoint of the working folder, if there is one, and cut the log back to its step."""
        path = self.workdir / "checkpoint.safetensors"
        self.workdir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            with safe_open(path, framework="pt") as file:
                state = json.loads(file.metadata()["state"])
                self._check(path, state["settings"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            self._restore(tensors)
            self.step, self.seconds, self.sums = state["step"], state["seconds"], state["sums"]
        _cut_log(self.workdir / "log.jsonl", self.step)

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(_under("model.", tensors))
        if self.average is not None:
            for name, value in _under("average.", tensors).items():
                self.average[name].copy_(value)
        for key in ("step", "exp_avg", "exp_avg_sq", "momentum_buffer"):
            for name, value in _under(f"optimizer.{key}.", tensors).items():
                # Adam's own step counter stays on the CPU, the moments go where the parameter is.
                home = value.device if key == "step" else self.named[name].device
                self._optimizer_of(self.named[name]).state[self.named[name]][key] = value.to(home)

    def _groups(self) -> Iterator[dict[str, Any]]:
        for optimizer in self.optimizers:
            yield from optimizer.param_groups

    def _optimizer_of(self, parameter: nn.Parameter) -> torch.optim.Optimizer:
        return next(
            one
            for one in self.optimizers
            for g in one.param_groups
            if any(p is parameter for p in g["params"])
        )

    def _check(self, path: Path, saved: Mapping[str, object]) -> None:
        mine = self.settings
        keys = {*mine, *saved} - {*_FREE}
        differ = sorted(key for key in keys if mine.get(key) != saved.get(key))
        if differ:
            found = ", ".join(f"{key} {saved.get(key)} (now {mine.get(key)})" for key in differ)
            raise BadInput(f"{path}: made with other settings: {found}; use those or another --workdir")


def sum_of(parts: Mapping[str, Tensor]) -> Tensor:
    """The sum of named scalar losses. `BadInput` if there are none."""
    if not parts:
        raise BadInput("a loss function returned no parts")
    return torch.stack([value.float() for value in parts.values()]).sum()


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone().contiguous() for name, value in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _cut_log(path: Path, step: int) -> None:
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if _logged_step(line) <= step]
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _logged_step(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):
        return math.inf  # a line that a kill cut short
