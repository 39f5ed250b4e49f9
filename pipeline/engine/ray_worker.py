"""What runs on a node of a Ray cluster: an actor that supervises a worker process of its own.

The worker process, not the actor, does the work: an image that ends it takes no actor along, and how such an image is
found, how time and memory are watched is the same as in the local engine. It dies with its actor, whose pipe closes.
"""

import json
import os
import shutil
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.engine.faults import BadPlan
from pipeline.engine.files import own_folder
from pipeline.engine.machine import Name, host, versions
from pipeline.engine.ray_reaper import MARK
from pipeline.engine.remote_store import open_store
from pipeline.engine.supervisor import Supervisor
from pipeline.engine.tasks import JobTask, Progress, Report, UnitTask, WorkerFailed
from pipeline.engine.worker import ORPHANED

PARENT_SECONDS = 0.5  # between two looks whether the raylet lives
CONTROL = "control"  # concurrency group of the calls that are answered while the work goes on


@dataclass(frozen=True)
class Pulse:
    """A sign of life: how far the task of that key is, and what is in hand."""

    key: str
    progress: Progress
    about: str
    ids: tuple[Name, ...]


class RayWorker:
    """The actor. `sign`: what the driver has left in the store; `expected`: the driver's versions."""

    def __init__(self, store: str, torch_threads: int, sign: str, expected: dict[str, str]) -> None:
        self._unfit = unfitness(store, sign, expected)
        self._stop = threading.Event()
        self._key, self._progress = "", Progress(0, 0)
        self._folder = settle("omworker")
        # A spawned process runs its parent's main module first, and that of an actor is Ray's.
        vars(sys.modules["__main__"]).pop("__file__", None)
        self._supervisor = Supervisor(
            store,
            self._folder / "heartbeat.json",
            torch_threads=torch_threads,
            should_stop=self._stop.is_set,
            tell=self._tell,
        )

    def do(self, task: UnitTask | JobTask) -> Report:
        """Do a unit or a job, as `Supervisor.do`."""
        if self._unfit:
            return WorkerFailed("bad_input", self._unfit)
        if self._stop.is_set():
            return WorkerFailed("stopped", "stopped before it began")
        self._key, self._progress = task.key, Progress(0, 0)
        return self._supervisor.do(task)

    def pulse(self) -> Pulse:
        """How far the work is; answered at any time."""
        try:
            beat = json.loads((self._folder / "heartbeat.json").read_text())
        except (FileNotFoundError, ValueError):
            beat = {"about": "", "ids": []}
        return Pulse(self._key, self._progress, str(beat["about"]), tuple(beat["ids"]))

    def stop(self) -> None:
        """Stop after the image in hand; the task then ends with `WorkerFailed`."""
        self._stop.set()

    def close(self) -> None:
        """End the worker process and leave nothing behind."""
        self._supervisor.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _tell(self, progress: Progress) -> None:
        self._progress = progress


def settle(name: str) -> Path:
    """A folder of this process of Ray's, which from here on ends with its node's raylet."""
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    within = os.environ.get(MARK)  # set in a Ray that was started for this run
    return own_folder(name, Path(within) if within else None)


def _die_with(parent: int) -> None:
    """End this process when the node's raylet is gone; Ray itself would wait for the end of the unit."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(ORPHANED)


def unfitness(store: str, sign: str, expected: dict[str, str]) -> str:
    """Why a node cannot work for this run; empty if it can."""
    try:
        seen = open_store(store, look_only=True).sees(sign)
    except (BadPlan, OSError) as error:
        return f"node {host()}: {error}"
    if not seen:
        return (
            f"node {host()} does not see the store's tmp/{sign}; a cluster needs a store that all nodes share"
        )
    found = dict(versions())
    different = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if different:
        text = ", ".join(f"{name} {found.get(name)} (here {expected.get(name)})" for name in different)
        return (
            f"node {host()} has other packages: {text}; expected those of the machine that runs the command"
        )
    return ""
