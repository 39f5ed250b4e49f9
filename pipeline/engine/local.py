"""The local engine: one worker process that makes the units and jobs, one after the other.

`in_process` works without a worker, for debugging.
"""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.engine.artifact import Artifact
from pipeline.engine.engine import Advance, Work, raise_failure
from pipeline.engine.machine import Heartbeat, load_torch
from pipeline.engine.signals import StopSignal
from pipeline.engine.store import Store
from pipeline.engine.supervisor import Supervisor
from pipeline.engine.tasks import Alive, JobDone, JobTask, Progress, Report, UnitDone, UnitTask
from pipeline.engine.worker import Bench


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
        in_process: bool = False,
    ) -> None:
        self._store, self._heartbeat, self._stop = store, heartbeat, stop
        self._in_process = in_process
        self._bench: Bench | None = None
        self._progress: Callable[[Progress], None] = _ignore
        self._supervisor = Supervisor(
            store.where,
            heartbeat,
            torch_threads=torch_threads,
            should_stop=stop.is_set,
            tell=self._tell,
        )

    def run_units(self, work: Work, advance: Advance) -> Iterator[UnitDone]:
        """Make the units, those of an earlier stage first; yields each once it is committed."""
        while (task := work.take()) is not None:
            self._stop.raise_if_set()
            label, seen = task.stage.label, 0

            def count(progress: Progress) -> None:
                nonlocal seen
                advance(label, max(0, progress.done - seen))  # noqa: B023
                seen = max(seen, progress.done)

            self._progress = count
            done = self._do(task)
            assert isinstance(done, UnitDone)
            advance(label, max(0, done.images - seen))
            yield done

    def run_job(self, task: JobTask, progress: Callable[[Progress], None]) -> Artifact:
        """Do the job; after a death it is tried again and goes on from its checkpoints."""
        self._stop.raise_if_set()
        self._progress = progress
        done = self._do(task)
        assert isinstance(done, JobDone)
        return done.artifact

    def close(self) -> None:
        """End the worker."""
        self._supervisor.close()

    def _do(self, task: UnitTask | JobTask) -> Report:
        report = self._here(pickle.dumps(task)) if self._in_process else self._supervisor.do(task)
        raise_failure(report, task.stage.label, self._stop)
        return report

    def _here(self, pickled: bytes) -> Report:
        if self._bench is None:
            load_torch()  # so that the thread count of a task holds from the first one on
            beat = Heartbeat(self._heartbeat)
            self._bench = Bench(self._store, beat, progress=self._tell, should_stop=self._stop.is_set)
        return self._bench.do(pickled)

    def _tell(self, report: Progress | Alive) -> None:
        if isinstance(report, Progress):
            self._progress(report)
