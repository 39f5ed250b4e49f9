"""Whole runs whose store is on memory:// or s3://: the same bytes as in a folder, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from engine_fakes import FakeTrainConfig, chain
from local_fakes import wait_for

from pipeline.data.urls import UrlPath, file_system
from pipeline.engine import snapshot
from pipeline.engine.display import Silent
from pipeline.engine.drive import Options, drive
from pipeline.engine.faults import BadPlan
from pipeline.engine.files import CACHE
from pipeline.engine.status import find_results, read_status

DRIVER = Path(__file__).parent / "engine_driver.py"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))


@pytest.fixture
def expected(tmp_path) -> bytes:
    """The export of a run whose store is a folder."""
    drive(chain(), Options(tmp_path / "whole", tmp_path / "store", workers=0), Silent())
    return exported(tmp_path / "whole")


def exported(run: Path) -> bytes:
    return (run / "export" / "coco" / "train.json").read_bytes()


def made(run: Path) -> dict[str, int]:
    log = json.loads((run / "run.json").read_text())
    return {stage["label"]: stage["made"] for stage in log["stages"]}


def start(out: Path, store: str, *, cache: Path | None = None, **settings: object) -> subprocess.Popen[bytes]:
    environment = os.environ | ({CACHE: str(cache)} if cache else {})
    command = [sys.executable, str(DRIVER), str(out), store, json.dumps(settings)]
    return subprocess.Popen(command, env=environment, start_new_session=True)


def test_a_run_in_memory_ends_in_the_same_bytes(tmp_path, expected):
    where = f"memory://{uuid.uuid4().hex}"
    options = Options(tmp_path / "run", where, workers=0)
    assert drive(chain(), options, Silent())
    assert exported(tmp_path / "run") == expected
    assert not drive(chain(), options, Silent())
    assert drive(chain(), Options(tmp_path / "second", where, workers=0), Silent())
    assert set(made(tmp_path / "second").values()) == {0}


class Listening(Silent):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def job(self, label: str, done: int, total: int, note: str) -> None:  # noqa: ARG002
        self.heard.append(note)


def test_a_checkpoint_that_cannot_be_copied_is_told_and_the_run_goes_on(tmp_path, expected, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("no answer")

    monkeypatch.setattr(snapshot, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(snapshot.Snapshots, "_copy", fail)
    display = Listening()
    assert drive(chain(), Options(tmp_path / "run", f"memory://{uuid.uuid4().hex}", workers=0), display)
    assert exported(tmp_path / "run") == expected
    assert any("the checkpoints were not copied: no answer" in note for note in display.heard)


def test_memory_is_of_one_process(tmp_path):
    with pytest.raises(BadPlan, match="lives in one process; use --engine=local --workers=0"):
        drive(chain(), Options(tmp_path / "run", "memory://some"), Silent())
    assert not (tmp_path / "run").exists()


def test_a_run_on_s3_is_known_everywhere(tmp_path, bucket, expected, monkeypatch):
    drive(chain(), Options(tmp_path / "run", f"{bucket}/store"), Silent())
    assert exported(tmp_path / "run") == expected
    monkeypatch.setenv(CACHE, str(tmp_path / "elsewhere"))
    status = read_status(tmp_path / "run")
    assert all(stage.total == stage.done for stage in status.stages)
    assert find_results(tmp_path / "run", "export")["export"].is_relative_to(tmp_path / "elsewhere")
    drive(chain(), Options(tmp_path / "second", f"{bucket}/store"), Silent())
    assert set(made(tmp_path / "second").values()) == {0}
    assert exported(tmp_path / "second") == expected


@pytest.mark.parametrize("seen", ["work/", "units/"])
def test_a_killed_driver_goes_on_on_another_machine(tmp_path, bucket, expected, seen):
    slow = {"propose": {"delay": 0.2}, "train": {"steps": 20, "delay": 0.2}}
    if seen == "work/":  # the training is at it
        slow["train"]["calls"] = str(tmp_path / "calls")
    first = start(tmp_path / "first", bucket, cache=tmp_path / "one", **slow)
    wait_for(lambda: (tmp_path / "calls").exists() or any(seen in name for name in listed(bucket)))
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    second = start(tmp_path / "second", bucket, cache=tmp_path / "two", **slow)
    assert second.wait(100) == 0
    assert exported(tmp_path / "second") == expected
    assert not [name for name in listed(bucket) if name.split("/")[1] in ("tmp", "work", "locks")]


def listed(bucket: str) -> list[str]:
    fs, path = file_system(UrlPath(bucket))
    return [str(name) for name in fs.find(path)]


def test_two_drivers_share_a_store(tmp_path, bucket, expected):
    slow = {"propose": {"delay": 0.05}, "train": {"delay": 0.05}}
    both = [start(tmp_path / name, bucket, cache=tmp_path / f"{name}-cache", **slow) for name in "ab"]
    assert [driver.wait(100) for driver in both] == [0, 0]
    assert [exported(tmp_path / name) for name in "ab"] == [expected, expected]
    assert made(tmp_path / "a")["finetune_teacher"] + made(tmp_path / "b")["finetune_teacher"] >= 1


def test_a_training_goes_on_from_the_last_copy_of_its_checkpoint(tmp_path, bucket):
    """SIGTERM copies it; the second machine does the steps that the first has not done, and no other."""
    calls = tmp_path / "calls"
    train = {"steps": 30, "delay": 0.2, "calls": str(calls)}
    first = start(tmp_path / "first", bucket, cache=tmp_path / "one", train=train)
    wait_for(lambda: calls.exists() and len(calls.read_text().split()) > 2)
    first.terminate()
    assert first.wait(30) == 128 + signal.SIGTERM
    plan = chain(train=FakeTrainConfig(**train))
    options = Options(tmp_path / "second", bucket, workers=0)
    drive(plan, options, Silent())
    assert calls.read_text().split() == [str(step) for step in range(1, 31)]


def test_workers_of_a_cluster_reach_the_store_by_themselves(tmp_path, bucket, expected, monkeypatch):
    here = [str(DRIVER.parent), os.environ.get("PYTHONPATH", "")]  # of the fakes, for Ray's processes
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(here))
    drive(chain(), Options(tmp_path / "run", bucket, engine="ray"), Silent())
    assert exported(tmp_path / "run") == expected
