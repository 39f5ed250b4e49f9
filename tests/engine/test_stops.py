"""How a run is stopped, and who may not work where another does."""

import json
import os
import signal
import subprocess
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from engine_fakes import (
    FakeIngest,
    FakeMapConfig,
    FakeTrain,
    FakeTrainConfig,
)
from local_fakes import PATIENCE, alive, run, short, start, wait_for

from pipeline.data.records import Ontology
from pipeline.engine import supervisor
from pipeline.engine.context import Stopped, WorkerContext
from pipeline.engine.faults import Interrupted
from pipeline.engine.machine import Heartbeat
from pipeline.engine.run_job import run_job
from pipeline.engine.run_unit import Surroundings
from pipeline.engine.rundir import RunFolder
from pipeline.engine.store import Store
from pipeline.engine.tasks import Alive, JobTask, StageTask, WorkerFailed


def test_a_signal_stops_after_the_image_in_hand(tmp_path):
    process = start(tmp_path, "run", "store", propose={"delay": 0.2})
    wait_for(lambda: list((tmp_path / "store").glob("units/*/*.parquet")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 143
    log = json.loads((tmp_path / "run" / "run.json").read_text())
    assert log["state"] == "ended: Interrupted"


def test_a_signal_does_not_wait_for_a_set_up(tmp_path):
    process = start(tmp_path, "run", "store", propose={"slow_setup": 600})
    log = tmp_path / "run" / "run.json"
    wait_for(lambda: log.exists() and json.loads(log.read_text())["stages"][2]["state"] == "running")
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 143


def test_a_signal_does_not_wait_for_a_job_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "STOP_JOB_SECONDS", 1.0)
    calls = tmp_path / "calls"
    hung = FakeTrainConfig(steps=1, delay=3600, calls=str(calls))
    threading.Thread(target=lambda: (wait_for(calls.exists), os.kill(os.getpid(), signal.SIGTERM))).start()
    with pytest.raises(Interrupted):
        run(short(train=hung), tmp_path)
    assert len(list((tmp_path / "run-store" / "artifacts").iterdir())) == 1  # that of ingest


def test_a_signal_waits_for_what_is_being_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "STOP_JOB_SECONDS", 1.0)
    watched = supervisor.Supervisor(
        "", tmp_path / "beat", torch_threads=1, should_stop=lambda: True, tell=lambda _: None
    )
    monkeypatch.setattr(watched, "_worker", SimpleNamespace(memory=lambda: 0))
    task = JobTask(StageTask("train", FakeTrain, "{}", None, 1), "key", None, 0, tmp_path, {})
    assert watched._lost(task, pause=0.5, told=9.0) is None
    assert watched._lost(task, pause=9.0, told=9.0) == WorkerFailed("stopped", "ended without a sign of life")
    watched._longest = 5.0
    assert watched._lost(task, pause=9.0, told=9.0) is None
    watched._longest, watched._saving = 0.0, True
    assert watched._lost(task, pause=9.0, told=9.0) is None


@pytest.mark.parametrize("stops", [False, True])
def test_a_job_says_when_it_begins_to_save(tmp_path, stops):
    told = []
    around = Surroundings(Store(tmp_path / "store"), Heartbeat(tmp_path / "beat"), told.append, lambda: stops)
    context = WorkerContext("cpu", Ontology(()), tmp_path, {})
    config = FakeTrainConfig(steps=2).model_dump_json()
    task = JobTask(StageTask("train", FakeTrain, config, context, 1), "ab" * 32, [], 0, tmp_path, {})
    with pytest.raises(Stopped) if stops else nullcontext():
        run_job(task.stage.build_job(), task, around)
    assert [report for report in told if isinstance(report, Alive)] == [Alive(saving=True)]
    assert told[-1] == Alive(saving=True)


@pytest.mark.parametrize("busy", ["identity", "find_artifact", "has_unit"])
def test_a_signal_ends_the_drivers_own_work(tmp_path, monkeypatch, busy):
    owner = FakeIngest if busy == "identity" else Store
    run(short(propose=FakeMapConfig()), tmp_path)

    def slow(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)

    monkeypatch.setattr(owner, busy, slow)
    began = time.monotonic()
    with pytest.raises(Interrupted):
        run(short(propose=FakeMapConfig()), tmp_path)
    assert time.monotonic() - began < PATIENCE / 2


def test_a_second_signal_ends_at_once(tmp_path):
    calls = tmp_path / "calls"
    process = start(tmp_path, "run", "store", propose={"delay": 100, "calls": str(calls)})
    wait_for(calls.exists)  # from now on the worker is busy for longer than this test
    worker = json.loads(RunFolder(tmp_path / "run").heartbeat.read_text())["pid"]
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130
    wait_for(lambda: not alive(worker))


def test_two_runs_share_a_store(tmp_path):
    both = [start(tmp_path, name, "store", train={"steps": 10, "delay": 0.05}) for name in ("one", "two")]
    assert [process.wait(PATIENCE) for process in both] == [0, 0]
    exports = [(tmp_path / name / "export" / "coco" / "train.json").read_bytes() for name in ("one", "two")]
    assert exports[0] == exports[1]
    assert not list((tmp_path / "store" / "tmp").iterdir())
    assert not list((tmp_path / "store" / "work").iterdir())


def test_two_runs_in_one_folder_do_not_mix(tmp_path):
    first = start(tmp_path, "run", "store", propose={"delay": 0.3})
    wait_for((tmp_path / "run" / "run.json").exists)
    second = start(tmp_path, "run", "store", propose={"delay": 0.3})
    assert second.wait(PATIENCE) == 4
    assert f"process {first.pid} on" in second.stderr.read()
    assert first.wait(PATIENCE) == 0


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_store_is_named(tmp_path):
    (tmp_path / "run-store").mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="run-store"):
        run(short(), tmp_path)
