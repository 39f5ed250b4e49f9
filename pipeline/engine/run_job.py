"""The one place that runs a job: under its lock, into a scratch folder, committed whole or not at all.

Of a team of processes the leading one holds the lock and commits; what the others write is thrown away.
"""

import json
import os
import time
from collections.abc import Callable, Iterable
from enum import IntEnum
from pathlib import Path

from pydantic import JsonValue

from pipeline.engine import files
from pipeline.engine.artifact import Artifact
from pipeline.engine.context import InHand, Stopped, TrainContext
from pipeline.engine.keys import key_with_losses
from pipeline.engine.machine import Name, versions
from pipeline.engine.run_unit import Surroundings
from pipeline.engine.stage import JobStage
from pipeline.engine.store import Store
from pipeline.engine.tasks import Alive, JobDone, JobTask, Progress
from pipeline.engine.team import ALONE, Team

NOTE_EVERY_SECONDS = 10.0
ALIVE_EVERY_SECONDS = 1.0
LOST = "lost.json"  # beside them: the images that an artifact of this job lacks
SPENT = "spent.json"  # beside the checkpoints: what earlier, killed attempts took


class Word(IntEnum):
    """What the leading process tells the others before they begin."""

    WAIT, WORK, DONE, STOP = range(4)


def run_job(stage: JobStage, task: JobTask, around: Surroundings, team: Team = ALONE) -> JobDone:
    """Do a job, unless another process has committed it meanwhile. Checkpoints of a killed attempt are used.

    An artifact that lacks images which ended the worker is committed under another key (`key_with_losses`), so that the
    next run tries them again, first and alone; where they end it again, that artifact is what it finds.
    """
    store, key = around.store, task.key
    around.heartbeat.begin(task.stage.label)

    def tell_waiting() -> None:
        stops = around.should_stop()
        team.first(Word.STOP if stops else Word.WAIT)
        if stops:
            raise Stopped(f"{task.stage.label}: stopped while another run worked on it")
        around.progress(Progress(0, 0, "another run works on this; waiting for it"))

    with store.job_lock(key, tell_waiting), store.scratch_folder() as out:
        found = None if task.redo else _find(store, task)
        if found is not None:
            team.first(Word.DONE)
            if found.key == key:
                store.forget_work(key)  # a worker that was killed after its commit has left it
            return JobDone(found)
        if task.redo and task.attempt == 0:
            store.forget_work(key)
        spent = _Spent(store.workdir(key), team.world)
        team.first(Word.WORK)
        try:
            metrics = stage.run(task.records, _context(task, around, out, team=team, tick=spent.tick))
        except Stopped:
            around.progress(Alive(saving=True))
            if trouble := store.keep_work(key, now=True):
                around.progress(Progress(0, 0, trouble))
            raise
        task.stage.check_artifacts()
        team.wait()  # nobody reads the checkpoints any more
        about: dict[str, JsonValue] = {
            "versions": dict(versions()),
            "device": task.stage.context.device,
            "world": spent.world,
        }
        if spent.world > 1:
            metrics = {**metrics, "world": spent.world}
        around.progress(Alive(saving=True))
        artifact = store.commit_artifact(
            _made_key(task),
            out,
            stage=stage.name,
            metrics=metrics,
            seconds=spent.seconds(),
            about=about,
            redo=task.redo,
        )
        store.forget_work(key)
        if task.poison:
            _note_lost(store.workdir(key), task.poison)
        return JobDone(artifact)


def _made_key(task: JobTask) -> str:
    """What the artifact is committed under that a task would make now."""
    return key_with_losses(task.key, task.poison) if task.poison else task.key


def _find(store: Store, task: JobTask) -> Artifact | None:
    """The job's artifact or, lacking that, the one without the images that were found to end the worker."""
    found = store.find_artifact(task.key)
    return store.find_artifact(_made_key(task)) if found is None and task.poison else found


def _note_lost(workdir: Path, lost: Iterable[Name]) -> None:
    """Remember the images that ended the worker: who does the job next takes them alone, before all others."""
    files.commit_text(workdir / LOST, json.dumps(sorted(lost, key=str)))


def _lost_before(workdir: Path) -> frozenset[Name]:
    try:
        return frozenset(json.loads((workdir / LOST).read_text()))
    except (FileNotFoundError, TypeError, ValueError):
        return frozenset()  # then they are found out once more


def help_with_job(stage: JobStage, task: JobTask, around: Surroundings, team: Team) -> None:
    """What the other processes of a team do while the leading one is in `run_job`."""
    around.heartbeat.begin(task.stage.label)
    while (word := team.first(0)) == Word.WAIT:
        around.progress(Alive())
    if word == Word.STOP:
        raise Stopped(f"{task.stage.label}: stopped while another run worked on it")
    if word == Word.WORK:
        with around.store.scratch_folder() as out:
            stage.run(task.records, _context(task, around, out, team=team, tick=_nothing))
            team.wait()


def _nothing() -> None:
    """No note of the time."""


class _Spent:
    """What a job takes over all its attempts: seconds of all processes, and the most that had a part in it at once.

    Noted now and then, so a kill loses seconds only.
    """

    def __init__(self, workdir: Path, world: int) -> None:
        self._note = workdir / SPENT
        self._before, before = self._read()
        self._now, self.world = world, max(world, before)
        self._start = self._noted = time.perf_counter()
        if world > before:
            self._write()  # from here on its bits are those of a team's work

    def _read(self) -> tuple[float, int]:
        try:
            found = json.loads(self._note.read_text())
            return float(found["seconds"]), int(found["world"])
        except (FileNotFoundError, KeyError, TypeError, ValueError):
            return 0.0, 1  # where it is damaged, some time is left out of the bill

    def seconds(self) -> float:
        return float(self._before + self._now * (time.perf_counter() - self._start))

    def tick(self) -> None:
        now = time.perf_counter()
        if now - self._noted > NOTE_EVERY_SECONDS:
            self._noted = now
            self._write()

    def _write(self) -> None:
        files.commit_text(self._note, json.dumps({"seconds": self.seconds(), "world": self.world}))


class _Pulse:
    """Asks whether to stop; that a job asks is a sign of life, also where it has no progress to tell, and for the
    other machines of a store, which remove what has been left in it for a day.
    """

    def __init__(self, around: Surroundings, team: Team, out: Path) -> None:
        self._around, self._team, self._out = around, team, out
        self._told = time.monotonic()

    def should_stop(self) -> bool:
        now = time.monotonic()
        if now - self._told > ALIVE_EVERY_SECONDS:
            self._told = now
            self._around.progress(Alive())
            os.utime(self._out)
        return self._team.any(self._around.should_stop())


def _context(
    task: JobTask, around: Surroundings, out: Path, *, team: Team, tick: Callable[[], None]
) -> TrainContext:
    def progress(done: int, total: int, note: str) -> None:
        tick()
        trouble = around.store.keep_work(task.key) if team.leads else ""
        around.progress(Progress(done, total, "; ".join(text for text in (note, trouble) if text)))

    lent = task.stage.context
    workdir = around.store.workdir(task.key)
    return TrainContext(
        device=lent.device,
        ontology=lent.ontology,
        images_root=lent.images_root,
        artifacts=lent.artifacts,
        seed=task.seed,
        workdir=workdir,
        out=out,
        progress=progress,
        should_stop=_Pulse(around, team, out).should_stop,
        key=task.key,
        data_root=task.data_root,
        identity=task.identity,
        timings=task.timings,
        run=task.run,
        team=team,
        in_hand=InHand(
            around.heartbeat.take,
            around.heartbeat.drop,
            task.suspects | _lost_before(workdir),
            task.poison,
        ),
    )
