"""How a run shows itself: a live table in a terminal, plain lines elsewhere."""

import os
import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pipeline.data.errors import printable

LINE_SECONDS = 5.0
STATE_SECONDS = 0.2
CLOSED = 128 + 13  # as a process that SIGPIPE ends


class _Rate(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="cyan")


class LiveDisplay:
    """One line a stage with a bar, units done, images a second and the time left."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[units]}"),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None
        self._units = self._done = 0

    def begin(self, label: str, *, units: int, reused: int, images: int) -> None:
        self._progress.start()
        self._units, self._done = units, reused
        self._task = self._progress.add_task(label, total=images or None, units=self._count(), note="")

    def advance(self, *, units: int = 0, images: int = 0, note: str = "") -> None:
        assert self._task is not None
        self._done += units
        self._progress.update(self._task, advance=images, units=self._count(), note=note)

    def job(self, done: int, total: int, note: str) -> None:
        assert self._task is not None
        self._progress.update(self._task, completed=done, total=total or None, note=note)

    def end(self, label: str, *, seconds: float, images: int) -> None:  # noqa: ARG002
        assert self._task is not None
        total = max(1, self._progress.tasks[-1].total or 0)
        self._progress.update(self._task, completed=total, total=total, note="", units=self._count())

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()

    def _count(self) -> str:
        return f"{self._done}/{self._units}"


class _Pace:
    """How fast a job goes and how long it still takes, from what it told since it began to count."""

    def __init__(self) -> None:
        self._first = self._total = 0
        self._last: int | None = None
        self._start = time.monotonic()

    def of(self, done: int, total: int) -> str:
        """ ", 2.0/s, 30 s left" in so far as it is known; a new total or a smaller count is a new beginning."""
        now = time.monotonic()
        if self._last is None or done < self._last or total != self._total:
            # What is done at the first word may be an earlier run's, so it says nothing about this one's pace.
            self._first, self._total, self._start = done, total, now
        self._last = done
        gone = now - self._start
        if done == self._first or not gone:
            return ""
        rate = (done - self._first) / gone
        left = f", {max(0, total - done) / rate:.0f} s left" if total else ""
        return f", {rate:.1f}/s{left}"


class PlainDisplay:
    """A line when a stage begins, one every few seconds, one when it ends."""

    def __init__(self) -> None:
        self._label = ""
        self._units = self._done = self._images = self._left = 0
        self._start = self._told = 0.0
        self._pace = _Pace()

    def begin(self, label: str, *, units: int, reused: int, images: int) -> None:
        self._label, self._units, self._done = label, units, reused
        self._images, self._left = 0, images
        self._start = self._told = time.monotonic()
        self._pace = _Pace()
        if reused < units:
            self._say(f"{units} units, {reused} there already, {images} images")

    def advance(self, *, units: int = 0, images: int = 0, note: str = "") -> None:
        self._done += units
        self._images += images
        rate = self._images / max(time.monotonic() - self._start, 1e-9)
        left = f", {max(0, self._left - self._images) / rate:.0f} s left" if rate else ""
        if not self._images:
            return  # a job tells by itself how far it is
        self._now_and_then(f"{self._done}/{self._units} units, {rate:.1f} images/s{left} {note}")

    def job(self, done: int, total: int, note: str) -> None:
        pace = self._pace.of(done, total)
        count = f"{done}/{total} " if total else f"{done} " if done else ""
        self._now_and_then(f"{count}{note}".rstrip() + pace)

    def end(self, label: str, *, seconds: float, images: int) -> None:  # noqa: ARG002
        self._say(f"done, {self._units} units, {seconds:.1f} s")

    def note(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")

    def close(self) -> None:
        """Nothing to put back."""

    def _now_and_then(self, text: str) -> None:
        if time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            self._say(text)

    def _say(self, text: str) -> None:
        sys.stderr.write(f"{self._label}: {text.rstrip()}\n")
        sys.stderr.flush()


class Lines:
    """A result line by line on standard output; how far the work is on standard error, if that is a terminal."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown = False
        self._told = 0.0

    def line(self, text: str) -> None:
        """One line, whatever stands in the text; the process ends when nobody reads any more."""
        self._clear()
        encoding = sys.stdout.encoding or "utf-8"
        known = printable(text).encode(encoding, "backslashreplace").decode(encoding)
        try:
            sys.stdout.write(f"{known}\n")
            sys.stdout.flush()
        except BrokenPipeError:  # as with `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(CLOSED) from None

    def state(self, text: str) -> None:
        """What is being done, in place of what was said before."""
        now = time.monotonic()
        if self._live and now - self._told >= STATE_SECONDS:
            self._told, self._shown = now, True
            sys.stderr.write(f"\r{printable(text)}\x1b[K")
            sys.stderr.flush()

    def trouble(self, text: str) -> None:
        """A traceback."""
        self._clear()
        sys.stderr.write(text)

    def _clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False


def make_display() -> LiveDisplay | PlainDisplay:
    """The live one if standard error is a terminal."""
    return LiveDisplay() if sys.stderr.isatty() else PlainDisplay()
