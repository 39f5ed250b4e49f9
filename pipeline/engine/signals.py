"""SIGINT and SIGTERM: the first asks to stop after the image in hand, the second ends the process at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from pipeline.engine.faults import Interrupted

EXIT_BASE = 128
CAUGHT = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Catches both signals while it is entered; `signum` is the one that came, None before."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._interrupts = False
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

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Within it a signal raises Interrupted at once: for long work of the driver's own that nothing is lost of."""
        self._interrupts = True
        try:
            self.raise_if_set()
            yield
        finally:
            self._interrupts = False

    def raise_if_set(self) -> None:
        """Interrupted, if a signal came."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def _caught(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.signum is not None:
            os._exit(EXIT_BASE + signum)  # the worker sees its pipe close and ends too
        self.signum = signum
        if self._interrupts:
            self.raise_if_set()
