"""A spawned worker process as its driver sees it."""

import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.engine.tasks import Report
from pipeline.engine.worker import work


@dataclass(frozen=True)
class Died:
    """The worker process is lost; `cause` says why, in the same words wherever and whenever it happens."""

    cause: str

    def __str__(self) -> str:
        return f"worker died: {self.cause}"

    @classmethod
    def by_itself(cls, exitcode: int | None) -> "Died":
        """A process that nobody here ended; a negative `exitcode` is a signal's number."""
        if exitcode is not None and exitcode < 0:
            return cls(f"killed by signal {-exitcode}")
        return cls(f"ended with status {exitcode}")


class WorkerProcess:
    """A spawned worker and the pipe to it; started when first needed."""

    def __init__(self, store: str, heartbeat: Path, torch_threads: int) -> None:
        self.heartbeat = heartbeat
        heartbeat.unlink(missing_ok=True)  # what an earlier worker had in hand is not this one's
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(
            target=work, args=(far_end, store, heartbeat, torch_threads), name="omnimask-worker"
        )
        self._process.start()
        self._watched = psutil.Process(self._process.pid)
        far_end.close()

    def send(self, message: bytes) -> None:
        """Hand over a task or STOP; a dead worker is found by the next `receive`."""
        try:
            self._pipe.send_bytes(message)
        except BrokenPipeError:
            return

    def receive(self, seconds: float) -> Report | Died | None:
        """The next report, or None if there is none so soon."""
        try:
            if self._pipe.poll(seconds):
                report: Report = self._pipe.recv()
                return report
        except (EOFError, OSError):
            self._process.join()
            return Died.by_itself(self._process.exitcode)
        return None

    def memory(self) -> int:
        """Resident bytes; 0 if it is gone."""
        try:
            return int(self._watched.memory_info().rss)
        except psutil.Error:
            return 0

    def kill(self) -> None:
        """End the worker, whatever it does."""
        self._process.kill()
        self._process.join()
        self._pipe.close()
