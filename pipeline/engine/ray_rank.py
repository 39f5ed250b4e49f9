"""What runs in each process of a team that Ray Train has started: its part of one job.

It tells the lead twice a second how it gets on, and hears whether to stop; without a lead it ends at once, so that
nobody works on a job that another team has begun anew.
"""

import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psutil

from pipeline.engine.machine import Heartbeat, apply_threads, memory_of_machine
from pipeline.engine.ray_worker import CONTROL, settle, unfitness
from pipeline.engine.remote_store import open_store
from pipeline.engine.run_job import help_with_job, run_job
from pipeline.engine.run_unit import Surroundings
from pipeline.engine.supervisor import SHARE
from pipeline.engine.tasks import Alive, JobTask, Progress, Report, WorkerFailed, placed
from pipeline.engine.team import Team, TeamBroken
from pipeline.engine.worker import ORPHANED, failure

TELL_SECONDS = 0.5


@dataclass(frozen=True)
class Rank:
    """What a process is told at its start. `task`: a pickled `JobTask`; `lead`: the actor to tell.

    `sign`, `expected`: as for `RayWorker`.
    """

    store: str
    task: bytes
    lead: Any
    sign: str
    expected: dict[str, str]


@dataclass(frozen=True)
class Sign:
    """What a process tells its lead: whether it did something since, how far it is, and at its end how it ended."""

    is_lively: bool = False
    progress: Progress | None = None
    report: Report | None = None


def rank_main(config: dict[str, Rank]) -> None:
    """The training loop that Ray Train runs in every process."""
    from ray import train

    rank, context = config["rank"], train.get_context()
    number, world = context.get_world_rank(), context.get_world_size()
    voice = _Voice(rank.lead, number, pickle.loads(rank.task))
    with voice.speaking():
        report = _work(rank, number, world, voice)
    voice.say(Sign(is_lively=True, report=report))
    if isinstance(report, WorkerFailed) and report.kind != "stopped":
        raise RuntimeError(report.text)  # so that Ray Train ends the others, who may wait for us


def _work(rank: Rank, number: int, world: int, voice: "_Voice") -> Report | None:
    if unfit := unfitness(rank.store, rank.sign, rank.expected):
        return WorkerFailed("bad_input", unfit)
    folder = settle("omrank")
    try:
        store = open_store(rank.store, known=True)
        task = placed(voice.task, store)
        assert isinstance(task, JobTask)
        team = Team(number, world, _device(task.stage.context.device))
        lent = replace(task.stage.context, device=team.device)
        task = replace(task, stage=replace(task.stage, context=lent))
        around = Surroundings(store, Heartbeat(folder / "heartbeat.json"), voice.tell, voice.should_stop)
        apply_threads(task.stage.torch_threads)
        stage = task.stage.build_job()
        if team.leads:
            return run_job(stage, task, around, team)
        help_with_job(stage, task, around, team)
        return None
    except TeamBroken:
        raise  # the one that is lost is at fault, not this one
    except Exception as error:  # noqa: BLE001 (the border of the process: the driver raises it again)
        return failure(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _device(asked: str) -> str:
    """The device of this process: Ray Train has given each its own GPU."""
    if not asked.startswith("cuda"):
        return asked
    from ray.train.torch import get_device

    return str(get_device())


class _Voice:
    """Tells the lead how its process gets on, from a thread, and hears whether to stop."""

    def __init__(self, lead: Any, rank: int, task: JobTask) -> None:
        self.task = task
        self._lead, self._rank = lead, rank
        self._limit = task.stage.limits.memory or SHARE * memory_of_machine()
        self._process = psutil.Process()
        self._stop, self._over = threading.Event(), threading.Event()
        self._lively, self._progress = True, Progress(0, 0)

    def tell(self, sign: Progress | Alive) -> None:
        """The work goes on; the lead hears of it soon."""
        self._lively = True
        if isinstance(sign, Progress):
            self._progress = sign

    def should_stop(self) -> bool:
        """Whether the lead has said so."""
        return self._stop.is_set()

    def say(self, sign: Sign) -> None:
        """Tell the lead, at once."""
        import ray

        hear = self._lead.hear.options(concurrency_group=CONTROL)
        try:
            if ray.get(hear.remote(self._rank, self.task.attempt, sign)):
                self._stop.set()
        except ray.exceptions.RayActorError:
            os._exit(ORPHANED)

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Tell the lead again and again."""
        thread = threading.Thread(target=self._speak, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _speak(self) -> None:
        while True:
            lively, self._lively = self._lively, False
            self.say(Sign(lively, self._progress))
            if self._process.memory_info().rss > self._limit:
                self.say(Sign(report=WorkerFailed("error", "too much memory (memory_gb)")))
                os._exit(ORPHANED)
            if self._over.wait(TELL_SECONDS):
                return
