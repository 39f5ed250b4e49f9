"""Workers on a Ray cluster: hired where there is room, handed tasks, given up when they are lost.

A worker has one task at a time, so no more than that is done again when it is lost.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from pipeline.engine.machine import THREAD_VARIABLES, versions
from pipeline.engine.ray_cluster import Cluster, Need, Node
from pipeline.engine.ray_train import LEAD, TRAIN_VARIABLES, Ranks, TrainLead, give_room_back
from pipeline.engine.ray_worker import CONTROL, Pulse, RayWorker
from pipeline.engine.tasks import JobTask, Report, UnitTask, WorkerFailed

PULSE_SECONDS = 0.5
CLOSE_SECONDS = 5.0
SILENCE_SECONDS = 60.0  # without an answer, from a worker that has answered before: it or its machine is gone

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
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        return self.task is None

    def is_silent(self, start: float) -> bool:
        """Whether it has answered before, and does not any more; or does not begin to within `start` seconds."""
        limit = start if self.pulse is None else SILENCE_SECONDS
        return self.asked is not None and time.monotonic() - self.asked_at > limit

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

    `patience`: seconds that a new worker has for its first answer. `left`: the tasks of lost workers.
    """

    def __init__(
        self, cluster: Cluster, store: str, sign: str, *, torch_threads: int, patience: float
    ) -> None:
        self._cluster, self._store, self._sign = cluster, store, sign
        self._torch_threads, self._patience = torch_threads, patience
        self.workers: list[Worker] = []
        self.left: list[Task] = []

    def of(self, label: str) -> list[Worker]:
        """The workers of a stage."""
        return [worker for worker in self.workers if worker.label == label]

    def room(self) -> list[Node]:
        """The living nodes with what our workers leave free."""
        nodes = {node.id: node for node in self._cluster.nodes()}
        for worker in self.workers:
            if worker.node in nodes:
                nodes[worker.node].take(worker.need)
        return list(nodes.values())

    def hire(self, label: str, need: Need, *, ranks: Ranks | None = None) -> bool:
        """One more worker for a stage, on a node that has room; whether there was one.

        `ranks`: it leads a team, for which Ray Train finds the room.
        """
        node = next((node for node in self.room() if node.fits(need)), None)
        if node is None:
            return False
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
        import ray

        try:
            if worker.asked in ready:
                worker.pulse, worker.asked, worker.answered = ray.get(worker.asked), None, True
            elif worker.is_silent(self._patience):
                self._lose(worker)
                return []
            task = worker.task
            if task is None or worker.report not in ready:
                return []
            report = _report(worker)
        except ray.exceptions.RayError:  # the actor is gone, or its node, or what it said got lost
            self._lose(worker)
            return []
        worker.task, worker.idle_since = None, time.monotonic()
        return [(worker, task, report)]

    def _lose(self, worker: Worker) -> None:
        self.left += [worker.task] if worker.task is not None else []
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
