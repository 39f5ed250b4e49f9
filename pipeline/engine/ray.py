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
from functools import partial
from pathlib import Path

from pipeline.engine import files
from pipeline.engine.artifact import Artifact
from pipeline.engine.crew import Crew, Task, Worker
from pipeline.engine.engine import Advance, Work, raise_failure
from pipeline.engine.faults import StageFailed, Stalled
from pipeline.engine.machine import host
from pipeline.engine.nodes import Need, described
from pipeline.engine.plan import PlannedStage
from pipeline.engine.ray_cluster import Cluster
from pipeline.engine.ray_train import LEAD, Ranks
from pipeline.engine.signals import StopSignal
from pipeline.engine.staff import staff
from pipeline.engine.store import Store
from pipeline.engine.tasks import JobDone, JobTask, Progress, Report, UnitDone, UnitTask, WorkerFailed

WAIT_SECONDS = 0.2
LOOK_SECONDS = 1.0
STOP_SECONDS = 10.0  # without an answer, and nobody waits for a worker when the run is to stop
START_SECONDS = 120.0  # for the first answer of a worker
SIGN_SECONDS = 3600.0  # what is a day old in a store counts as left by the dead
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
        self._crew = Crew(
            cluster,
            store.where,
            self._sign,
            torch_threads=torch_threads,
            patience=min(START_SECONDS, stall_timeout / 2),
        )
        self._again: dict[str, deque[UnitTask]] = defaultdict(deque)
        self._losses: Counter[str] = Counter()
        self._shown: Counter[str] = Counter()  # images of units in hand that were shown, by key
        self._lively = self._finished = self._looked = self._signed = time.monotonic()

    def run_units(self, work: Work, advance: Advance) -> Iterator[UnitDone]:
        """Make the units, of all stages that have some; yields each once it is committed."""
        self._lively = self._finished = time.monotonic()
        while True:
            if not self._stop.is_set():
                staff(self._crew, work, partial(self._ready, work))
            self._assign(work)
            waiting = [stage.label for stage in work.stages if self._ready(work, stage.label)]
            if all(worker.is_idle for worker in self._crew.workers) and not waiting:
                return
            for worker, task, report in self._reports(advance, waiting):
                if isinstance(report, UnitDone):
                    advance(task.stage.label, max(0, report.images - self._shown.pop(task.key, 0)))
                    yield report
                else:
                    self._failed(worker, task, report)

    def run_job(self, task: JobTask, progress: Callable[[Progress], None]) -> Artifact:
        """Do the job; after a death it is tried again and goes on from its checkpoints."""
        self._stop.raise_if_set()
        self._lively = self._finished = time.monotonic()
        label = task.stage.label
        shown = None
        while True:
            if not self._crew.of(label):
                self._lead(label)
            for worker in self._crew.of(label):
                if worker.is_ready:
                    worker.send(replace(task, attempt=self._losses[task.key]))
            for worker, _, report in self._reports(lambda *_: None, [label]):
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

    def _ready(self, work: Work, label: str) -> int:
        here = any(stage.label == label for stage in work.stages)
        return (work.waiting(label) if here else 0) + len(self._again[label])

    def _lead(self, label: str) -> None:
        """Hire who does a job."""
        stage = self._stages[label]
        need = Need.of(stage.resources)
        if stage.world > 1:
            self._crew.close()  # no other stage is at work, and Ray Train finds room for itself
            self._crew.hire(label, LEAD, ranks=Ranks(stage.world, need.amounts))
            return
        idle = [worker for worker in self._crew.workers if worker.is_idle]
        for worker in idle:
            if worker.need == need:
                worker.label = label
                return
        any(self._crew.hire(label, need, instead_of=idle[:count]) for count in range(len(idle) + 1))

    def _assign(self, work: Work) -> None:
        if self._stop.is_set():
            return
        for worker in self._crew.workers:
            if worker.is_ready and (task := self._next(work, worker.label)):
                worker.send(task)

    def _next(self, work: Work, label: str) -> UnitTask | None:
        if self._again[label]:
            return self._again[label].popleft()
        return work.take(label) if self._ready(work, label) else None

    # What comes back

    def _reports(self, advance: Advance, waiting: list[str]) -> list[tuple[Worker, Task, Report]]:
        """What has come in by now; raises what ends the run. `waiting`: the stages that have something to do."""
        if self._stop.is_set():
            self._wind_up()
        reports = self._crew.collect(WAIT_SECONDS)
        for worker in self._crew.workers:
            self._show(worker, advance)
        for task, why in self._crew.left:
            self._lost(task, why)
        self._crew.left.clear()
        if any(isinstance(report, UnitDone | JobDone) for _, _, report in reports):
            self._finished = time.monotonic()
        self._look(waiting)
        return reports

    def _show(self, worker: Worker, advance: Advance) -> None:
        if worker.answered and worker.task is not None:  # whoever watches over the work is there
            self._lively = time.monotonic()
        worker.answered = False
        task = worker.task
        if task is None or not worker.pulse or task.key != worker.pulse.key:
            return
        done = worker.pulse.progress.done
        if done > self._shown[task.key]:
            self._finished = time.monotonic()
            if isinstance(task, UnitTask):
                advance(task.stage.label, done - self._shown[task.key])
            self._shown[task.key] = done

    def _lost(self, task: Task, why: str) -> None:
        self._losses[task.key] += 1
        if self._losses[task.key] >= LOSSES:
            raise StageFailed(f"{task.stage.label}: the worker was lost {LOSSES} times; the last one: {why}")
        if isinstance(task, UnitTask):
            self._again[task.stage.label].append(task)

    def _failed(self, worker: Worker, task: Task, report: Report) -> None:
        assert isinstance(report, WorkerFailed)
        if report.kind == "stopped":
            self._wind_up()
        if report.kind == "stalled" and time.monotonic() - self._finished < self._stall_timeout:
            self._crew.dismiss(worker)  # others get on, so its machine may be at fault
            self._lost(task, report.text)
            return
        raise_failure(report, task.stage.label, self._stop)

    def _wind_up(self) -> None:
        """Let every worker finish the image in hand, then end the run."""
        self._crew.stop()
        while any(worker.task and not worker.waits_longer(STOP_SECONDS) for worker in self._crew.workers):
            self._crew.collect(WAIT_SECONDS)
        self._stop.raise_if_set()

    def _look(self, waiting: list[str]) -> None:
        """Now and then: is anybody there? Tells on disk what is in hand, as a worker of the local engine does."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        if self._looked - self._signed > SIGN_SECONDS:
            self._signed = self._looked
            self._store.renew_sign(self._sign)
        nodes = self._cluster.nodes()
        if not nodes:
            raise StageFailed("no machine of the Ray cluster is left; the same command goes on from here")
        silent = self._looked - self._lively
        if silent > self._stall_timeout:
            needs = "; ".join(f"{label} needs {Need.of(self._stages[label].resources)}" for label in waiting)
            last = f"; the last worker that was lost: {self._crew.last_loss}" if self._crew.last_loss else ""
            raise Stalled(
                f"no sign of life from any worker at work for {silent:.0f} s; {needs}; the nodes have "
                f"{described(nodes)}, perhaps others use them{last}"
            )
        busy = [worker.pulse for worker in self._crew.workers if worker.task and worker.pulse]
        beat = {
            "pid": os.getpid(),
            "host": host(),
            "about": "; ".join(sorted({pulse.about for pulse in busy if pulse.about})),
            "ids": sorted((image for pulse in busy for image in pulse.ids), key=str),
        }
        files.commit_text(self._heartbeat, json.dumps(beat))
