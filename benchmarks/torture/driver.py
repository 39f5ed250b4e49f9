"""A `pipeline run` as a trial sees it: started, let work, waited for, killed."""

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LIMIT = 180.0  # seconds for one run; a trial that takes longer hangs
HUNG = -1000  # no exit code


class Driver:
    """A `pipeline run` in a session of its own."""

    def __init__(
        self,
        folder: Path,
        command: Sequence[str],
        environment: Mapping[str, str],
        limit: Callable[[], None] | None,
    ) -> None:
        self._told = folder / f"told-{time.monotonic_ns()}.txt"
        with self._told.open("w") as out:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=limit,  # noqa: PLW1509 (no thread of ours holds a lock that it takes)
            )
        self.pid = self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def told(self) -> str:
        """All that it wrote."""
        return self._told.read_text(errors="replace")

    def sleep(self, seconds: float) -> bool:
        """Let it work for so long; whether it still does."""
        return self.until(lambda: False, seconds) or self.is_running

    def until(self, happened: Callable[[], bool], seconds: float = LIMIT) -> bool:
        """Let it work until something has happened; whether it did while the driver was there."""
        end = time.monotonic() + seconds
        while self.is_running and time.monotonic() < end:
            if happened():
                return True
            time.sleep(0.01)
        return False

    def wait(self, seconds: float = LIMIT) -> int:
        """Its exit code as a shell has it; one that hangs is ended, with a code that nobody expects."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return HUNG
        return 128 - code if code < 0 else code

    def kill(self) -> bool:
        """SIGKILL; whether it was still at work."""
        running = self.is_running
        if running:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return running
