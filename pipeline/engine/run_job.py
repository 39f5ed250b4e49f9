"""The one place that runs a job: under its lock, into a scratch folder, committed whole or not at all."""

import json
import time
from pathlib import Path

from pydantic import JsonValue

from pipeline.engine import files
from pipeline.engine.context import Stopped, TrainContext
from pipeline.engine.machine import versions
from pipeline.engine.run_unit import Surroundings
from pipeline.engine.stage import JobStage
from pipeline.engine.tasks import Alive, JobDone, JobTask, Progress

NOTE_EVERY_SECONDS = 10.0
ALIVE_EVERY_SECONDS = 1.0
SPENT = "seconds-spent"  # beside the checkpoints: what earlier, killed attempts took


def run_job(stage: JobStage, task: JobTask, around: Surroundings) -> JobDone:
    """Do a job, unless another process has committed it meanwhile. Checkpoints of a killed attempt are used."""
    store, key = around.store, task.key
    around.heartbeat.begin(task.stage.label)

    def tell_waiting() -> None:
        if around.should_stop():
            raise Stopped(f"{task.stage.label}: stopped while another run worked on it")
        around.progress(Progress(0, 0, "another run works on this; waiting for it"))

    with store.job_lock(key, tell_waiting), store.scratch_folder() as out:
        found = None if task.redo else store.find_artifact(key)
        if found is not None:
            return JobDone(found)
        if task.redo and task.attempt == 0:
            store.forget_work(key)
        clock = _Clock(store.workdir(key))
        try:
            metrics = stage.run(task.records, _context(task, around, clock, out))
        except Stopped:
            store.keep_work(key, now=True)
            raise
        about: dict[str, JsonValue] = {"versions": dict(versions()), "device": task.stage.context.device}
        artifact = store.commit_artifact(
            key,
            out,
            stage=stage.name,
            metrics=metrics,
            seconds=clock.seconds(),
            about=about,
            redo=task.redo,
        )
        store.forget_work(key)
        return JobDone(artifact)


class _Clock:
    """Wall seconds of a job over all its attempts; noted now and then, so a kill loses seconds only."""

    def __init__(self, workdir: Path) -> None:
        self._note = workdir / SPENT
        self._before = json.loads(self._note.read_text()) if self._note.exists() else 0.0
        self._start = self._noted = time.perf_counter()

    def seconds(self) -> float:
        return float(self._before + time.perf_counter() - self._start)

    def tick(self) -> None:
        now = time.perf_counter()
        if now - self._noted > NOTE_EVERY_SECONDS:
            self._noted = now
            files.commit_text(self._note, json.dumps(self.seconds()))


class _Pulse:
    """Asks whether to stop; that a job asks is a sign of life, also where it has no progress to tell."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._told = time.monotonic()

    def should_stop(self) -> bool:
        now = time.monotonic()
        if now - self._told > ALIVE_EVERY_SECONDS:
            self._told = now
            self._around.progress(Alive())
        return self._around.should_stop()


def _context(task: JobTask, around: Surroundings, clock: _Clock, out: Path) -> TrainContext:
    def progress(done: int, total: int, note: str) -> None:
        clock.tick()
        around.store.keep_work(task.key)
        around.progress(Progress(done, total, note))

    lent = task.stage.context
    return TrainContext(
        device=lent.device,
        ontology=lent.ontology,
        images_root=lent.images_root,
        artifacts=lent.artifacts,
        seed=task.seed,
        workdir=around.store.workdir(task.key),
        out=out,
        progress=progress,
        should_stop=_Pulse(around).should_stop,
        key=task.key,
        data_root=task.data_root,
        timings=task.timings,
        run=task.run,
    )
