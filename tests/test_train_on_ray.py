"""Teacher and student of a run, trained by two processes through Ray Train: the losses are those of one process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.engine.status import find_results

TWO = {"cpus": 0.5, "workers": [1, 2]}
CONFIG = {
    "name": "shared",
    "seed": 3,
    "data": {"source": "toyworld", "train": 8, "val": 2},
    "weak": "point+class",
    "masks": "all",
    "torch_threads": 1,
    "models": {
        "teacher": {"use": "class_aware_sam", "sam": "tiny", "text": "tiny", "batch_size": 4, "points": 64},
        "student": {"use": "mask2former", "variant": "tiny", "batch_size": 2},
    },
    "stages": [
        {"finetune_teacher": {"model": "teacher", "steps": 2, "resources": TWO}},
        {"train_student": {"model": "student", "steps": 2, "resources": TWO}},
    ],
}


def run(folder: Path, engine: str) -> tuple[dict[str, dict[str, object]], str]:
    """The losses and the metrics of each training; what the command told."""
    folder.mkdir()
    config = folder / "stages.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    command = [sys.executable, "-m", "pipeline.cli", "run", str(config), f"--engine={engine}"]
    command += ["--out=run", "--store=store"]
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    found = {}
    for name in ("finetune_teacher", "train_student"):
        (artifact,) = find_results(folder / "run", name).values()
        about = json.loads((artifact / "artifact.json").read_text())
        losses = json.loads((artifact / "loss.json").read_text())
        found[name] = {"world": about["world"], "losses": losses, "told": about["metrics"].get("world")}
    return found, done.stderr


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    alone, told = run(tmp_path / "alone", "local")
    assert told.count("resources: workers are for --engine=ray; here one process does it") == 2
    shared, told = run(tmp_path / "shared", "ray")
    assert told.count("the work of 2 processes") == 2
    for name, found in shared.items():
        assert (alone[name]["world"], alone[name]["told"]) == (1, None)
        assert (found["world"], found["told"]) == (2, 2)
    for variant, losses in alone["finetune_teacher"]["losses"]["."].items():  # type: ignore[index]
        assert shared["finetune_teacher"]["losses"]["."][variant] == pytest.approx(losses, rel=1e-3)  # type: ignore[index]
    first = alone["train_student"]["losses"]
    assert shared["train_student"]["losses"] == pytest.approx(first, rel=1e-2)
