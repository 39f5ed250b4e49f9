"""A training of two processes through Ray Train: lost processes, a stop, a killed driver. Each start takes a minute."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from engine_fakes import FakeIngest, FakeIngestConfig, FakeTrain, FakeTrainConfig, make_plan
from team_fakes import STATE, Shared, SharedConfig

from pipeline.engine.nodes import Need, Node, placement_problems
from pipeline.engine.plan import PlannedStage
from pipeline.engine.ray_rank import Sign
from pipeline.engine.ray_train import Ranks, TrainLead, device_problems
from pipeline.engine.stage import Resources
from pipeline.engine.states import last_state
from pipeline.engine.tasks import JobDone, Progress, WorkerFailed

DRIVER = Path(__file__).with_name("engine_driver.py")
PATIENCE = 600.0
STEPS = 15


class Drive:
    """A run of the chain of fakes in a process of its own, with a store of its own; its training is shared by two."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "workers"
        self.notes.mkdir()
        self.process: subprocess.Popen[str] | None = None

    def start(self, **team: object) -> "subprocess.Popen[str]":
        given = {
            "engine": "ray",
            "team": {"steps": STEPS, "workers": str(self.notes), **team},
            "resources": {"cpus": 0.5, "workers": [1, 2]},
        }
        out, store = self.folder / "run", self.folder / "store"
        command = [sys.executable, str(DRIVER), str(out), str(store), json.dumps(given)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        return self.process

    def find(self, who: str) -> int:
        """Process id of "rank N" or of the lead."""
        if who != "lead":
            return self.begun(int(who.removeprefix("rank ")))[-1][0]
        assert self.process is not None
        below = psutil.Process(self.process.pid).children(recursive=True)
        (lead,) = [child.pid for child in below if "ray::TrainLead" in " ".join(child.cmdline())]
        return lead

    def close(self) -> None:
        """End the driver, if it is still there."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def begun(self, rank: int) -> list[tuple[int, int]]:
        """Process id and first step of each that was this rank."""
        note = self.notes / str(rank)
        lines = note.read_text().splitlines() if note.exists() else []
        return [(int(pid), int(step)) for pid, step in map(str.split, lines)]

    def step(self) -> int:
        """How far the training has come."""
        found = [last_state(folder, STATE) for folder in (self.folder / "store" / "work").glob("*")]
        return max((int(path.read_text()) for path in found if path is not None), default=0)

    def metrics(self) -> dict[str, object]:
        """Those of the training's artifact."""
        (path,) = (self.folder / "store" / "artifacts").glob("*/weights.txt")
        artifact = json.loads((path.parent / "artifact.json").read_text())
        assert artifact["world"] == 2
        return dict(artifact["metrics"])

    def leaves_nothing(self) -> None:
        for name in ("tmp", "work"):
            assert list((self.folder / "store" / name).iterdir()) == []
        pids = [pid for rank in range(2) for pid, _ in self.begun(rank)]
        wait_for(lambda: not any(map(psutil.pid_exists, pids)))


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    made = Drive(tmp_path)
    yield made
    made.close()


@pytest.mark.slow
def test_whoever_is_lost_no_saved_step_is(drive: Drive) -> None:
    process = drive.start(delay=1.0)
    least = [0]
    for victim in ("rank 1", "rank 0", "lead"):
        wait_for(lambda: drive.step() >= least[-1] + 2)
        least.append(drive.step())
        os.kill(drive.find(victim), signal.SIGKILL)
        wait_for(lambda: len(drive.begun(0)) == len(drive.begun(1)) == len(least))
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told
    assert "Traceback" not in told
    assert drive.metrics() == {"steps": STEPS, "world": 2}
    for rank in range(2):
        began = [step for _, step in drive.begun(rank)]
        assert all(first <= step < STEPS for first, step in zip(least, began, strict=True))
    drive.leaves_nothing()


@pytest.mark.slow
def test_two_stop_when_told_and_go_on_after_the_driver_is_killed(drive: Drive) -> None:
    process = drive.start(delay=1.0)
    wait_for(lambda: drive.step() >= 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 128 + signal.SIGTERM
    stopped = drive.step()
    assert 2 <= stopped < STEPS
    process = drive.start(delay=1.0)
    wait_for(lambda: drive.step() >= stopped + 2)
    process.kill()
    process.wait()
    process = drive.start(delay=1.0)
    _, told = process.communicate(timeout=PATIENCE)
    assert (process.returncode, told) == (0, "")
    steps = [[step for _, step in drive.begun(number)] for number in range(2)]
    assert steps[0] == steps[1]
    assert steps[0][1] == stopped
    assert stopped + 2 <= steps[0][2] < STEPS
    drive.leaves_nothing()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_bad_input_of_one_ends_all_at_once(drive: Drive, rank: int) -> None:
    process = drive.start(refuse=rank)
    _, told = process.communicate(timeout=PATIENCE)
    assert (process.returncode, told) == (2, "finetune_teacher: refused\n")
    assert len(drive.begun(rank)) == 1


# Without a cluster


def planned(workers: tuple[int, int], **resources: float) -> PlannedStage:
    taken = Resources(workers=workers, **resources)  # type: ignore[arg-type]
    return PlannedStage("finetune_teacher", Shared, SharedConfig(), taken)


@pytest.mark.parametrize(
    ("workers", "cpus", "problems"), [((1, 2), 2, 0), ((1, 2), 1, 0), ((1, 5), 1, 1), ((2, 2), 3, 1)]
)
def test_all_of_a_team_must_find_room_at_once(workers: tuple[int, int], cpus: int, problems: int) -> None:
    nodes = [Node("a", {"CPU": 2.0}), Node("b", {"CPU": 2.0})]
    assert len(placement_problems([planned(workers, cpus=cpus)], nodes)) == problems


@pytest.mark.parametrize(
    ("device", "gpus", "workers", "problems"),
    [("cpu", 0, (1, 2), 0), ("cuda", 1, (1, 2), 0), ("cuda", 0.5, (1, 2), 1), ("cuda", 0.5, (1, 1), 0)],
)
def test_each_of_a_team_needs_a_gpu(
    device: str, gpus: float, workers: tuple[int, int], problems: int
) -> None:
    plan = make_plan((FakeIngest, FakeIngestConfig()), device=device)
    stages = (*plan.stages, planned(workers, gpus=gpus))
    found = device_problems(make_plan((FakeTrain, FakeTrainConfig()), device=device, stages=stages))
    assert len(found) == problems
    assert all("finetune_teacher: resources: gpus: expected 1 or more" in problem for problem in found)


def lead_of_two(folder: Path) -> TrainLead:
    need = Need.of(Resources())
    lead = TrainLead(folder, 1, folder / "no probe", {}, Ranks(2, need.amounts))
    lead.close()
    return lead


def test_what_the_lead_makes_of_it(tmp_path: Path) -> None:
    lead = lead_of_two(tmp_path)
    refused, stopped = WorkerFailed("bad_input", "refused"), WorkerFailed("stopped", "step 3")
    assert not lead.hear(1, 0, Sign(True, Progress(9, 9), stopped))
    assert lead._told() is None  # the leading one may still save
    assert not lead.hear(0, 0, Sign(True, Progress(1, 9), stopped))
    assert lead.pulse().progress == Progress(1, 9)
    assert lead._told() == stopped
    lead.hear(1, 5, Sign(report=refused))  # of an attempt that is over
    assert lead._told() == stopped
    lead.hear(0, 0, Sign(report=JobDone(None)))  # type: ignore[arg-type]
    assert isinstance(lead._told(), JobDone)
    lead.hear(1, 0, Sign(report=refused))
    assert lead._told() == refused
    lead.stop()
    assert lead.hear(1, 0, Sign())
