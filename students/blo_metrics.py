"""What a training of BLO-Inst says of itself: `loss.json`, numbers, and a warning where nothing was aligned."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.engine.stage import Metrics
from students.blo_data import Halves
from students.blo_judge import Judged
from students.blo_settings import BloInstSettings
from students.blo_trainer import Pair, Phase
from students.checkpoint import Progress


def write_losses(phases: Sequence[Phase], done: Sequence[Progress], out: Path) -> Metrics:
    """Writes `loss.json` and sums the training up in numbers.

    The file has for each phase `loss`, one a step, and `loss_of_sam`, of SAM's half, if the phase has such. `seconds`
    and `core_seconds` are those of the steps: what is judged between them does not count.
    """
    told = {
        phase.name: {"loss": _rounded(own.losses)}
        | ({"loss_of_sam": _rounded(own.lower)} if own.lower else {})
        for phase, own in zip(phases, done, strict=True)
    }
    (out / "loss.json").write_text(json.dumps(told) + "\n")
    last = done[-1]
    return {
        "steps": sum(progress.step for progress in done),
        **_ends("loss", last.losses),
        **(_ends("loss_of_sam", last.lower) if last.lower else {}),
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


def counts(pair: Pair, split: Halves) -> Metrics:
    """Images and parameters of both parts, and the epoch whose weights were kept."""
    return {
        "images_of_sam": len(split.lower),
        "images_of_detector": len(split.upper),
        "parameters_of_sam": sum(p.numel() for p in pair.sam.trained().values()),
        "parameters_of_detector": sum(p.numel() for p in pair.detector.parameters()),
        "best_epoch": int(pair.best_epoch),
    }


def worth(of_sam: Judged, of_detector: Judged) -> Metrics:
    """What was judged of both halves; `surest`: the highest score of all that the detector said of them."""
    return {
        "missed_of_sam": of_sam.missed,
        "missed_of_detector": of_detector.missed,
        "found_of_sam": of_sam.found,
        "found_of_detector": of_detector.found,
        "surest": max(of_sam.surest, of_detector.surest),
    }


def warning_of(settings: BloInstSettings, numbers: Metrics) -> Metrics:
    """What a run should tell its user if the two parts had nothing to do with each other, else nothing."""
    if numbers["best_epoch"] != -1 or not settings.aligns:
        return {}
    surest = float(numbers["surest"] or 0)
    why = (
        f"its highest score is {surest:.3f}, and `confidence` {settings.confidence:g}"
        if surest <= settings.confidence
        else f"none of its boxes overlaps one of its class by half, though its highest score is {surest:.3f}"
    )
    said = (
        f"the detector found no object of its half at any epoch, so nothing was aligned: {why}; "
        "more pretrain_epochs, better detector_weights or a lower `confidence` may help"
    )
    return {"warning": said}
