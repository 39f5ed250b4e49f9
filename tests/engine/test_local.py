import json
import os
import signal
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
    FakeTrain,
    FakeTrainConfig,
    chain,
    make_plan,
)

from pipeline.engine import local, run_job, supervisor
from pipeline.engine.display import Silent
from pipeline.engine.drive import Options, drive
from pipeline.engine.faults import Interrupted, StageFailed, Stalled
from pipeline.engine.machine import Heartbeat
from pipeline.engine.run_unit import Surroundings
from pipeline.engine.rundir import RunFolder
from pipeline.engine.stage import StageConfig
from pipeline.engine.status import find_results
from pipeline.engine.store import Store
from pipeline.engine.tasks import Alive, JobTask, Progress, StageTask, UnitTask, WorkerFailed
from pipeline.engine.team import ALONE
from pipeline.engine.units import Bucket, UnitInput

DRIVER = Path(__file__).with_name("engine_driver.py")
PATIENCE = 60.0


def short(*, propose=None, train=None):
    """A chain with few units: 12 images."""
    return make_plan(
        (FakeIngest, FakeIngestConfig(images=12)),
        *([(FakeTrain, train)] if train else []),
        *([(FakePropose, propose)] if propose else []),
        (FakeExport, StageConfig()),
    )


def run(plan, tmp_path, name="run", **options):
    drive(plan, Options(tmp_path / name, tmp_path / f"{name}-store", **options), Silent())
    return json.loads((tmp_path / name / "run.json").read_text())


def units(tmp_path, name):
    found = sorted((tmp_path / f"{name}-store" / "units").rglob("*.parquet"))
    return {path.name: path.read_bytes() for path in found}


def start(tmp_path, name, store, **settings):
    command = [sys.executable, str(DRIVER), str(tmp_path / name), str(tmp_path / store), json.dumps(settings)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


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
    plan = make_plan(
        (FakeIngest, FakeIngestConfig(images=12, **fault)),
        (FakePropose, FakeMapConfig()),
        (FakeExport, StageConfig()),
    )
    plan = replace(plan, image_timeout=0.5, max_bad=0.1)
    listed = [{"stage": "ingest", "entry": "image 7", "reason": reason}]
    for _ in range(2):
        log = run(plan, tmp_path)
        assert log["quarantine"] == listed
        assert log["stages"][0]["made"] == 1
        assert find_results(tmp_path / "run", "ingest")
    assert [stage["made"] for stage in log["stages"]] == [1, 0, 0]  # what comes after it is as it was


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
    paths = [str(DRIVER.parent), str(Path(local.__file__).parents[2])]
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


@pytest.mark.parametrize("busy", ["identity", "has_unit"])
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
