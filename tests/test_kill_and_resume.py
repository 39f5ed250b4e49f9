"""Kill -9 in the middle of every stage of a whole run, go on, and end with the bytes of a run left alone.

The bytes are those of the export and of what was trained, whatever the engine. A training is killed as soon as it has
saved a state, and goes on from that one; BLO-Inst in the phase in which both of its levels learn, with a detector that
finds what SAM's part can learn from; AM-SAM in its second round, behind the detector's tuning and the first round.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import yaml
from finder import write_finder

from pipeline.engine.artifact import MANIFEST
from pipeline.engine.status import find_results
from students.mask2former import WEIGHTS
from teachers.checkpoint import CHECKPOINT

CONFIG = {
    "name": "killed",
    "seed": 3,
    "data": {"source": "toyworld", "train": 12, "val": 2},
    "weak": "point+class",
    "masks": "20%",
    "torch_threads": 1,
    "models": {
        "teacher": {
            "use": "class_aware_sam",
            "sam": "tiny",
            "text": "tiny",
            "batch_size": 4,
            "points": 256,
            "checkpoint_every": 2,
        },
        "proposer": {"use": "tiny_grounder"},
        "student": {"use": "mask2former", "variant": "tiny", "checkpoint_every": 1},
        "aligned": {
            "use": "blo_inst",
            "detector_weights": "detector.safetensors",
            "pretrain_epochs": 1,
            "pretrain_lr": 1e-5,
            "confidence": 0.1,
            "batch_size": 2,
            "checkpoint_every": 1,
        },
    },
    "stages": [
        {"finetune_teacher": {"model": "teacher", "steps": 5}},
        {"gate": {"model": "teacher"}},
        {"propose": {"model": "proposer", "unit_size": 4}},
        {"pseudo_label": {"model": "teacher", "unit_size": 4}},
        {"calibrate": {"model": "teacher", "proposer": "proposer"}},
        {"filter": {"unit_size": 4}},
        {"export": {}},
        {"train_student": {"model": "student", "steps": 8}},
        {"train_student": {"model": "aligned", "steps": 4}},
        {"evaluate": {}},
        {"cost": {}},
        {"report": {}},
    ],
}
TRAINED = ("student", "aligned")
FEW_SHOTS = {
    "name": "few-shots",
    "seed": 3,
    "data": {"source": "toyworld", "train": 12, "val": 2},
    "weak": "none",
    "shots": 4,
    "torch_threads": 1,
    "models": {
        "teacher": {
            "use": "am_sam",
            "detector_weights": "detector.safetensors",
            "detector_epochs": 1,
            "detector_lr": 1e-5,
            "score": 0.1,
            "self_training": 0.5,
            "checkpoint_every": 1,
        }
    },
    "stages": [
        {"finetune_teacher": {"model": "teacher", "steps": 4}},
        {"pseudo_label": {"model": "teacher", "unit_size": 4}},
        {"filter": {"unit_size": 4}},
        {"export": {}},
        {"evaluate": {}},
        {"report": {}},
    ],
}
FIRST = re.compile(r"^([\w.:-]+): \d+ units, ")
LAST = re.compile(r"^([\w.:-]+): done, \d+ units, ([\d.]+) s")
REPORT_BYTES = 10_000_000  # what the page of the demo may have at most
LONG = 1.0  # seconds; a shorter stage may end before the kill lands
PATIENCE = 120.0  # seconds


@dataclass(frozen=True)
class Plan:
    """A run's config, names of its trainings' saved states in their work folders, and files that tunings leave."""

    config: Mapping[str, object]
    states: Mapping[str, str]
    tuned: tuple[str, ...] = field(default=())

    @property
    def stages(self) -> tuple[str, ...]:
        names = (
            f"{name}:{settings['model']}" if name == "train_student" else name
            for stage in self.config["stages"]  # type: ignore[attr-defined]
            for name, settings in stage.items()
        )
        return ("ingest", *names)


OMNI = Plan(
    CONFIG,
    {
        "finetune_teacher": "*-*.safetensors",
        "train_student:student": f"{CHECKPOINT}-*.safetensors",
        "train_student:aligned": f"aligned/{CHECKPOINT}-*.safetensors",  # of the phase of both levels
    },
)
FEW = Plan(
    FEW_SHOTS,
    {"finetune_teacher": f"again/again/{CHECKPOINT}-*.safetensors"},
    ("model.safetensors", "teacher.json", "loss.json", "dice.json", "boxes.json"),
)


def start(plan: Plan, folder: Path, engine: str) -> subprocess.Popen[str]:
    config = folder / "stages.yaml"
    config.write_text(yaml.safe_dump(plan.config, sort_keys=False))
    command = [sys.executable, "-m", "pipeline.cli", "run", str(config), "--out", "run", "--store", "store"]
    command.append(f"--engine={engine}")
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)


def finish(plan: Plan, folder: Path, engine: str) -> dict[str, float]:
    """Let a run end by itself; seconds of each stage it did."""
    process = start(plan, folder, engine)
    _, told = process.communicate()
    assert process.returncode == 0, told
    ends = (LAST.match(line) for line in told.splitlines())
    return {match[1]: float(match[2]) for match in ends if match}


def kill_within(plan: Plan, folder: Path, engine: str, stage: str, wait: Callable[[], None]) -> bool:
    """Run until `stage` begins and `wait` is over, kill the driver; whether the stage was still at work."""
    process = start(plan, folder, engine)
    assert process.stderr is not None
    told = []
    for line in process.stderr:
        told.append(line)
        begun = FIRST.match(line)
        if begun and begun[1] == stage:
            wait()
            os.kill(process.pid, signal.SIGKILL)
            break
    rest = process.stderr.read()
    process.wait()
    assert process.returncode == -signal.SIGKILL, "".join(told) + rest
    return f"{stage}: done" not in rest


def has_state(plan: Plan, folder: Path, stage: str) -> bool:
    """Whether a training has saved a state that is still there."""
    return any((folder / "store" / "work").rglob(plan.states[stage]))


def wait_for_state(plan: Plan, folder: Path, stage: str) -> None:
    """Until a training has saved a state."""
    end = time.monotonic() + PATIENCE
    while not has_state(plan, folder, stage):
        assert time.monotonic() < end, f"{stage} saved no state"
        time.sleep(0.01)


def contents(plan: Plan, folder: Path) -> dict[str, bytes]:
    """What a run leaves: its export's files, the weights of what was trained, and the loss of each of its steps."""
    exported = folder / "run" / "export"
    found = {str(p.relative_to(exported)): p.read_bytes() for p in sorted(exported.rglob("*")) if p.is_file()}
    trained = find_results(folder / "run", "train_student")
    assert len(trained) == sum(stage.startswith("train_student") for stage in plan.stages)
    left = [(path, (WEIGHTS, "loss.json")) for path in trained.values()]
    left += [(path, plan.tuned) for path in find_results(folder / "run", "finetune_teacher").values()]
    return found | {
        f"{path.name}/{name}": (path / name).read_bytes() for path, names in left for name in names
    }


def assert_both_parts_learned(run: Path) -> None:
    """Of BLO-Inst: its boxes found objects of both halves, and each step of SAM's part had masks to learn from."""
    artifact = find_results(run, "train_student")["train_student:aligned"]
    metrics = json.loads((artifact / MANIFEST).read_text())["metrics"]
    assert metrics["found_of_sam"] > 0
    assert metrics["found_of_detector"] > 0
    losses = json.loads((artifact / "loss.json").read_text())["aligned"]["loss_of_sam"]
    assert len(losses) == 4
    assert all(loss > 0 for loss in losses)
    assert json.loads((run / "metrics.json").read_text())["students"].keys() == set(TRAINED)


def assert_the_second_round_learned(run: Path) -> None:
    """Of AM-SAM: boxes prompted it, and it had masks of its own to learn from."""
    (artifact,) = find_results(run, "finetune_teacher").values()
    metrics = json.loads((artifact / MANIFEST).read_text())["metrics"]
    assert metrics["prompts_without_box"] < metrics["prompts"]
    assert metrics["own_masks"] > 0
    assert metrics["steps"] > 8


@pytest.mark.parametrize(
    ("plan", "learned"),
    [(OMNI, assert_both_parts_learned), (FEW, assert_the_second_round_learned)],
    ids=["omni", "few shots"],
)
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_kill_in_every_stage_changes_no_byte(
    tmp_path: Path, engine: str, plan: Plan, learned: Callable[[Path], None]
) -> None:
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    detector = write_finder(tmp_path / "detector.safetensors").read_bytes()
    for folder in (alone, killed):
        folder.mkdir()
        (folder / "detector.safetensors").write_bytes(detector)
    seconds = finish(plan, alone, "local")
    assert tuple(seconds) == plan.stages
    learned(alone / "run")
    # The demo's photos, and enough of them for as many pictures as its page has.
    assert 100_000 < (alone / "run" / "report" / "index.html").stat().st_size < REPORT_BYTES
    for stage in plan.stages:
        trains = stage in plan.states
        wait = (
            partial(wait_for_state, plan, killed, stage)
            if trains
            else partial(time.sleep, 0.3 * seconds[stage])
        )
        within = kill_within(plan, killed, engine, stage, wait)
        assert within or seconds[stage] < LONG, f"{stage} ended before it could be killed"
        assert not trains or has_state(plan, killed, stage)
    finish(plan, killed, engine)
    assert contents(plan, killed) == contents(plan, alone)
    assert len(contents(plan, alone)) >= 4
    store = killed / "store"
    leftovers = [path for folder in ("tmp", "work") for path in (store / folder).rglob("*")]
    assert leftovers == []
