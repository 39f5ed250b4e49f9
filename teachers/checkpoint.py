"""The state of a training as one safetensors file: weights, moments, and the step and losses in its metadata."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.data.errors import BadInput
from pipeline.engine.states import last_state, save_state

CHECKPOINT = "training"  # name of the states
_MODEL, _OPTIMIZER = "model.", "optimizer."


@dataclass
class Progress:
    """`losses` of all steps done so far and the `seconds` they took, over all resumptions.

    `lower`: of steps that have two losses, that of the lower level. `core_seconds`: what the steps took of this
    process's cores, all its threads together.
    """

    losses: list[float]
    seconds: float = 0.0
    lower: list[float] = field(default_factory=list)
    core_seconds: float = 0.0

    @property
    def step(self) -> int:
        return len(self.losses)


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    progress: Progress,
    recipe: str,
) -> None:
    """Saves a state; `recipe` is any text that must be the same at resumption."""
    tensors = {_MODEL + name: tensor for name, tensor in model.state_dict().items()}
    for place, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            prefix = f"{_OPTIMIZER}{place}.{index}."
            tensors |= {prefix + name: value for name, value in state.items() if value is not None}
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata = {
        "losses": json.dumps(progress.losses),
        "lower": json.dumps(progress.lower),
        "seconds": repr(progress.seconds),
        "core_seconds": repr(progress.core_seconds),
        "recipe": recipe,
    }
    save_state(folder, CHECKPOINT, progress.step, lambda path: save_file(whole, path, metadata))


def load_checkpoint(
    folder: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], *, recipe: str
) -> Progress:
    """Puts the last whole state back; nothing done yet if there is none. `BadInput` if it is of another recipe."""
    path = last_state(folder, CHECKPOINT)
    if path is None:
        return Progress([])
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        if metadata["recipe"] != recipe:
            raise BadInput(f"{path}: checkpoint is of recipe {metadata['recipe']}, this training is {recipe}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    model.load_state_dict({n.removeprefix(_MODEL): t for n, t in tensors.items() if n.startswith(_MODEL)})
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for name, tensor in tensors.items():
        if name.startswith(_OPTIMIZER):
            place, index, key = name.removeprefix(_OPTIMIZER).split(".")
            states[int(place)].setdefault(int(index), {})[key] = tensor
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return Progress(
        json.loads(metadata["losses"]),
        float(metadata["seconds"]),
        json.loads(metadata.get("lower", "[]")),  # a state of before they were counted has neither
        float(metadata.get("core_seconds", 0.0)),
    )
