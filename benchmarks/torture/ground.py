"""A trial's own ground: its folders, the command it runs, the driver it starts, and what it has found so far."""

import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.torture import processes, verdict
from benchmarks.torture.driver import Driver
from benchmarks.torture.watch import Watcher

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "torture.yaml"
LOCAL, RAY = ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Oracle:
    """An undisturbed local run: its folders, digests of the inputs and of all that it left, labels by image, units."""

    left: verdict.Left
    inputs: Mapping[str, str]
    contents: Mapping[str, str]
    labels: Mapping[int, list[verdict.Json]]
    units: int
    seconds: float

    @property
    def data(self) -> Path:
        return self.left.data

    @property
    def images(self) -> int:
        return len(self.labels)


@dataclass
class Trial:
    """One trial: a kind tells what to do, a seed when and to whom, `number` its place in a series.

    `kills`: faults that were put in. `redone`: units that were begun again, where the kind counts them.
    """

    kind: str
    engine: str
    draw: random.Random
    folder: Path
    oracle: Oracle
    settings: tuple[str, ...] = ()
    number: int = 0
    kills: int = 0
    redone: int | None = None
    how: str = ""
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = verdict.Left(
            self.oracle.data, self.folder / "store", self.folder / "run", self.folder / "t"
        )
        self.left.temp.mkdir(parents=True)

    # The run

    def start(
        self,
        *more: str,
        prefix: Sequence[str] = (),
        limit: Callable[[], None] | None = None,
        more_environment: Mapping[str, str] | None = None,
    ) -> Driver:
        """Start the trial's command; `prefix` goes before it, `limit` is called in the new process."""
        command = [
            *prefix,
            sys.executable,
            "-m",
            "pipeline.cli",
            "run",
            str(CONFIG),
            f"--engine={self.engine}",
        ]
        command += [f"--data={self.left.data}", f"--out={self.left.run}", f"--store={self.left.store}"]
        command += [*(f"--set={setting}" for setting in self.settings), *more]
        environment = driver_environment(self) | dict(more_environment or {})
        return Driver(self.folder, command, environment, limit)

    def finish(self, *more: str) -> str:
        """The same command until its end, which must be a good one; what it told."""
        driver = self.start(*more)
        code = driver.wait()
        if code != 0:
            self.failures.append(f"ended with {code}, expected 0: {driver.told()[-400:]}")
        self.no_strays()
        return driver.told()

    def expect(self, condition: bool, what: str) -> None:
        """Note a failure unless the condition holds."""
        if not condition:
            self.failures.append(what)

    def no_strays(self) -> None:
        """All that a driver started is gone within seconds after it."""
        patience = processes.PATIENCE if self.engine == LOCAL else processes.RAY_PATIENCE
        self.failures += [f"stray {stray}" for stray in processes.strays(self.folder, patience)]

    def watching(self) -> Watcher:
        """Someone who counts the units that are begun again."""
        return Watcher(self.left.run, self.left.temp, on_ray=self.engine == RAY)

    def units(self) -> int:
        """How many units are committed."""
        return len(list(self.left.store.glob("units/*/*.parquet")))

    def judge(self) -> None:
        """The verdict on a trial whose run came to its end."""
        try:
            self.failures += verdict.judge(self.left, inputs=self.oracle.inputs, oracle=self.oracle.contents)
        except (OSError, ValueError, KeyError) as error:
            self.failures.append(f"cannot be judged: {type(error).__name__}: {error}")

    def keep_or_remove(self) -> None:
        """Remove the ground, unless something is to be looked at."""
        if not self.failures:
            shutil.rmtree(self.folder, ignore_errors=True)


def driver_environment(trial: Trial) -> dict[str, str]:
    """The environment of all that a trial starts, by which it is found again."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(trial.left.temp),
        "OMP_NUM_THREADS": "1",
        processes.MARK: str(trial.folder),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # every start would compile all anew
    return environment


def make_oracle(folder: Path, data: Path, settings: tuple[str, ...] = ()) -> Oracle:
    """Run once, undisturbed, on the local engine, and count the labels; RuntimeError if even that goes wrong."""
    inputs = verdict.digests(data)
    left = verdict.Left(data, folder / "store", folder / "run", folder / "t")
    trial = Trial("oracle", LOCAL, random.Random(0), folder, Oracle(left, inputs, {}, {}, 0, 0.0), settings)
    began = time.monotonic()
    trial.finish()
    seconds = time.monotonic() - began
    if not trial.failures:
        trial.failures += verdict.judge(left, inputs=inputs, oracle=verdict.contents(left))
        trial.failures += verdict.counted(data, left.run)
    if trial.failures:
        raise RuntimeError(f"the undisturbed run failed: {trial.failures}")
    labels = verdict.labels_by_image(left.run)
    return Oracle(left, inputs, verdict.contents(left), labels, trial.units(), seconds)
