"""Trials on a small run: killed at every point at which it touches its files, and disks that fail it."""

import random
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from benchmarks.torture import verdict
from benchmarks.torture.data import make_data
from benchmarks.torture.ground import LOCAL, Oracle, Trial, make_oracle
from benchmarks.torture.kills import finish_and_judge, let_work
from benchmarks.torture.points import ROLES, Point, early, edges_first, injector

IMAGES = 12
QUICK = ("models.teacher.delay=0", "models.proposer.delay=0")
FAULT = 1  # exit code of what the machine refused
ERRORS = {"ENOSPC": "No space left on device", "EIO": "Input/output error", "EROFS": "Read-only file system"}
HANDLES = "Too many open files"
PAGE = 4096
TRIES = 3  # to hit a point


@cache
def small_oracle(base: Path) -> Oracle:
    """The oracle of the small run, made once in the ground of a series."""
    make_data(base / "small-data", images=IMAGES)
    return make_oracle(base / "small-oracle", base / "small-data", QUICK)


@cache
def points(base: Path) -> list[Point]:
    """All points of the small run, as one undisturbed run of each role has them; series take them in this order."""
    found: list[Point] = []
    for role in ROLES:
        oracle = small_oracle(base)
        trial = Trial("points", LOCAL, random.Random(0), base / f"points-{role}", oracle, QUICK)
        found += injector().count(trial, role)
        trial.no_strays()
        if trial.failures:
            raise RuntimeError(f"the run to count points failed: {trial.failures}")
    return edges_first(found)


def _small(trial: Trial) -> Path:
    base = trial.folder.parent
    trial.oracle, trial.settings = small_oracle(base), QUICK
    trial.left = replace(trial.left, data=trial.oracle.data)
    return base


def syscalls(trial: Trial) -> None:
    """SIGKILL at one point, the trial's number telling which; then the same command to its end."""
    all_points = points(_small(trial))
    point = all_points[trial.number % len(all_points)]
    trial.how = f"{injector().name} {trial.number % len(all_points) + 1} of {len(all_points)}: {point}"
    code, told = _hit(trial, point)
    killed = 0 if point.role != "driver" else 128 + 9
    trial.expect(trial.kills == 0 or code == killed, f"ended with {code}, expected {killed}: {told[-400:]}")
    trial.no_strays()
    trial.failures += verdict.sound_store(trial.left.store)
    finish_and_judge(trial)


def _hit(trial: Trial, point: Point) -> tuple[int, str]:
    """A run that is killed at a point; its exit code and what it told.

    Runs differ by a line of progress or two, so the last points of one may not be there in another: then one before.
    """
    for number in range(point.number, max(0, point.number - TRIES), -1):
        run = injector().start(trial, replace(point, number=number))
        code = run.wait()
        if injector().has_hit(trial):
            trial.kills = 1
            trial.how += "" if number == point.number else f", hit at {number}"
            return code, run.told()
        trial.no_strays()
        for folder in (trial.left.store, trial.left.run):
            shutil.rmtree(folder)
    trial.failures.append(f"never hit: {point}")
    return code, run.told()


def disk(trial: Trial) -> None:
    """A disk that is full, broken or read-only, too few file handles: told by name, nothing half-written, then well."""
    ways: list[Callable[[Trial], None]] = [_broken, _broken]
    if trial.engine == LOCAL:  # Ray itself takes hundreds of handles
        ways.append(_handles)
    if can_mount():
        ways += [_full, _read_only]
    trial.draw.choice(ways)(trial)


def _refused(trial: Trial, code: int, told: str, *names: str) -> None:
    """A run that was refused something ended well all the same, or it says what it was refused."""
    named = any(name in told for name in names)
    trial.expect(
        code == 0 or (code == FAULT and named), f"ended with {code}, expected {names}: {told[-600:]}"
    )
    trial.expect("Traceback" not in told, f"a traceback, expected a line: {told[-900:]}")
    trial.kills += code != 0
    trial.no_strays()
    trial.failures += verdict.sound_store(trial.left.store)


def _broken(trial: Trial) -> None:
    """One call fails, once."""
    found = points(_small(trial))
    if trial.engine != LOCAL:  # counted locally: several workers share what one does there
        found = early(found)
    point = trial.draw.choice(found)
    error = trial.draw.choice(("ENOSPC", "EIO"))
    trial.how = f"{injector().name} {error} {point}"
    run = injector().start(trial, point, error)
    _refused(trial, run.wait(), run.told(), ERRORS[error])
    finish_and_judge(trial)


def _handles(trial: Trial) -> None:
    """A limit of open files, of the driver and its worker."""
    _small(trial)
    count = trial.draw.randint(8, 40)
    trial.how = f"{count} file handles"
    run = trial.start(limit=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count)))
    _refused(trial, run.wait(), run.told(), HANDLES)
    finish_and_judge(trial)


def _full(trial: Trial) -> None:
    """A disk of its own that is full at some time."""
    room = sum(-(-path.stat().st_size // PAGE) for path in _files(trial)) * PAGE
    size = int(trial.draw.uniform(0.1, 0.95) * room) // PAGE * PAGE
    with _Disk(trial, size):
        trial.how = f"a disk of {size >> 10} of {room >> 10} KiB"
        run = trial.start()
        _refused(trial, run.wait(), run.told(), ERRORS["ENOSPC"])
        _mount(trial, "remount,size=256m")
        finish_and_judge(trial)


def _files(trial: Trial) -> list[Path]:
    """The files of the oracle's run."""
    left = trial.oracle.left
    return [path for root in (left.store, left.run) for path in root.rglob("*") if path.is_file()]


def _read_only(trial: Trial) -> None:
    """A disk that is read-only when a run is to go on."""
    with _Disk(trial, 256 << 20):
        trial.how = "a read-only disk"
        run = trial.start()
        let_work(trial, run)
        run.kill()
        trial.no_strays()
        _mount(trial, "remount,ro")
        run = trial.start()
        _refused(trial, run.wait(), run.told(), ERRORS["EROFS"])
        _mount(trial, "remount,rw")
        finish_and_judge(trial)


@cache
def can_mount() -> bool:
    """Whether a file system may be mounted here."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "none", folder]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            return False
        subprocess.run(["umount", folder], check=True)
        return True


class _Disk:
    """A file system in memory for store and run folder."""

    def __init__(self, trial: Trial, size: int) -> None:
        self._trial, self._size = trial, size

    def __enter__(self) -> None:
        folder = self._trial.folder / "disk"
        folder.mkdir()
        self._trial.left = replace(self._trial.left, store=folder / "store", run=folder / "run")
        mount = ["mount", "-t", "tmpfs", "-o", f"size={self._size}", "none", str(folder)]
        subprocess.run(mount, check=True)

    def __exit__(self, *error: object) -> None:
        subprocess.run(["umount", str(self._trial.folder / "disk")], check=True)


def _mount(trial: Trial, options: str) -> None:
    subprocess.run(["mount", "-o", options, str(trial.folder / "disk")], check=True)
