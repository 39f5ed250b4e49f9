"""The local engine: one spawned worker process that makes the units and jobs, one after the other.

A worker that dies is replaced. The images it had in hand become suspects, each of which is then run alone;
one that has killed the worker twice alone is quarantined. `in_process` works without a worker, for debugging.
"""

import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from pipeline.engine.artifact import Artifact
from pipeline.engine.faults import BadPlan, Interrupted, StageFailed, Stalled
from pipeline.engine.machine import Heartbeat, images_in_hand, load_torch
from pipeline.engine.process import Died, WorkerProcess
from pipeline.engine.signals import StopSignal
from pipeline.engine.store import Store
from pipeline.engine.tasks import (
    Alive,
    JobDone,
    JobTask,
    Progress,
    Report,
    UnitDone,
    UnitTask,
    WorkerFailed,
)
from pipeline.engine.worker import STOP, Bench

POLL_SECONDS = 0.2
DEATHS_ALONE = 2  # an image that kills the worker this often, alone in hand, is to blame
DEATHS_WITHOUT_IMAGE = 3  # a task that kills it this often with no image in hand fails
STALL_FACTOR = 20  # a pause is no stall before it is this much longer than the longest so far


class Engine(Protocol):
    """Where units and jobs are done; every engine calls the same `run_unit` and `run_job`."""

    def run_units(
        self, tasks: Iterable[UnitTask], progress: Callable[[Progress], None]
    ) -> Iterator[UnitDone]: ...
    def run_job(self, task: JobTask, progress: Callable[[Progress], None]) -> Artifact: ...
    def close(self) -> None: ...


def _ignore(progress: Progress) -> None:
    """No display."""


class LocalEngine:
    """One worker process for a whole run; close it at the end."""

    def __init__(
        self,
        store: Store,
        heartbeat: Path,
        *,
        stop: StopSignal,
        torch_threads: int,
        stall_timeout: float,
        in_process: bool = False,
    ) -> None:
        self._store, self._heartbeat, self._stop = store, heartbeat, stop
        self._torch_threads, self._stall_timeout = torch_threads, stall_timeout
        self._in_process = in_process
        self._bench: Bench | None = None
        self._worker: WorkerProcess | None = None
        self._progress: Callable[[Progress], None] = _ignore

    def run_units(
        self, tasks: Iterable[UnitTask], progress: Callable[[Progress], None]
    ) -> Iterator[UnitDone]:
        """Make the units in the order given; yields each once it is committed."""
        self._progress = progress
        for task in tasks:
            self._raise_if_stopped()
            done = self._make(task)
            assert isinstance(done, UnitDone)
            yield done

    def run_job(self, task: JobTask, progress: Callable[[Progress], None]) -> Artifact:
        """Do the job; after a death it is tried again and goes on from its checkpoints."""
        self._progress = progress
        self._raise_if_stopped()
        for attempt in range(DEATHS_WITHOUT_IMAGE):
            outcome = self._attempt(replace(task, attempt=attempt))
            if not isinstance(outcome, Died):
                assert isinstance(outcome, JobDone)
                return outcome.artifact
        raise StageFailed(f"{task.stage.label}: {outcome}, {DEATHS_WITHOUT_IMAGE} times")

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def _make(self, task: UnitTask) -> Report:
        alone: Counter[int] = Counter()
        silent = 0
        while isinstance(outcome := self._attempt(task), Died):
            self._raise_if_stopped()
            in_hand = images_in_hand(self._heartbeat)
            if not in_hand:
                silent += 1
                if silent == DEATHS_WITHOUT_IMAGE:
                    raise StageFailed(f"{task.stage.label}: {outcome}, {silent} times with no image in hand")
            elif len(in_hand) == 1 and in_hand <= task.suspects:
                alone.update(in_hand)
            poison = frozenset(image for image, deaths in alone.items() if deaths >= DEATHS_ALONE)
            task = replace(task, suspects=task.suspects | in_hand, poison=poison)
        return outcome

    def _attempt(self, task: UnitTask | JobTask) -> Report | Died:
        """Do a task once. BadPlan, StageFailed, Stalled or Interrupted if it did not end well."""
        pickled = pickle.dumps(task)
        outcome = self._here(pickled) if self._in_process else self._in_worker(pickled, task.stage.label)
        if isinstance(outcome, WorkerFailed):
            self._raise(outcome, task.stage.label)
        return outcome

    def _here(self, pickled: bytes) -> Report:
        if self._bench is None:
            load_torch()  # so that the thread count of a task holds from the first one on
            beat = Heartbeat(self._heartbeat)
            self._bench = Bench(self._store, beat, progress=self._tell, should_stop=self._stop.is_set)
        return self._bench.do(pickled)

    def _tell(self, report: Progress | Alive) -> None:
        if isinstance(report, Progress):
            self._progress(report)

    def _in_worker(self, pickled: bytes, label: str) -> Report | Died:
        if self._worker is None:
            self._worker = WorkerProcess(self._store.root, self._heartbeat, self._torch_threads)
        worker = self._worker
        worker.send(pickled)
        told = False
        last, longest = time.monotonic(), 0.0
        while True:
            report = worker.receive(POLL_SECONDS)
            if self._stop.is_set() and not told:
                worker.send(STOP)
                told = True
            pause = time.monotonic() - last
            if report is None:
                if pause > max(self._stall_timeout, STALL_FACTOR * longest):
                    self._stalled(label, pause)
                continue
            last, longest = time.monotonic(), max(longest, pause)
            if isinstance(report, Progress | Alive):
                self._tell(report)
                continue
            if isinstance(report, Died):
                self.close()
            return report

    def _stalled(self, label: str, pause: float) -> None:
        in_hand = sorted(images_in_hand(self._heartbeat))
        self.close()
        raise Stalled(f"{label}: no sign of life for {pause:.0f} s; images in hand: {in_hand or 'none'}")

    def _raise_if_stopped(self) -> None:
        if self._stop.signum is not None:
            raise Interrupted(self._stop.signum)

    def _raise(self, failed: WorkerFailed, label: str) -> None:
        if failed.kind == "stopped":
            self._raise_if_stopped()
        if failed.kind == "bad_input":
            raise BadPlan((f"{label}: {failed.text}",))
        raise StageFailed(f"{label}:\n{failed.text}")
