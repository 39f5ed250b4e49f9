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
        self._tasks: dict[str, TaskID] = {}
        self._counts: dict[str, tuple[int, int]] = {}  # units done and in all

    def begin(self, label: str, *, units: int, reused: int, images: int) -> None:
        self._progress.start()
        self._counts[label] = reused, units
        count = self._count(label)
        self._tasks[label] = self._progress.add_task(label, total=images or None, units=count, note="")

    def advance(self, label: str, *, units: int = 0, images: int = 0) -> None:
        done, total = self._counts[label]
        self._counts[label] = done + units, total
        self._progress.update(self._tasks[label], advance=images, units=self._count(label))

    def job(self, label: str, done: int, total: int, note: str) -> None:
        self._progress.update(self._tasks[label], completed=done, total=total or None, note=note)

    def end(self, label: str, *, seconds: float, images: int) -> None:  # noqa: ARG002
        number = self._tasks.pop(label)
        total = max(1, next(task.total or 0 for task in self._progress.tasks if task.id == number))
        self._progress.update(number, completed=total, total=total, note="", units=self._count(label))

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()

    def _count(self, label: str) -> str:
        done, total = self._counts[label]
        return f"{done}/{total}"


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


class _Stage:
    """What was told of a stage: units done and in all, images done and left, and when."""

    def __init__(self, units: int, reused: int, images: int) -> None:
        self.units, self.done = units, reused
        self.images, self.left = 0, images
        self.start = self.told = time.monotonic()
        self.pace = _Pace()


class PlainDisplay:
    """A line when a stage begins, one every few seconds, one when it ends."""

    def __init__(self) -> None:
        self._stages: dict[str, _Stage] = {}

    def begin(self, label: str, *, units: int, reused: int, images: int) -> None:
        self._stages[label] = _Stage(units, reused, images)
        if reused < units:
            self._say(label, f"{units} units, {reused} there already, {images} images")

    def advance(self, label: str, *, units: int = 0, images: int = 0) -> None:
        stage = self._stages[label]
        stage.done += units
        stage.images += images
        rate = stage.images / max(time.monotonic() - stage.start, 1e-9)
        left = f", {max(0, stage.left - stage.images) / rate:.0f} s left" if rate else ""
        if not stage.images:
            return  # a job tells by itself how far it is
        self._now_and_then(label, f"{stage.done}/{stage.units} units, {rate:.1f} images/s{left}")

    def job(self, label: str, done: int, total: int, note: str) -> None:
        pace = self._stages[label].pace.of(done, total)
        count = f"{done}/{total} " if total else f"{done} " if done else ""
        self._now_and_then(label, f"{count}{note}".rstrip() + pace)

    def end(self, label: str, *, seconds: float, images: int) -> None:  # noqa: ARG002
        self._say(label, f"done, {self._stages.pop(label).units} units, {seconds:.1f} s")

    def note(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")

    def close(self) -> None:
        """Nothing to put back."""

    def _now_and_then(self, label: str, text: str) -> None:
        stage = self._stages[label]
        if time.monotonic() - stage.told >= LINE_SECONDS:
            stage.told = time.monotonic()
            self._say(label, text)

    def _say(self, label: str, text: str) -> None:
        sys.stderr.write(f"{label}: {text}\n")
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
