"""Map stages that follow each other, as units: which can be made now, given those that are there.

A unit of one stage needs the units of the stage before that hold its images, and no others, so the stages overlap.
A bucket is the top bits of a hash: with `bits` of its own and those of the stage before, each unit is covered by
one earlier unit or covers a row of them.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.engine.keys import unit_key
from pipeline.engine.plan import PlannedStage
from pipeline.engine.stage import MapConfig
from pipeline.engine.store import Store
from pipeline.engine.tasks import StageTask, UnitDone, UnitTask, named
from pipeline.engine.units import Bucket, Part, RecordSet, UnitInput, bits_for, filled_buckets, plan_unit


class Watch(Protocol):
    """Who is told how the stages of a chain, by their number in it, get on. All calls come from `Chain`'s caller."""

    def begun(self, number: int) -> None:
        """The first unit is handed out."""
        ...

    def reused(self, number: int, images: int, key: str) -> None:
        """The unit of a key, of so many images, is there already."""
        ...

    def complete(self, number: int) -> None:
        """All units are there; so are those of the stages before."""
        ...


@dataclass
class Link:
    """One stage of a chain. `shared`: digest of what its units have in common.

    By bucket index: `lacks` how many units of the stage before are not there yet, `keys` of the units whose input is
    known, `kept` the keys of those that are there (others, where images had to be left out). `ready` holds index, rows
    and input digest of those that can be made, `at_work` the index of those handed out.
    """

    planned: PlannedStage
    task: StageTask
    shared: str
    bits: int = 0
    lacks: dict[int, int] = field(default_factory=dict)
    keys: dict[int, str] = field(default_factory=dict)
    kept: dict[int, str] = field(default_factory=dict)
    ready: deque[tuple[int, int, str]] = field(default_factory=deque)
    at_work: dict[str, int] = field(default_factory=dict)
    made: int = 0

    @property
    def total(self) -> int:
        """How many units the stage has."""
        return len(self.lacks)

    @property
    def is_complete(self) -> bool:
        """Whether all its units are there."""
        return len(self.kept) == len(self.lacks)

    @property
    def known(self) -> list[str]:
        """The planned keys as far as they are known, in the order of their buckets."""
        return [self.keys[index] for index in sorted(self.keys)]

    def unit(self, index: int) -> Bucket:
        """The bucket of a unit."""
        return Bucket(self.bits, index)


class Chain:
    """The units of `links` over one record set; the `Work` of an engine."""

    def __init__(
        self, links: Sequence[Link], source: RecordSet, store: Store, *, fresh: bool, watch: Watch
    ) -> None:
        self.links = tuple(links)
        self._source, self._store, self._fresh, self._watch = source, store, fresh, watch
        self._numbers = {link.planned.label: number for number, link in enumerate(links)}
        for link in self.links:
            assert isinstance(link.planned.config, MapConfig)
            link.bits = bits_for(source.rows, link.planned.config.unit_size)
        finest = max(link.bits for link in self.links)
        filled = filled_buckets(source, finest)
        for number, link in enumerate(self.links):
            indices = sorted({index >> (finest - link.bits) for index in filled})
            before = self.links[number - 1] if number else None
            link.lacks = {index: len(_covering(link, index, before)) for index in indices}

    @property
    def stages(self) -> tuple[PlannedStage, ...]:
        """The stages in their order."""
        return tuple(link.planned for link in self.links)

    def begin(self) -> None:
        """Find out what is there already and what can be made at once."""
        for number, link in enumerate(self.links):
            if not link.total:
                self._watch.complete(number)
        for index in self.links[0].lacks:
            self._plan(0, index)

    def take(self, label: str | None = None) -> UnitTask | None:
        """A unit that can be made now, of that stage or of the earliest that has one; None if there is none."""
        for number, link in enumerate(self.links):
            if link.ready and label in (None, link.planned.label):
                return self._hand_out(number, link)
        return None

    def waiting(self, label: str) -> int:
        """How many units of a stage can be made now and were not taken yet."""
        return len(self.links[self._numbers[label]].ready)

    def is_complete(self, label: str) -> bool:
        """Whether all units of a stage are there."""
        return self.links[self._numbers[label]].is_complete

    def done(self, done: UnitDone) -> None:
        """A unit that was taken is made."""
        number = self.number_of(done)
        link = self.links[number]
        link.made += 1
        self._there(number, link.at_work.pop(done.key), done.made)

    def number_of(self, done: UnitDone) -> int:
        """The stage, by its place in the chain, of a unit that was taken."""
        (number,) = (number for number, link in enumerate(self.links) if done.key in link.at_work)
        return number

    def records(self, number: int) -> RecordSet:
        """What a complete stage has left."""
        link = self.links[number]
        parts = tuple(self._part(link, index) for index in sorted(link.kept))
        return RecordSet(self._here(parts), self._source.rows)

    def dropped(self, number: int) -> Iterator[tuple[int, str]]:
        """Id and reason of every image that a complete stage, or one before it, has dropped."""
        for key in self.links[number].kept.values():
            yield from self._store.unit_summary(key).dropped.items()

    def _hand_out(self, number: int, link: Link) -> UnitTask:
        if not link.made and not link.at_work:
            self._watch.begun(number)
        index, rows, digest = link.ready.popleft()
        key = link.keys[index]
        link.at_work[key] = index
        source = UnitInput(link.unit(index), self._parts(number, index), rows, digest)
        return named(UnitTask(link.task, key, source, redo=self._fresh), self._store)

    def _plan(self, number: int, index: int) -> None:
        link = self.links[number]
        unit = self._input(number, index)
        key = link.keys[index] = unit_key(link.shared, unit.bucket.name, unit.digest)
        if not self._fresh and self._store.has_unit(key):
            self._watch.reused(number, unit.rows, key)
            self._there(number, index, key)
        else:
            link.ready.append((index, unit.rows, unit.digest))

    def _there(self, number: int, index: int, key: str) -> None:
        link = self.links[number]
        link.kept[index] = key
        if link.is_complete:
            self._watch.complete(number)
        if number + 1 == len(self.links):
            return
        after = self.links[number + 1]
        for other in _covering(link, index, after):
            after.lacks[other] -= 1
            if not after.lacks[other]:
                self._plan(number + 1, other)

    def _input(self, number: int, index: int) -> UnitInput:
        link, parts = self.links[number], self._parts(number, index)
        if number and self.links[number - 1].bits == link.bits:  # all of one unit, which has been read before
            known = self._store.unit_summary(self.links[number - 1].kept[index])
            return UnitInput(link.unit(index), parts, known.rows, known.digest)
        return plan_unit(self._here(parts), link.unit(index))

    def _parts(self, number: int, index: int) -> tuple[Part, ...]:
        link = self.links[number]
        if not number:
            return self._source.touching(link.unit(index))
        before = self.links[number - 1]
        return tuple(self._part(before, other) for other in _covering(link, index, before))

    def _part(self, link: Link, index: int) -> Part:
        return Part(link.unit(index), self._store.unit_place(link.kept[index]))

    def _here(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        """The parts, as files of this machine."""
        self._store.here([self._store.name_of(part.path) for part in parts])
        return parts


def _covering(link: Link, index: int, other: Link | None) -> list[int]:
    """The units of another stage that share hashes with a unit of `link`."""
    if other is None:
        return []
    finer = other.bits - link.bits
    found = range(index << finer, (index + 1) << finer) if finer > 0 else (index >> -finer,)
    return [index for index in found if index in other.lacks]
