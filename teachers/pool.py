"""The training images as a table on disk, so that any of them can be had in any order at constant memory.

Which images make up a step depends on (seed, step) alone: a resumed training sees what an unbroken one would have.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from pipeline.data.arrow import from_table, to_table
from pipeline.data.errors import BadInput
from pipeline.data.paths import Place
from pipeline.data.records import Record
from pipeline.engine.stage import Records
from pipeline.engine.team import ALONE, Team
from teachers.targets import Batch, Example, collate, labels_of, load_example
from teachers.training_set import TrainingImage
from teachers.window import random_window, sam_window

_ROWS = 64  # records held in memory while the table is written
_ORDER, _WINDOW = 0, 1  # streams of random numbers, kept apart
_MAX_THREADS = 16


class Pool(Protocol):
    """Records by their place."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@dataclass(frozen=True)
class Part:
    """Some of a pool's records: its `places`, in this order."""

    pool: Pool
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Record:
        return self.pool[self.places[index]]


class RecordPool:
    """Random access to the records a student may learn from, memory-mapped from `path`."""

    def __init__(self, path: Path) -> None:
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        counts = [self._reader.get_batch(i).num_rows for i in range(self._reader.num_record_batches)]
        self._starts = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Record:
        batch = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = self._reader.get_batch(batch).slice(index - int(self._starts[batch]), 1)
        return from_table(pa.Table.from_batches([row]))[0]


def write_pool(
    data: Records,
    path: Path,
    *,
    class_index: Mapping[int, int],
    filter_empty: bool,
    progress: Callable[[int, int, str], None],
) -> RecordPool:
    """Writes the usable records of `data` to `path` and opens them; images in quarantine are never usable.

    `filter_empty` leaves out images without a target. `progress(done, total, note)` hears of every record. `BadInput`
    for a class the ontology lacks, or if none is left.
    """
    path.unlink(missing_ok=True)  # never rewrite a file that an earlier pool may still have mapped
    writer: pa.ipc.RecordBatchFileWriter | None = None
    with pa.OSFile(str(path), "wb") as sink:
        for rows in _chunks(_usable(_told(data, progress), class_index, filter_empty=filter_empty)):
            table = to_table(rows)
            writer = writer or pa.ipc.new_file(sink, table.schema)
            writer.write_table(table, max_chunksize=_ROWS)
        if writer is None:
            raise BadInput(f"no image to learn from: none of {len(data)} images has a mask of a known class")
        writer.close()
    return RecordPool(path)


@dataclass(frozen=True)
class Halves:
    """Places in a pool: the lower level learns from `lower` (D1), the upper one from `upper` (D2); none is in both."""

    lower: tuple[int, ...]
    upper: tuple[int, ...]


def training_images(pool: Pool) -> list[TrainingImage]:
    """The images of a pool as the cache of features wants them."""
    records = (pool[index] for index in range(len(pool)))
    return [TrainingImage(r.image_id, r.uri, r.sha256, r.height, r.width) for r in records]


def drawn(count: int, step: int, batch: int, *, seed: int, order: int = _ORDER) -> list[int]:
    """Which of `count` things a step's `batch` are: all of them in a new random order, pass after pass."""
    numbers = range(step * batch, (step + 1) * batch)
    passes = {
        turn: np.random.default_rng([seed, order, turn]).permutation(count)
        for turn in {n // count for n in numbers}
    }
    return [int(passes[n // count][n % count]) for n in numbers]


def threads() -> int:
    """That read images."""
    return min(os.cpu_count() or 1, _MAX_THREADS)


@dataclass(frozen=True)
class Loader:
    """Turns (seed, step) into a batch: images in a new random order every epoch, each through its own window.

    `batch` images make a step; a process of a team reads its share of them. Without a `scale` they are seen as SAM sees
    them. `order`: the stream of random numbers that the images are drawn by.
    """

    pool: Pool
    images_root: Place
    class_index: Mapping[int, int]
    size: int
    scale: tuple[float, float] | None
    batch: int
    seed: int
    trust_weights: bool
    team: Team = ALONE
    order: int = _ORDER

    def batches(self, first: int, last: int, *, threads: int) -> Generator[Batch]:
        """Batches of the steps [first, last); the next one is read in `threads` threads while this one is used."""
        with ThreadPoolExecutor(threads) as threads_pool:
            pending = self._submit(threads_pool, first) if first < last else []
            for step in range(first, last):
                ready = pending
                pending = self._submit(threads_pool, step + 1) if step + 1 < last else []
                yield collate([example.result() for example in ready])

    def indices(self, step: int) -> list[int]:
        """Positions in the pool of the images of a step; every image once an epoch."""
        return drawn(len(self.pool), step, self.batch, seed=self.seed, order=self.order)

    def example(self, step: int, slot: int, record: Record) -> Example:
        """An image as it looks in slot `slot` of `step`."""
        shape = record.height, record.width
        if self.scale is None:
            window = sam_window(shape, self.size)
        else:
            rng = np.random.default_rng([self.seed, _WINDOW, step, slot])
            window = random_window(shape, size=self.size, scale=self.scale, rng=rng)
        return load_example(
            record,
            images_root=self.images_root,
            class_index=self.class_index,
            size=self.size,
            window=window,
            trust_weights=self.trust_weights,
        )

    def _submit(self, threads: ThreadPoolExecutor, step: int) -> list[Future[Example]]:
        # The table is read here, in one thread; the images and masks in many.
        slots, order = range(self.batch)[self.team.share(self.batch)], self.indices(step)
        records = [self.pool[order[slot]] for slot in slots]
        return [
            threads.submit(self.example, step, slot, record)
            for slot, record in zip(slots, records, strict=True)
        ]


def _told(data: Records, progress: Callable[[int, int, str], None]) -> Iterator[Record]:
    for done, record in enumerate(data, start=1):
        progress(done, len(data), "images to learn from")
        yield record


def _usable(
    data: Iterable[Record], class_index: Mapping[int, int], *, filter_empty: bool
) -> Iterator[Record]:
    for record in data:
        if record.dropped is None and (labels_of(record, class_index).found or not filter_empty):
            yield record


def _chunks(records: Iterator[Record]) -> Iterator[list[Record]]:
    rows: list[Record] = []
    for record in records:
        rows.append(record)
        if len(rows) == _ROWS:
            yield rows
            rows = []
    if rows:
        yield rows
