"""Map stages that follow each other, from the records before to those after: made, logged, shown, counted."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pipeline.engine.chain import Chain, Link
from pipeline.engine.display import Display
from pipeline.engine.engine import Engine
from pipeline.engine.keys import digest_of
from pipeline.engine.known import Known
from pipeline.engine.quarantine import Quarantine
from pipeline.engine.rundir import StageLog
from pipeline.engine.runlog import Logbook
from pipeline.engine.signals import StopSignal
from pipeline.engine.store import Store

NOTE_SECONDS = 5.0  # between two writings of what is known so far


@dataclass(frozen=True)
class Books:
    """Where a run's stages are written down, shown and counted, and who says when to stop."""

    known: Known
    log: Logbook
    display: Display
    quarantine: Quarantine
    stop: StopSignal


@dataclass
class _Seen:
    """What this run saw of one stage: when it began, units and images that were there already, images that its units
    lack.
    """

    began: float = 0.0
    shown: bool = False
    reused: int = 0
    images_reused: int = 0
    noted: float = 0.0
    lost: set[int] = field(default_factory=set)


class MapRun:
    """One chain in one run: the `Watch` of it. `links` by the number of their stage in the run; `end` is told
    that number of each complete stage, and when it began.
    """

    def __init__(
        self,
        links: Mapping[int, Link],
        books: Books,
        store: Store,
        *,
        end: Callable[[int, float], None],
        fresh: bool,
    ) -> None:
        self._numbers = tuple(links)
        self._links = tuple(links.values())
        self._known, self._log, self._display = books.known, books.log, books.display
        self._quarantine, self._stop, self._store, self._end = books.quarantine, books.stop, store, end
        self._fresh = fresh
        self._seen = tuple(_Seen() for _ in self._links)
        self._images = self._known.records.rows
        self._chain = Chain(self._links, self._known.records, store, fresh=fresh, watch=self)

    def run(self, engine: Engine) -> None:
        """Have all units made; what the last stage left is in `known` then."""
        for seen in self._seen:
            seen.began = time.perf_counter()
        with self._stop.interrupting():  # every unit that is there is looked at
            self._chain.begin()
        for done in engine.run_units(self._chain, self._advance):
            number = self._chain.number_of(done)
            self._display.advance(self._links[number].planned.label, units=1)
            self._seen[number].lost.update(self._store.unit_summary(done.made).dropped)
            self._chain.done(done)
            if time.perf_counter() - self._seen[number].noted > NOTE_SECONDS:
                self._note(number)

    def _advance(self, label: str, images: int) -> None:
        self._display.advance(label, images=images)

    # What the chain tells

    def begun(self, number: int) -> None:
        """The first unit is handed out."""
        self._seen[number].began = time.perf_counter()
        self._note(number)
        self._show(number)

    def reused(self, number: int, images: int, key: str) -> None:
        """A unit is there already."""
        seen = self._seen[number]
        seen.lost.update(self._store.unit_summary(key).dropped)
        seen.reused, seen.images_reused = seen.reused + 1, seen.images_reused + images
        if seen.shown:
            self._display.advance(self._links[number].planned.label, units=1, images=images)

    def complete(self, number: int) -> None:
        """All units are there: log the stage, count what it dropped. TooManyBad if that is too much."""
        link = self._links[number]
        label = link.planned.label
        self._show(number)
        log = self._note(number)
        kept = [link.kept[index] for index in sorted(link.kept)]
        if kept != link.known:
            self._display.note(
                f"{label}: images could not be read or ended the worker; the next run tries them again"
            )
        if number + 1 == len(self._links):  # what lies between is read by nobody here
            self._known.records = self._chain.records(number)
        timings = [self._store.unit_timing(key) for key in kept]
        log.seconds, log.images = sum(t.seconds for t in timings), sum(t.images for t in timings)
        self._known.timed[label] = digest_of(list(kept))
        log.quarantined = self._quarantine.count(label, self._images, self._chain.dropped(number))
        self._log.quarantined(self._quarantine.examples)
        self._quarantine.check()
        self._end(self._numbers[number], self._seen[number].began)

    def _show(self, number: int) -> None:
        seen, link = self._seen[number], self._links[number]
        if not seen.shown:
            seen.shown = True
            images = self._images - seen.images_reused
            self._display.begin(link.planned.label, units=link.total, reused=seen.reused, images=images)

    def _note(self, number: int) -> StageLog:
        """Write down which results the stage has, as far as it is known."""
        self._seen[number].noted = time.perf_counter()
        link = self._links[number]
        missing = link.total - self._seen[number].reused
        # A result of before that is to be made again does not count as there.
        keys = [link.keys[index] for index in sorted(link.kept)] if self._fresh else link.known
        before = set().union(*(seen.lost for seen in self._seen[:number]))
        self._log.stage(self._numbers[number]).quarantined = len(self._seen[number].lost - before)
        return self._log.planned(self._numbers[number], keys, units=link.total, missing=missing)
