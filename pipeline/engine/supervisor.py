"""A worker process and the one who watches over it: whoever has a supervisor gets each unit made, whatever it does.

A worker that dies, takes too much memory or finishes no image in time is replaced. The images it had in hand become
suspects, each of which is then run alone; one that has ended the worker twice alone is quarantined.
"""

import math
import pickle
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pipeline.engine.machine import Name, images_in_hand, memory_of_machine
from pipeline.engine.process import Died, WorkerProcess
from pipeline.engine.stage import MapConfig
from pipeline.engine.tasks import Alive, JobTask, Progress, Report, UnitTask, WorkerFailed
from pipeline.engine.worker import STOP

POLL_SECONDS = 0.2
DEATHS_ALONE = 2  # an image that ends the worker this often, alone in hand, is to blame
DEATHS_WITHOUT_IMAGE = 3  # a task that ends it this often with no image in hand fails
DEATHS_OF_A_JOB = 8  # so often in a row, by no single image: the job, which begins anew each time, fails
STALL_FACTOR = 20  # a pause is no stall before it is this much longer than the longest so far
SHARE = 0.8  # of the machine's memory, for a worker without a limit of its own
BLAMED_IN_A_ROW = 2  # if after so many no image is finished in time, it is no image's fault
REFUSALS_TO_FAIL = 8  # so often memory is refused, one time after the other, for no single image
LATE, TOO_LARGE = "no image finished in time (image_timeout)", "too much memory (memory_gb)"
STOP_SECONDS = 5.0  # so long a worker may take to see that it is to stop, with no image in hand
STOP_JOB_SECONDS = 60.0  # and a job, without any sign of life


class Supervisor:
    """One worker process, replaced when it is lost; close it at the end."""

    def __init__(
        self,
        store: str,
        heartbeat: Path,
        *,
        torch_threads: int,
        should_stop: Callable[[], bool],
        tell: Callable[[Progress], None],
    ) -> None:
        self._store, self._heartbeat, self._torch_threads = store, heartbeat, torch_threads
        self._should_stop, self._tell = should_stop, tell
        self._worker: WorkerProcess | None = None
        self._finished = 0.0  # when the last image was
        self._longest = 0.0  # seconds between two signs of life in the task at hand
        self._saving = False  # what was done of it, which may take long without a sign of life
        self._blamed = 0  # images that took too long, since one was last finished
        self._refusals = 0  # of memory, since then

    def do(self, task: UnitTask | JobTask) -> Report:
        """`UnitDone`, `JobDone` or, if it cannot be done, `WorkerFailed`."""
        self._finished, self._longest = time.monotonic(), 0.0
        self._blamed = self._refusals = 0
        return self._until_done(task)

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def _until_done(self, task: UnitTask | JobTask) -> Report:
        alone: Counter[Name] = Counter()
        silent = fruitless = 0
        while isinstance(outcome := self._attempt(task), Died):
            if self._should_stop():
                return WorkerFailed("stopped", str(outcome))
            in_hand, blamed = images_in_hand(self._heartbeat), dict[Name, str]()
            if not in_hand:
                silent += 1
                if silent == DEATHS_WITHOUT_IMAGE:
                    return WorkerFailed("error", f"{outcome}, {silent} times with no image in hand")
            elif len(in_hand) == 1 and in_hand <= task.suspects:
                alone.update(in_hand)
                blamed = {image: str(outcome) for image in in_hand if alone[image] >= DEATHS_ALONE}
                self._blamed += len(blamed) if outcome.cause == LATE else 0
            fruitless = 0 if blamed else fruitless + 1
            if isinstance(task, JobTask) and fruitless == DEATHS_OF_A_JOB:
                return WorkerFailed("error", f"{outcome}, {fruitless} times in a row, by no single image")
            task = task.again(in_hand, blamed)
        return outcome

    def _attempt(self, task: UnitTask | JobTask) -> Report | Died:
        """Do a task once."""
        if self._worker is None:
            self._worker = WorkerProcess(self._store, self._heartbeat, self._torch_threads)
        worker = self._worker
        worker.send(pickle.dumps(task))
        told, first, self._saving = math.inf, True, False
        last = looked = time.monotonic()
        while True:
            report = worker.receive(POLL_SECONDS)
            now = time.monotonic()
            if self._should_stop() and told == math.inf:
                worker.send(STOP)
                told = now
            ended = not isinstance(report, Progress | Alive | None)
            if report is None or (not ended and now - looked > POLL_SECONDS):
                looked = now
                report = self._lost(task, pause=0.0 if report else now - last, told=now - told) or report
            if report is None:
                continue
            report = self._refused(report)
            if isinstance(report, Died) or _is_lost(report):
                self.close()
            if not isinstance(report, Progress | Alive):
                return report
            self._longest = self._longest if first else max(self._longest, now - last)
            last, first = now, False
            self._saving |= isinstance(report, Alive) and report.saving
            if isinstance(report, Progress):
                self._finished, self._blamed, self._refusals = last, 0, 0
                self._tell(report)

    def _refused(self, report: Report | Died) -> Report | Died:
        """Memory that is refused with images in hand counts as a death, unless no image gets through any more."""
        if not isinstance(report, WorkerFailed) or report.kind != "memory":
            return report
        self._refusals += 1
        if self._refusals < REFUSALS_TO_FAIL and images_in_hand(self._heartbeat):
            return Died("not enough memory")
        return WorkerFailed("error", report.text)

    def _lost(self, task: UnitTask | JobTask, *, pause: float, told: float) -> Died | WorkerFailed | None:
        """What is wrong with a worker that gave no sign of life for `pause` seconds and was told to stop `told` seconds
        ago; None: nothing so far.
        """
        assert self._worker is not None
        limits = task.stage.limits
        if self._worker.memory() > (limits.memory or SHARE * memory_of_machine()):
            return Died(TOO_LARGE)
        in_hand = images_in_hand(self._heartbeat)
        if told > STOP_SECONDS and isinstance(task, UnitTask) and not in_hand:
            return WorkerFailed("stopped", "ended while it was being set up")
        patience = max(STOP_JOB_SECONDS, 2 * self._longest)
        if min(told, pause) > patience and not in_hand and not self._saving:
            return WorkerFailed("stopped", "ended without a sign of life")
        if in_hand and pause > _call_seconds(task):
            idle = time.monotonic() - self._finished
            if self._blamed < BLAMED_IN_A_ROW or idle < limits.stall_seconds:
                return Died(LATE)
            names = sorted(in_hand, key=str)
            return WorkerFailed("stalled", f"no image finished for {idle:.0f} s; in hand: {names}")
        if not in_hand and pause > max(limits.stall_seconds, STALL_FACTOR * self._longest):
            return WorkerFailed("stalled", f"no sign of life for {pause:.0f} s; no image in hand")
        return None


def _call_seconds(task: UnitTask | JobTask) -> float:
    """What one call of the model may take."""
    config = task.stage.stage.Config.model_validate_json(task.stage.config)
    return task.stage.limits.image_seconds * (config.batch_size if isinstance(config, MapConfig) else 1)


def _is_lost(report: Report) -> bool:
    return isinstance(report, WorkerFailed) and report.kind in ("stalled", "stopped")
