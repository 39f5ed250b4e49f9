"""What BLO-Inst leaves of a detector, without a training: random weights in an artifact's folder."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipeline.data.records import Category
from teachers.detectors import DETECTORS
from teachers.fitted_detector import FACTS, WEIGHTS, DetectorFacts


def fitted_detector(folder: Path, categories: Sequence[Category], *, seed: int = 0) -> Path:
    """A tiny FCOS of these classes beside something of SAM's; the folder that a config names."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = DETECTORS["fcos_tiny"].build(len(categories), focal=True)
    state = {f"detector.{name}": value.contiguous() for name, value in network.state_dict().items()}
    facts = DetectorFacts(detector="fcos_tiny", side=256, categories=tuple(categories), sam_sha256="0" * 64)
    folder.mkdir()
    save_file({**state, "sam.position": torch.ones(3)}, folder / WEIGHTS, {FACTS: facts.model_dump_json()})
    return folder
