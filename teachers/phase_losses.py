"""What a training in phases says of its losses: `loss.json` and numbers."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.engine.context import Metrics
from teachers.checkpoint import Progress
from teachers.phases import Phase


def write_losses(phases: Sequence[Phase], done: Sequence[Progress], out: Path, *, lower: str) -> Metrics:
    """Writes `loss.json` and sums the training up in numbers.

    The file has for each phase `loss`, one a step, and under the name `lower` the lower level's, if the phase has such.
    `seconds` and `core_seconds` are those of the steps: what is judged between them does not count.
    """
    told = {
        phase.name: {"loss": _rounded(own.losses)} | ({lower: _rounded(own.lower)} if own.lower else {})
        for phase, own in zip(phases, done, strict=True)
    }
    (out / "loss.json").write_text(json.dumps(told) + "\n")
    last = done[-1]
    return {
        "steps": sum(progress.step for progress in done),
        **_ends("loss", last.losses),
        **(_ends(lower, last.lower) if last.lower else {}),
        "seconds": round(sum(progress.seconds for progress in done), 1),
        "core_seconds": round(sum(progress.core_seconds for progress in done), 1),
    }


def _rounded(losses: Sequence[float]) -> list[float]:
    return [round(loss, 5) for loss in losses]


def _ends(name: str, losses: Sequence[float]) -> Metrics:
    """The means of the first and the last steps."""
    window = max(min(20, len(losses) // 4), 1)
    first, last = (_rounded(losses[part]) for part in (slice(window), slice(-window, None)))
    return {f"{name}_first": float(np.mean(first)), f"{name}_last": float(np.mean(last))}
