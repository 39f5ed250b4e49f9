"""Trials on a small run: killed at every point at which it touches its files, and disks that fail it."""

import random
import resource
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

from benchmarks.torture import verdict
from benchmarks.torture.data import make_data
from benchmarks.torture.ground import LOCAL, Oracle, Trial, make_oracle
from benchmarks.torture.kills import finish_and_judge, let_work
from benchmarks.torture.points import ROLES, Point, edges_first, injector

IMAGES = 12
QUICK = ("models.teacher.delay=0", "models.proposer.delay=0")
FAULT = 1  # exit code of what the machine refused
ERRORS = {"ENOSPC": "No space left on device", "EIO": "Input/output error", "EROFS": "Read-only file system"}
HANDLES = "Too many open files"
PAGE = 4096


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
    run = injector().start(trial, point)
    code = run.wait()
    trial.kills = 1
    killed = (0,) if point.role != "driver" else (128 + 9,)
    trial.expect(code in killed, f"ended with {code}, expected {killed[0]}: {run.told()[-400:]}")
    trial.no_strays()
    trial.failures += verdict.sound_store(trial.left.store)
    finish_and_judge(trial)


def disk(trial: Trial) -> None:
    """A disk that is full, broken or read-only, too few file handles: told by name, nothing half-written, then well."""
    ways: list[Callable[[Trial], None]] = [_full, _read_only]
    trial.draw.choice(ways if trial.engine != LOCAL else [*ways, _broken, _broken, _handles])(trial)


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
    point = trial.draw.choice(points(_small(trial)))
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
    with _Disk(trial, size) as mounted:
        if not mounted:
            return
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
    with _Disk(trial, 256 << 20) as mounted:
        if not mounted:
            return
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


class _Disk:
    """A file system in memory for store and run folder; whether one may be mounted here."""

    def __init__(self, trial: Trial, size: int) -> None:
        self._trial, self._size = trial, size

    def __enter__(self) -> bool:
        folder = self._trial.folder / "disk"
        folder.mkdir()
        self._trial.left = replace(self._trial.left, store=folder / "store", run=folder / "run")
        mount = ["mount", "-t", "tmpfs", "-o", f"size={self._size}", "none", str(folder)]
        self._mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        if not self._mounted:
            self._trial.how = "no disk can be mounted here: not done"
        return self._mounted

    def __exit__(self, *error: object) -> None:
        if self._mounted:
            subprocess.run(["umount", str(self._trial.folder / "disk")], check=True)


def _mount(trial: Trial, options: str) -> None:
    subprocess.run(["mount", "-o", options, str(trial.folder / "disk")], check=True)
