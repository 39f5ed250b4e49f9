"""The processes of a trial, found in /proc by its mark, its folder or their place; never by what they are called."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "OMNIMASK_TRIAL"
WORKER, ACTOR, RAYLET, GCS, STRACE = "worker", "actor", "raylet", "gcs_server", "strace"
PATIENCE = 5.0  # seconds until all that a dead driver had started must be gone
RAY_PATIENCE = 20.0  # the same of Ray's own processes, some of which end only when they are killed
WINDOW = 0.5  # seconds


@dataclass(frozen=True)
class Process:
    """A living process; `role` is WORKER, ACTOR, RAYLET, GCS, STRACE or "other"."""

    pid: int
    parent: int
    role: str
    command: str


def processes_of(folder: Path) -> list[Process]:
    """All living processes of the trial in `folder`, but this one."""
    return [found for found in map(_look(folder), _pids()) if found is not None]


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid())


def _look(folder: Path) -> Callable[[int], Process | None]:
    marks = f"{MARK}={folder}\0".encode(), os.fsencode(folder) + b"/"

    def look(pid: int) -> Process | None:
        place = Path("/proc", str(pid))
        try:
            state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (place / "cmdline").read_bytes()
            ours = marks[0] in (place / "environ").read_bytes() + b"\0" or marks[1] in command
            ours = ours or Path(os.readlink(place / "cwd")).is_relative_to(folder)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return None
        if not ours or state in "ZX":
            return None
        text = command.replace(b"\0", b" ").decode(errors="replace").strip()
        return Process(pid, int(parent), _role(text), text)

    return look


def _role(command: str) -> str:
    program = command.split(" ")[0].rpartition("/")[2]
    if program in (RAYLET, GCS, STRACE):
        return program
    if command.startswith("ray::RayWorker"):
        return ACTOR
    return WORKER if "spawn_main" in command else "other"


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Send a signal; whether the process was there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class Clock:
    """Seconds since it was made, less those in which a process of the trial was waiting for a CPU.

    Of those that wait at the same time the one that waits longest counts, so a run is not forgiven ten seconds because
    ten processes waited for one. To be read again and again, as what has ended tells nothing any more.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waited = _waits(folder)
        self._counted, self._looked = 0.0, time.monotonic()

    def seconds(self) -> float:
        """So far."""
        passed = time.monotonic() - self._looked
        if passed < WINDOW:
            return self._counted + passed
        now = _waits(self._folder)
        longest = max((now[thread] - self._waited.get(thread, 0.0) for thread in now), default=0.0)
        self._counted += max(0.0, passed - longest)
        self._waited, self._looked = now, self._looked + passed
        return self._counted


def _waits(folder: Path) -> dict[str, float]:
    """Seconds that each thread of the trial's processes has waited for a CPU in all."""
    found = {}
    for process in processes_of(folder):
        for path in Path("/proc", str(process.pid), "task").glob("*/schedstat"):
            try:
                found[str(path)] = int(path.read_text().split()[1]) / 1e9
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def strays(folder: Path, patience: float) -> list[str]:
    """What is still there after a while: told, and ended so that it disturbs no other trial."""
    clock = Clock(folder)
    while (found := processes_of(folder)) and clock.seconds() < patience:
        time.sleep(0.1)
    for process in found:
        kill(process.pid)
    return [f"{process.role}: {process.command[:100]}" for process in found]
