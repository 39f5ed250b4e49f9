"""SIGINT and SIGTERM: the first asks to stop after the image in hand, the second ends the process at once."""

import os
import signal
from types import FrameType, TracebackType

EXIT_BASE = 128
CAUGHT = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Catches both signals while it is entered; `signum` is the one that came, None before."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._before = {number: signal.getsignal(number) for number in CAUGHT}

    def __enter__(self) -> "StopSignal":
        for number in CAUGHT:
            signal.signal(number, self._caught)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def is_set(self) -> bool:
        """Whether the run was asked to stop."""
        return self.signum is not None

    def _caught(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.signum is not None:
            os._exit(EXIT_BASE + signum)  # the worker sees its pipe close and ends too
        self.signum = signum
