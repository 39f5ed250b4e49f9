"""Workers on a Ray cluster: hired where there is room, handed tasks, given up when they are lost.

A worker has one task at a time, so no more than that is done again when it is lost.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.machine import THREAD_VARIABLES, versions
from pipeline.engine.nodes import Need, Node, choose
from pipeline.engine.ray_cluster import Cluster
from pipeline.engine.ray_train import LEAD, TRAIN_VARIABLES, Ranks, TrainLead, give_room_back
from pipeline.engine.ray_worker import CONTROL, Pulse, RayWorker
from pipeline.engine.tasks import JobTask, Report, UnitTask, WorkerFailed

PULSE_SECONDS = 0.5
CLOSE_SECONDS = 5.0
SILENCE_SECONDS = 60.0  # without an answer, from a worker that has answered before: it or its machine is gone
TAKEN_SECONDS = 60.0  # before that room is tried again
WORDS = 400  # letters of a loss's cause

Task = UnitTask | JobTask


@dataclass(eq=False)
class Worker:
    """An actor and what it was given to do. `pulse`: its last sign of life; None before the first.
    `answered`: whether that is a new one."""

    actor: Any
    node: str
    need: Need
    label: str
    task: Task | None = None
    report: Any = None  # of the task, when it is done
    asked: Any = None
    pulse: Pulse | None = None
    answered: bool = False
    asked_at: float = 0.0
    hired: float = field(default_factory=time.monotonic)
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        return self.task is None

    @property
    def is_ready(self) -> bool:
        """Whether it is there and has nothing to do."""
        return self.is_idle and self.pulse is not None

    def is_late(self, patience: float) -> bool:
        """Whether it has not answered for the first time within `patience` seconds."""
        return self.pulse is None and time.monotonic() - self.hired > patience

    @property
    def is_silent(self) -> bool:
        """Whether it has answered before, and does not any more."""
        return self.pulse is not None and self.waits_longer(SILENCE_SECONDS)

    def waits_longer(self, seconds: float) -> bool:
        """Whether an answer of it is due for longer."""
        return self.asked is not None and time.monotonic() - self.asked_at > seconds

    def send(self, task: Task) -> None:
        """Give it a task; its report comes from `Crew.collect`."""
        self.task, self.report = task, self.actor.do.remote(task)

    def ask(self) -> None:
        """Ask for a pulse, unless one is on its way."""
        now = time.monotonic()
        if self.asked is None and now - self.asked_at > PULSE_SECONDS:
            self.asked, self.asked_at = self.actor.pulse.options(concurrency_group=CONTROL).remote(), now


class Crew:
    """All workers of a run. `sign`: what the driver left in the store, by which a node shows that it sees it.

    `patience`: seconds that a new worker has for its first answer; then it hangs, or Ray finds no room for it, which
    somebody else may have taken. `left`: the tasks of lost workers, each with the cause. `last_loss`: that of the last
    worker, whatever it had to do.
    """

    def __init__(
        self, cluster: Cluster, store: str, sign: str, *, torch_threads: int, patience: float
    ) -> None:
        self._cluster, self._store, self._sign = cluster, store, sign
        self._torch_threads, self._patience = torch_threads, patience
        self.workers: list[Worker] = []
        self.left: list[tuple[Task, str]] = []
        self.last_loss = ""
        self._losses: Counter[str] = Counter()  # by node
        self._taken: list[tuple[float, str, Need]] = []  # room that somebody else seems to have: until when

    def of(self, label: str) -> list[Worker]:
        """The workers of a stage."""
        return [worker for worker in self.workers if worker.label == label]

    def room(self, *, without: Sequence[Worker] = ()) -> list[Node]:
        """The living nodes with what our workers, but those in `without`, leave free."""
        nodes = {node.id: node for node in self._cluster.nodes()}
        now = time.monotonic()
        self._taken = [entry for entry in self._taken if entry[0] > now]
        ours = [(worker.node, worker.need) for worker in self.workers if worker not in without]
        for node, need in [*ours, *((node, need) for _, node, need in self._taken)]:
            if node in nodes:
                nodes[node].take(need)
        return list(nodes.values())

    def hire(
        self,
        label: str,
        need: Need,
        *,
        ranks: Ranks | None = None,
        instead_of: Sequence[Worker] = (),
        reserved: Sequence[Need] = (),
    ) -> bool:
        """One more worker for a stage, on a node that has room, in place of others; whether there was one.

        `ranks`: it leads a team, for which Ray Train finds the room. `reserved`: workers that must find room besides.
        """
        room = self.room(without=instead_of)
        node = choose(room, need, reserved=reserved, liked=lambda node: -self._losses[node.id])
        if node is None:
            return False
        if instead_of:
            self.dismiss(*instead_of)
        self.workers.append(self._start(label, need, node.id, ranks=ranks))
        return True

    def dismiss(self, *workers: Worker) -> None:
        """End workers, whatever they do."""
        import ray

        ends = [worker.actor.close.options(concurrency_group=CONTROL).remote() for worker in workers]
        ray.wait(ends, num_returns=len(ends), timeout=CLOSE_SECONDS)
        for worker in workers:
            self._kill(worker)

    def collect(self, seconds: float) -> list[tuple[Worker, Task, Report]]:
        """The reports that have come in; waits for the first, but not longer. Pulses are taken in on the way.

        A lost worker leaves `workers`, and its tasks go to `left`.
        """
        import ray

        for worker in self.workers:
            worker.ask()
        refs = [worker.report for worker in self.workers if worker.task is not None]
        refs += [worker.asked for worker in self.workers if worker.asked is not None]
        if not refs:
            time.sleep(seconds)
            return []
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if not ready:
            ready, _ = ray.wait(refs, num_returns=1, timeout=seconds)
        found = set(ready)
        return [report for worker in list(self.workers) for report in self._take(worker, found)]

    def stop(self) -> None:
        """Ask all workers to stop after the image in hand."""
        for worker in self.workers:
            worker.actor.stop.options(concurrency_group=CONTROL).remote()

    def close(self) -> None:
        """End all workers."""
        if self.workers:
            self.dismiss(*self.workers)

    def _start(self, label: str, need: Need, node: str, *, ranks: Ranks | None) -> Worker:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        amounts = dict(need.amounts)
        variables = dict.fromkeys(THREAD_VARIABLES, str(self._torch_threads))
        kind, more = (RayWorker, ()) if ranks is None else (TrainLead, (ranks,))
        if ranks is not None:
            give_room_back()
            variables |= TRAIN_VARIABLES
        actor = (
            ray.remote(concurrency_groups={CONTROL: 1})(kind)  # type: ignore[call-overload]
            .options(
                num_cpus=amounts.get("CPU", 0),
                num_gpus=amounts.get("GPU", 0),
                memory=int(amounts.get("memory", 0)) or None,
                max_restarts=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
                runtime_env={"env_vars": variables},
            )
            .remote(self._store, self._torch_threads, self._sign, dict(versions()), *more)
        )
        return Worker(actor, node, need, label)

    def _take(self, worker: Worker, ready: set[Any]) -> list[tuple[Worker, Task, Report]]:
        if worker.asked not in ready and (why := self._given_up(worker)):
            self._lose(worker, why)
            return []
        import ray

        try:
            if worker.asked in ready:
                worker.pulse, worker.asked, worker.answered = ray.get(worker.asked), None, True
            task = worker.task
            if task is None or worker.report not in ready:
                return []
            report = _report(worker)
        except ray.exceptions.RayError as error:  # the actor is gone, or its node, or what it said got lost
            self._lose(worker, " ".join(str(error).split())[-WORDS:])
            return []
        worker.task, worker.idle_since = None, time.monotonic()
        return [(worker, task, report)]

    def _given_up(self, worker: Worker) -> str:
        """Why nothing more is expected of a worker that has not answered; empty if it is."""
        if worker.is_silent:
            return f"no answer for {SILENCE_SECONDS:.0f} s"
        if worker.is_late(self._patience):
            until = time.monotonic() + min(TAKEN_SECONDS, self._patience / 2)
            self._taken.append((until, worker.node, worker.need))
            return f"{worker.need} were not to be had within {self._patience:.0f} s"
        return ""

    def _lose(self, worker: Worker, why: str) -> None:
        self._losses[worker.node] += 1
        self.last_loss = f"node {worker.node[:8]}: {why}"
        self.left += [(worker.task, self.last_loss)] if worker.task is not None else []
        self._kill(worker)

    def _kill(self, worker: Worker) -> None:
        import ray

        self.workers.remove(worker)
        ray.kill(worker.actor, no_restart=True)
        if worker.need == LEAD:
            give_room_back()


def _report(worker: Worker) -> Report:
    import ray

    try:
        report: Report = ray.get(worker.report)
    except ray.exceptions.RayTaskError as error:  # an error within the actor's own code
        return WorkerFailed("error", str(error))
    return report
