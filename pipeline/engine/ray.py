"""The Ray engine: the units of several stages at once, on workers all over a cluster.

A short scheduler of our own: workers are hired for stages that have units ready, where the cluster has room; what is
ready goes to idle workers, later stages first; what a lost worker had goes to another. Only names cross a process.
"""

import json
import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.engine import files
from pipeline.engine.artifact import Artifact
from pipeline.engine.crew import Crew, Task, Worker
from pipeline.engine.engine import Advance, Work, raise_failure, raise_if_stopped
from pipeline.engine.faults import StageFailed, Stalled
from pipeline.engine.machine import host
from pipeline.engine.plan import PlannedStage
from pipeline.engine.ray_cluster import Cluster, Need
from pipeline.engine.ray_train import LEAD, Ranks
from pipeline.engine.signals import StopSignal
from pipeline.engine.store import Store
from pipeline.engine.tasks import JobDone, JobTask, Progress, Report, UnitDone, UnitTask, WorkerFailed

WAIT_SECONDS = 0.2
LOOK_SECONDS = 1.0
SPARE_SECONDS = 5.0  # without work, before a worker goes over to another stage
LOSSES = 5  # a task whose worker is lost so often is at fault itself


class RayEngine:
    """The scheduler of one run; close it at the end. `stages` are all stages of the run."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        heartbeat: Path,
        *,
        stages: tuple[PlannedStage, ...],
        stop: StopSignal,
        torch_threads: int,
        stall_timeout: float,
    ) -> None:
        self._cluster, self._heartbeat, self._stop = cluster, heartbeat, stop
        self._stages = {stage.label: stage for stage in stages}
        self._stall_timeout = stall_timeout
        self._store, self._sign = store, store.leave_sign()
        self._crew = Crew(cluster, store.where, self._sign, torch_threads)
        self._again: dict[str, deque[UnitTask]] = defaultdict(deque)
        self._losses: Counter[str] = Counter()
        self._shown: Counter[str] = Counter()  # images of units in hand that were shown, by key
        self._lively = self._finished = self._looked = time.monotonic()

    def run_units(self, work: Work, advance: Advance) -> Iterator[UnitDone]:
        """Make the units, of all stages that have some; yields each once it is committed."""
        self._lively = self._finished = time.monotonic()
        while True:
            self._staff(work)
            self._assign(work)
            if all(worker.is_idle for worker in self._crew.workers) and not self._waiting(work):
                return
            for worker, task, report in self._reports(advance):
                if isinstance(report, UnitDone):
                    advance(task.stage.label, max(0, report.images - self._shown.pop(task.key, 0)))
                    yield report
                else:
                    self._failed(worker, task, report)

    def run_job(self, task: JobTask, progress: Callable[[Progress], None]) -> Artifact:
        """Do the job; after a death it is tried again and goes on from its checkpoints."""
        raise_if_stopped(self._stop)
        self._lively = self._finished = time.monotonic()
        label = task.stage.label
        shown = None
        while True:
            if not self._crew.of(label):
                self._hire(label)
            for worker in self._crew.of(label):
                if worker.is_idle:
                    worker.send(replace(task, attempt=self._losses[task.key]))
            for worker, _, report in self._reports(lambda *_: None):
                if isinstance(report, JobDone):
                    if self._stages[label].world > 1:
                        self._crew.dismiss(worker)  # it leads nobody any more
                    return report.artifact
                self._failed(worker, task, report)
            for worker in self._crew.of(label):
                if worker.pulse and worker.pulse.key == task.key and worker.pulse.progress != shown:
                    shown = worker.pulse.progress
                    progress(shown)

    def close(self) -> None:
        """End the workers and leave the cluster."""
        self._store.take_back(self._sign)
        self._crew.close()
        self._cluster.close()

    # Who works on what

    def _waiting(self, work: Work) -> int:
        return sum(self._ready(work, stage.label) for stage in work.stages)

    def _ready(self, work: Work, label: str) -> int:
        here = any(stage.label == label for stage in work.stages)
        return (work.waiting(label) if here else 0) + len(self._again[label])

    def _staff(self, work: Work) -> None:
        """Hire for each stage what its ready units ask for, the fewest workers of every stage before more of any."""
        if self._stop.is_set():
            return
        ready = [stage for stage in reversed(work.stages) if self._ready(work, stage.label)]
        for extra in (False, True):
            for stage in ready:
                fewest, most = stage.resources.workers
                there = self._crew.of(stage.label)
                busy = sum(not worker.is_idle for worker in there)
                wanted = min(most if extra else max(1, fewest), busy + self._ready(work, stage.label))
                for _ in range(wanted - len(there)):
                    if not self._hire(stage.label, work):
                        break

    def _hire(self, label: str, work: Work | None = None) -> bool:
        """One more worker for a stage: one that has nothing to do elsewhere, or a new one where there is room."""
        stage = self._stages[label]
        need = Need.of(stage.resources)
        if stage.world > 1:
            self._crew.close()  # no other stage is at work, and Ray Train finds room for itself
            return self._crew.hire(label, LEAD, ranks=Ranks(stage.world, need.amounts))
        free = [worker for worker in self._crew.workers if self._is_free(worker, work)]
        for worker in free:
            if worker.need == need:
                worker.label = label
                return True
        while not self._crew.hire(label, need):
            if not free:
                return False
            self._crew.dismiss(free.pop())
        return True

    def _is_free(self, worker: Worker, work: Work | None) -> bool:
        """Whether its stage can spare it: for good, or as long as one can see."""
        if not worker.is_idle or work is None or worker.label not in [stage.label for stage in work.stages]:
            return worker.is_idle
        # Another stage would drop its model, and it might soon have to load that again.
        long = time.monotonic() - worker.idle_since > SPARE_SECONDS
        return not self._ready(work, worker.label) and (long or work.is_complete(worker.label))

    def _assign(self, work: Work) -> None:
        if self._stop.is_set():
            return
        for worker in self._crew.workers:
            if worker.is_idle and (task := self._next(work, worker.label)):
                worker.send(task)

    def _next(self, work: Work, label: str) -> UnitTask | None:
        if self._again[label]:
            return self._again[label].popleft()
        return work.take(label) if self._ready(work, label) else None

    # What comes back

    def _reports(self, advance: Advance) -> list[tuple[Worker, Task, Report]]:
        """What has come in by now; raises what ends the run."""
        if self._stop.is_set():
            self._wind_up()
        reports = self._crew.collect(WAIT_SECONDS)
        for worker in self._crew.workers:
            self._show(worker, advance)
        for task in self._crew.left:
            self._lost(task)
        self._crew.left.clear()
        if any(isinstance(report, UnitDone | JobDone) for _, _, report in reports):
            self._finished = time.monotonic()
        self._look()
        return reports

    def _show(self, worker: Worker, advance: Advance) -> None:
        if worker.answered:  # whoever watches over the work is there
            self._lively, worker.answered = time.monotonic(), False
        task = worker.task
        if task is None or not worker.pulse or task.key != worker.pulse.key:
            return
        done = worker.pulse.progress.done
        if done > self._shown[task.key]:
            self._finished = time.monotonic()
            if isinstance(task, UnitTask):
                advance(task.stage.label, done - self._shown[task.key])
            self._shown[task.key] = done

    def _lost(self, task: Task) -> None:
        self._losses[task.key] += 1
        if self._losses[task.key] >= LOSSES:
            raise StageFailed(f"{task.stage.label}: the worker was lost {LOSSES} times, or its machine was")
        if isinstance(task, UnitTask):
            self._again[task.stage.label].append(task)

    def _failed(self, worker: Worker, task: Task, report: Report) -> None:
        assert isinstance(report, WorkerFailed)
        if report.kind == "stopped":
            self._wind_up()
        if report.kind == "stalled" and time.monotonic() - self._finished < self._stall_timeout:
            self._crew.dismiss(worker)  # others get on, so its machine may be at fault
            self._lost(task)
            return
        raise_failure(report, task.stage.label, self._stop)

    def _wind_up(self) -> None:
        """Let every worker finish the image in hand, then end the run."""
        self._crew.stop()
        while any(worker.task and worker.pulse for worker in self._crew.workers):
            self._crew.collect(WAIT_SECONDS)
        raise_if_stopped(self._stop)

    def _look(self) -> None:
        """Now and then: is anybody there? Tells on disk what is in hand, as a worker of the local engine does."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        if not self._cluster.nodes():
            raise StageFailed("no machine of the Ray cluster is left; the same command goes on from here")
        silent = self._looked - self._lively
        if silent > self._stall_timeout:
            raise Stalled(f"no sign of life from any of {len(self._crew.workers)} workers for {silent:.0f} s")
        busy = [worker.pulse for worker in self._crew.workers if worker.task and worker.pulse]
        beat = {
            "pid": os.getpid(),
            "host": host(),
            "about": "; ".join(sorted({pulse.about for pulse in busy if pulse.about})),
            "ids": sorted((image for pulse in busy for image in pulse.ids), key=str),
        }
        files.commit_text(self._heartbeat, json.dumps(beat))
