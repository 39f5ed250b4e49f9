"""What a trial leaves running is told and ended; its clock forgives the wait for a CPU, of one process at a time."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.torture import processes
from benchmarks.torture.processes import MARK, Clock, processes_of, strays

WAIT = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture(params=["mark", "place", "name"])
def stray(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that can be known by its environment, by its folder, or by its command line."""
    environment = {**os.environ, MARK: str(tmp_path)} if request.param == "mark" else {**os.environ}
    command = [*WAIT, str(tmp_path / "run")] if request.param == "name" else WAIT
    place = tmp_path if request.param == "place" else Path("/")
    with subprocess.Popen(command, env=environment, cwd=place) as process:
        yield process
        process.kill()


def test_what_stays_is_told_and_ended(stray: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    end = time.monotonic() + 10
    while not processes_of(tmp_path) and time.monotonic() < end:  # until it has its own program
        time.sleep(0.01)
    assert strays(tmp_path / "other", 0.0) == []
    assert [line[:7] for line in strays(tmp_path, 0.2)] == ["other: "]
    assert stray.wait(10) == -9
    assert strays(tmp_path, 0.0) == []


@pytest.mark.parametrize(
    ("waits", "low", "high"),
    [
        ({}, 0.9, 1.2),
        ({"a": 0.8}, 0.15, 0.5),
        ({"a": 0.8, "b": 0.7, "c": 0.8}, 0.15, 0.5),  # at the same time
        ({"a": 9.0}, 0.0, 0.1),
    ],
)
def test_a_clock_that_forgives_the_wait_for_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, waits: dict[str, float], low: float, high: float
) -> None:
    told = [dict.fromkeys(waits, 5.0), {name: 5.0 + seconds for name, seconds in waits.items()}]
    monkeypatch.setattr(processes, "_waits", lambda _: told.pop(0))
    clock = Clock(tmp_path)
    time.sleep(1.0)
    assert low <= clock.seconds() <= high
