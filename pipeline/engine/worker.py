"""A worker process: builds a stage once, makes units and jobs, and dies with its driver.

It ignores SIGINT and SIGTERM: a terminal sends them to the whole group, but it is the driver that decides to
stop.
"""

import os
import pickle
import queue
import re
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from pipeline.data.errors import BadInput
from pipeline.engine.context import Stopped
from pipeline.engine.faults import StageFailed
from pipeline.engine.machine import Heartbeat, announce_threads, apply_threads, die_with_parent
from pipeline.engine.remote_store import open_store
from pipeline.engine.run_job import run_job
from pipeline.engine.run_unit import Surroundings, run_unit
from pipeline.engine.stage import MapStage
from pipeline.engine.store import Store
from pipeline.engine.tasks import Alive, JobTask, Progress, Report, StageTask, UnitTask, WorkerFailed, placed

STOP = b"stop"
# torch's names for it: a class of its own on GPUs, a RuntimeError on CPUs.
_OUT_OF_MEMORY = re.compile(
    r"^OutOfMemoryError: |^RuntimeError: .*(can't allocate|not enough) memory", re.DOTALL
)
ORPHANED = 75  # exit status when the driver is gone


class Bench:
    """Where tasks are done, in a worker process or in the driver's own: keeps the stage it has set up."""

    def __init__(
        self,
        store: Store,
        heartbeat: Heartbeat,
        *,
        progress: Callable[[Progress | Alive], None],
        should_stop: Callable[[], bool],
    ) -> None:
        self._around = Surroundings(store, heartbeat, progress, should_stop)
        self._task: StageTask | None = None
        self._stage: MapStage[object] | None = None

    def do(self, pickled: bytes) -> Report:
        """Do one pickled `UnitTask` or `JobTask`; what goes wrong in it comes back as `WorkerFailed`."""
        try:
            # This imports the stage's module, so it may fail as the stage itself may.
            task = placed(pickle.loads(pickled), self._around.store)
            if isinstance(task, UnitTask):
                return run_unit(self._set_up(task.stage), task, self._around)
            assert isinstance(task, JobTask)
            self._task = self._stage = None  # free a map stage's weights
            apply_threads(task.stage.torch_threads)
            return run_job(task.stage.build_job(), task, self._around)
        except Exception as error:  # noqa: BLE001 (the border of the process: the driver raises it again)
            return failure(error)

    def _set_up(self, task: StageTask) -> MapStage[object]:
        if self._stage is None or self._task != task:
            self._stage = None  # free the old weights before the new ones are loaded
            apply_threads(task.torch_threads)
            stage = task.build_map()
            stage.setup(task.context)
            task.check_artifacts()
            self._around.progress(Alive())  # from here on the time is the images'
            self._stage, self._task = stage, task
        return self._stage


def failure(error: Exception) -> WorkerFailed:
    """What went wrong, as it is told across the border of a process."""
    if isinstance(error, Stopped):
        return WorkerFailed("stopped", str(error))
    if isinstance(error, BadInput):
        return WorkerFailed("bad_input", str(error))
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(f"{type(error).__name__}: {error}"):
        return WorkerFailed("memory", f"{type(error).__name__}: {error}")
    if isinstance(
        error, StageFailed | OSError
    ):  # a broken contract, a full disk: where in our code is of no help
        return WorkerFailed("error", f"{type(error).__name__}: {error}")
    return WorkerFailed("error", "".join(traceback.format_exception(error)))


def work(pipe: Connection, store: str, heartbeat: Path, torch_threads: int) -> None:
    """Main loop of a worker process: tasks come in by the pipe, reports go out by it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent()
    announce_threads(torch_threads)
    tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    stop = threading.Event()
    threading.Thread(target=_listen, args=(pipe, tasks, stop), daemon=True).start()
    bench = Bench(
        open_store(store, known=True), Heartbeat(heartbeat), progress=pipe.send, should_stop=stop.is_set
    )
    while True:
        pipe.send(bench.do(tasks.get()))


def _listen(pipe: Connection, tasks: "queue.SimpleQueue[bytes]", stop: threading.Event) -> None:
    while True:
        try:
            message = pipe.recv_bytes()
        except (EOFError, OSError):
            os._exit(ORPHANED)  # the driver is gone; nothing half-done is visible
        if message == STOP:
            stop.set()
        else:
            tasks.put(message)
