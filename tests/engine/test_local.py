import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from engine_fakes import (
    FakeExport,
    FakeIngest,
    FakeIngestConfig,
    FakeMapConfig,
    FakePropose,
    FakeTrainConfig,
    chain,
    make_plan,
)
from local_fakes import PATIENCE, alive, run, short, start, units, wait_for

from pipeline.engine import local, run_job, supervisor
from pipeline.engine.display import Silent
from pipeline.engine.drive import Options, drive
from pipeline.engine.faults import StageFailed, Stalled
from pipeline.engine.machine import Heartbeat
from pipeline.engine.run_unit import Surroundings
from pipeline.engine.rundir import RunFolder
from pipeline.engine.stage import StageConfig
from pipeline.engine.status import find_results
from pipeline.engine.store import Store
from pipeline.engine.tasks import Alive, JobTask, Progress, StageTask, UnitTask, WorkerFailed
from pipeline.engine.team import ALONE
from pipeline.engine.units import Bucket, UnitInput


def test_a_worker_makes_the_same_bytes_as_this_process(tmp_path):
    plan = short(propose=FakeMapConfig(unreadable=(3,)))
    run(plan, tmp_path, "here", workers=0)
    run(plan, tmp_path, "there")
    assert units(tmp_path, "here") == units(tmp_path, "there")


def test_an_image_that_kills_the_worker_is_quarantined_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "DEATHS_ALONE", 1)
    log = run(short(propose=FakeMapConfig(unit_size=12, deadly_load=(7,))), tmp_path)
    assert log["quarantine"] == [
        {"stage": "propose", "image_id": 7, "reason": "worker died: killed by signal 9"}
    ]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"deadly": (7,)}, "worker died: killed by signal 11"),
        ({"endless": (7,)}, "worker died: no image finished in time (image_timeout)"),
    ],
)
def test_an_image_that_ends_ingest_is_quarantined_alone_and_tried_again(tmp_path, fault, reason):
    calls = tmp_path / "calls"
    plan = make_plan(
        (FakeIngest, FakeIngestConfig(images=12, calls=str(calls), **fault)),
        (FakePropose, FakeMapConfig()),
        (FakeExport, StageConfig()),
    )
    plan = replace(plan, image_timeout=20 if "deadly" in fault else 0.5, max_bad=0.1)
    listed = [{"stage": "ingest", "entry": "image 7", "reason": reason}]
    for _ in range(2):
        calls.write_text("")
        log = run(plan, tmp_path)
        assert log["quarantine"] == listed
        assert log["stages"][0]["made"] == 1
        assert find_results(tmp_path / "run", "ingest")
    assert [stage["made"] for stage in log["stages"]] == [1, 0, 0]  # what comes after it is as it was
    assert calls.read_text() == ""  # it was tried before all others, and these were not taken in again for it


def test_an_image_that_ended_ingest_once_is_taken_in_by_the_next_run(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "DEATHS_ALONE", 1)
    trap = tmp_path / "trap"
    stages = (FakePropose, FakeMapConfig()), (FakeExport, StageConfig())
    plan = make_plan((FakeIngest, FakeIngestConfig(images=12, deadly=(7,), trap=str(trap))), *stages)
    plan = replace(plan, max_bad=0.1)
    trap.touch()
    before = run(plan, tmp_path)
    trap.unlink()
    after = run(plan, tmp_path)
    assert [len(log["quarantine"]) for log in (before, after)] == [1, 0]
    assert after["stages"][1]["images"] == before["stages"][1]["images"] + 1


def test_an_image_whose_memory_is_refused_is_quarantined_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "DEATHS_ALONE", 1)
    log = run(short(propose=FakeMapConfig(unit_size=12, refused=(7,))), tmp_path)
    assert log["quarantine"] == [
        {"stage": "propose", "image_id": 7, "reason": "worker died: not enough memory"}
    ]


def test_memory_that_is_refused_for_every_image_is_no_images_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "REFUSALS_TO_FAIL", 2)
    words = (
        "[enforce fail at alloc_cpu.cpp:116] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
    )
    with pytest.raises(StageFailed, match="can't allocate memory"):
        run(short(propose=FakeMapConfig(unit_size=12, refusal=words)), tmp_path)


def test_a_worker_killed_by_chance_costs_no_image(tmp_path):
    trap = tmp_path / "trap"
    trap.touch()
    settings = FakeMapConfig(unit_size=12, deadly=(7,), trap=str(trap))
    log = run(short(propose=settings), tmp_path)
    assert not trap.exists()
    assert log["quarantine"] == []
    run(short(propose=settings), tmp_path, "calm", workers=0)
    assert units(tmp_path, "run") == units(tmp_path, "calm")


@pytest.mark.parametrize("fresh", [False, True])
def test_a_job_that_crashes_goes_on_from_its_checkpoint(tmp_path, fresh):
    log = run(short(train=FakeTrainConfig(steps=5, crash_at=3)), tmp_path, fresh=fresh)
    assert log["stages"][1]["metrics"] == {"steps": 5}


def test_threads_are_set_also_without_a_worker(tmp_path):
    code = """
import sys
from pathlib import Path
from engine_fakes import FakeIngest, FakeIngestConfig, Threads, make_plan
from pipeline.engine.display import Silent
from pipeline.engine.drive import Options, drive
from pipeline.engine.stage import StageConfig

assert "torch" not in sys.modules
stages = (FakeIngest, FakeIngestConfig(images=1)), (Threads, StageConfig())
drive(make_plan(*stages, torch_threads=3), Options(Path("run"), Path("store"), workers=0), Silent())
"""
    paths = [str(Path(__file__).parent), str(Path(local.__file__).parents[2])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert json.loads((tmp_path / "run" / "threads.json").read_text()) == 3


def test_a_job_that_asks_whether_to_stop_is_alive(monkeypatch, tmp_path):
    monkeypatch.setattr(run_job, "ALIVE_EVERY_SECONDS", -1.0)
    told = []
    around = Surroundings(Store(tmp_path), Heartbeat(tmp_path / "beat"), told.append, lambda: False)
    os.utime(tmp_path, (0, 0))
    pulse = run_job._Pulse(around, ALONE, tmp_path)
    assert [pulse.should_stop(), pulse.should_stop()] == [False, False]
    assert time.time() - tmp_path.stat().st_mtime < PATIENCE
    assert told == [Alive(), Alive()]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            short(propose=FakeMapConfig(deadly_setup=True)),
            "killed by signal 9, 2 times with no image in hand",
        ),
        (short(train=FakeTrainConfig(crash_at=1, steps=9, repeat=True)), "killed by signal 11, 2 times"),
    ],
)
def test_what_cannot_work_fails_with_a_reason(tmp_path, monkeypatch, plan, message):
    monkeypatch.setattr(supervisor, "DEATHS_WITHOUT_IMAGE", 2)
    with pytest.raises(StageFailed, match=message):
        run(plan, tmp_path)


def test_a_standstill_is_told_not_waited_for(tmp_path):
    plan = short(propose=FakeMapConfig(unit_size=12, delay=600))
    with pytest.raises(Stalled, match=r"propose: no image finished for \d+ s; in hand: \[\d+\]"):
        run(replace(plan, stall_timeout=8.0, image_timeout=0.2), tmp_path)


def test_a_set_up_that_hangs_is_told_not_waited_for(tmp_path):
    plan = short(propose=FakeMapConfig(slow_setup=600))
    with pytest.raises(Stalled, match=r"propose: no sign of life for \d+ s; no image in hand"):
        run(replace(plan, stall_timeout=8.0), tmp_path)


@pytest.mark.parametrize("endless", [(7,), (1, 2)])
def test_an_image_that_takes_for_ever_is_quarantined_alone(tmp_path, endless):
    settings = FakeMapConfig(unit_size=12, endless=endless)
    log = run(replace(short(propose=settings), image_timeout=0.5, stall_timeout=8.0), tmp_path)
    reason = "worker died: no image finished in time (image_timeout)"
    expected = [{"stage": "propose", "image_id": image, "reason": reason} for image in endless]
    assert log["quarantine"] == expected


def test_an_image_that_takes_all_memory_is_quarantined_alone(tmp_path):
    settings = FakeMapConfig(unit_size=12, greedy=(7,))
    plan = short(propose=settings)
    narrow = [replace(p, resources=p.resources.model_copy(update={"memory_gb": 1.0})) for p in plan.stages]
    log = run(replace(plan, stages=tuple(narrow)), tmp_path)
    reason = "worker died: too much memory (memory_gb)"
    assert log["quarantine"] == [{"stage": "propose", "image_id": 7, "reason": reason}]


class Chatty:
    """A worker process that takes all memory and tells of progress all the time."""

    def __init__(self, *_):
        self.sent = []

    def send(self, message):
        self.sent.append(message)

    def receive(self, _):
        time.sleep(0.01)
        return Progress(1, 2)

    def memory(self):
        return 1 << 50

    def kill(self):
        pass


def test_memory_is_watched_also_while_images_are_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "WorkerProcess", Chatty)
    watched = supervisor.Supervisor(
        "", tmp_path / "beat", torch_threads=1, should_stop=lambda: False, tell=lambda _: None
    )
    stage = StageTask("propose", FakePropose, FakeMapConfig().model_dump_json(), None, 1)
    task = UnitTask(stage, "key", UnitInput(Bucket(0, 0), (), 0, ""))
    text = "worker died: too much memory (memory_gb), 3 times with no image in hand"
    assert watched.do(task) == WorkerFailed("error", text)


def test_a_job_that_ends_its_worker_again_and_again_by_no_image_fails(tmp_path, monkeypatch):
    beat = tmp_path / "beat"
    watched = supervisor.Supervisor("", beat, torch_threads=1, should_stop=lambda: False, tell=lambda _: None)
    tries = []

    def dies(task):
        tries.append(task)
        Heartbeat(beat).take([len(tries), -len(tries)])
        return supervisor.Died("too much memory (memory_gb)")

    monkeypatch.setattr(watched, "_attempt", dies)
    stage = StageTask("ingest", FakeIngest, "{}", None, 1)
    task = JobTask(stage, "key", None, 0, tmp_path, {})
    text = "worker died: too much memory (memory_gb), 8 times in a row, by no single image"
    assert watched.do(task) == WorkerFailed("error", text)
    assert [task.attempt for task in tries] == list(range(8))


def test_a_killed_driver_takes_its_worker_along_and_the_next_run_goes_on(tmp_path):
    process = start(tmp_path, "run", "run-store", propose={"delay": 0.3})
    store = tmp_path / "run-store"
    wait_for(lambda: len(list(store.glob("units/*/*.parquet"))) >= 2)
    worker = json.loads(RunFolder(tmp_path / "run").heartbeat.read_text())["pid"]
    process.kill()
    process.wait()
    wait_for(lambda: not alive(worker))
    before = {path: path.stat().st_mtime_ns for path in store.glob("units/*/*.parquet")}
    assert 2 <= len(before) < 8
    plan = chain(propose=FakeMapConfig(delay=0.3))
    drive(plan, Options(tmp_path / "run", store), Silent())
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list((store / "tmp").iterdir())
    drive(plan, Options(tmp_path / "whole", tmp_path / "whole-store", 0), Silent())
    assert units(tmp_path, "run") == units(tmp_path, "whole")
    files = [tmp_path / name / "export" / "coco" / "train.json" for name in ("run", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_killed_job_goes_on_from_its_checkpoint(tmp_path):
    settings = {"steps": 40, "delay": 0.05, "crash_at": 41}
    process = start(tmp_path, "run", "store", train=settings)
    wait_for(lambda: any(int(p.read_text() or 0) >= 3 for p in (tmp_path / "store").glob("work/*/step")))
    process.kill()
    process.wait()
    reached = max(int(p.read_text()) for p in (tmp_path / "store").glob("work/*/step"))
    (folder,) = (tmp_path / "store").glob("work/*")
    assert reached < 40
    (folder / "step").write_text("38")  # as if it had got this far: redoing all steps would overwrite it
    assert start(tmp_path, "run", "store", train=settings).wait(PATIENCE) == 0
    assert not folder.exists()
