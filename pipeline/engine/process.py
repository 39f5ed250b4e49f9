"""A spawned worker process as its driver sees it."""

import multiprocessing
from dataclasses import dataclass
from pathlib import Path

from pipeline.engine.tasks import Report
from pipeline.engine.worker import work


@dataclass(frozen=True)
class Died:
    """The worker process ended by itself; a negative `exitcode` is a signal's number."""

    exitcode: int | None

    def __str__(self) -> str:
        if self.exitcode is not None and self.exitcode < 0:
            return f"the worker was killed by signal {-self.exitcode}"
        return f"the worker ended with status {self.exitcode}"


class WorkerProcess:
    """A spawned worker and the pipe to it; started when first needed."""

    def __init__(self, store: Path, heartbeat: Path, torch_threads: int) -> None:
        self.heartbeat = heartbeat
        heartbeat.unlink(missing_ok=True)  # what an earlier worker had in hand is not this one's
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(
            target=work, args=(far_end, store, heartbeat, torch_threads), name="omnimask-worker"
        )
        self._process.start()
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
            return Died(self._process.exitcode)
        return None

    def kill(self) -> None:
        """End the worker, whatever it does."""
        self._process.kill()
        self._process.join()
        self._pipe.close()
