"""Every rename, fsync and write of a run's files as a point at which it can be killed, or told that it failed.

With strace where it can be used: nothing in the process knows of it, and native code is reached too. Elsewhere by a
hook in the process (hook/sitecustomize.py), which sees what Python does: renames, fsyncs and opening for writing.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import which
from typing import Protocol

from benchmarks.torture.driver import Driver
from benchmarks.torture.ground import ROOT, Trial
from benchmarks.torture.processes import WORKER, processes_of
from benchmarks.torture.verdict import Left

DRIVER = "driver"
ROLES = (DRIVER, WORKER)
CALLS = ("rename", "fsync", "write", "sendfile")
HOOK = Path(__file__).parent / "hook"
VARIABLE = "OMNIMASK_FAULT"
LOG = "injected.txt"
LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)")


@dataclass(frozen=True)
class Point:
    """The `number`-th `call` of a process's main thread; `what`: the last parts of the path it is about."""

    role: str
    call: str
    number: int
    what: str

    def like(self, other: "Point") -> bool:
        """Whether both are writes to the same kind of file."""
        return self.call == "write" and (self.role, self.call, self.what) == (
            other.role,
            other.call,
            other.what,
        )

    def __str__(self) -> str:
        return f"{self.role} {self.call} {self.number} {self.what}"


def edges_first(points: Sequence[Point]) -> list[Point]:
    """The same points, those in the midst of a row of writes to one file last: Parquet takes a hundred a unit."""
    inner = [
        point
        for before, point, after in zip(points, points[1:], points[2:], strict=False)
        if before.like(point) and after.like(point)
    ]
    return [point for point in points if point not in set(inner)] + inner


def early(points: Sequence[Point]) -> list[Point]:
    """Those in the first half of their kind of call."""
    most: dict[tuple[str, str], int] = defaultdict(int)
    for point in points:
        most[point.role, point.call] = max(most[point.role, point.call], point.number)
    return [point for point in points if 2 * point.number <= most[point.role, point.call]]


class Injector(Protocol):
    """Who puts a fault in: SIGKILL or, with the name of an error, that error in place of the call."""

    name: str

    def count(self, trial: Trial, role: str) -> list[Point]:
        """All points of a run, which is done for that; it must end well."""
        ...

    def start(self, trial: Trial, point: Point, error: str | None = None) -> Driver: ...

    def has_hit(self, trial: Trial) -> bool:
        """Whether the fault of the run that was started last, which has ended, was put in."""
        ...


class Strace:
    """By ptrace, of the main thread: the others write heartbeats alone."""

    name = "strace"

    def count(self, trial: Trial, role: str) -> list[Point]:
        log = trial.folder / "trace.txt"
        run = self._run(trial, role, ["-y", "-s0", "-o", str(log), "-e", f"trace={','.join(CALLS)}"])
        code = run.wait()
        trial.expect(code == 0, f"ended with {code}: {run.told()[-400:]}")
        return list(_points(log, role, trial.left))

    def start(self, trial: Trial, point: Point, error: str | None = None) -> Driver:
        fault = "signal=KILL" if error is None else f"error={error}"
        inject = f"inject={point.call}:{fault}:when={point.number}"
        options = ["-y", "-o", str(trial.folder / LOG), "-e", f"trace={point.call}", "-e", inject]
        return self._run(trial, point.role, options)

    def has_hit(self, trial: Trial) -> bool:
        told = (trial.folder / LOG).read_text(errors="replace") if (trial.folder / LOG).exists() else ""
        # A worker that its driver ends dies of the same signal, but in no call.
        return told.endswith("= ?\n+++ killed by SIGKILL +++\n") or "(INJECTED)" in told

    def _run(self, trial: Trial, role: str, options: list[str]) -> Driver:
        if role == DRIVER:
            return trial.start(prefix=["strace", "-qq", *options])
        run = trial.start()
        found: list[int] = []

        def born() -> bool:
            found.extend(p.pid for p in processes_of(trial.folder) if p.role == WORKER)
            return bool(found)

        if run.until(born):
            # Ends with the worker; it is not the trial's, so that nobody takes it for a stray.
            subprocess.Popen(
                ["strace", "-qq", *options, "-p", str(found[0])], cwd="/", stderr=subprocess.DEVNULL
            )
        return run


def _points(log: Path, role: str, left: Left) -> list[Point]:
    store, run = str(left.store), str(left.run)
    counted: Counter[str] = Counter()
    found = []
    for line in log.read_text(errors="replace").splitlines():
        match = LINE.match(line)
        if match is None or match[1] not in CALLS:
            continue
        counted[match[1]] += 1
        if store in match[2] or run in match[2]:
            found.append(Point(role, match[1], counted[match[1]], _about(match[2], store, run)))
    return found


def _about(arguments: str, store: str, run: str) -> str:
    """ "store/units" of a call's arguments: the last path in them, without what differs from run to run."""
    start = max(arguments.rfind(store), arguments.rfind(run))
    path = re.split(r'[">,)]', arguments[start:])[0]
    parts = path.removeprefix(str(Path(store).parent)).strip("/").split("/")
    return "/".join(part for part in parts[:2] if not part.startswith(".tmp-"))


class Hook:
    """By a `sitecustomize` module that Python imports at its start."""

    name = "hook"

    def count(self, trial: Trial, role: str) -> list[Point]:
        log = trial.folder / "trace.txt"
        run = trial.start(more_environment=self._environment(f"{role}:count:{log}"))
        code = run.wait()
        trial.expect(code == 0, f"ended with {code}: {run.told()[-400:]}")
        return list(_points(log, role, trial.left))

    def start(self, trial: Trial, point: Point, error: str | None = None) -> Driver:
        fault = f"{point.role}:{point.call}:{point.number}:{error or 'KILL'}:{trial.folder / LOG}"
        return trial.start(more_environment=self._environment(fault))

    def has_hit(self, trial: Trial) -> bool:
        return (trial.folder / LOG).exists()

    def _environment(self, fault: str) -> dict[str, str]:
        return {VARIABLE: fault, "PYTHONPATH": f"{HOOK}:{ROOT}"}


@cache
def injector() -> Injector:
    """Strace if it is there and may be used, else the hook."""
    return Strace() if _strace_works() else Hook()


def _strace_works() -> bool:
    if which("strace") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        code = f"import os; os.mkdir({folder + '/a'!r}); os.mkdir({folder + '/b'!r})"
        inject = [
            "strace",
            "-qq",
            "-o",
            f"{folder}/log",
            "-e",
            "trace=mkdir",
            "-e",
            "inject=mkdir:error=EIO:when=2",
        ]
        done = subprocess.run([*inject, sys.executable, "-c", code], capture_output=True, check=False)
        return b"Input/output error" in done.stderr and (Path(folder) / "a").exists()
