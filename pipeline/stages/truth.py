"""Hidden truth at rest: the full records of simulated weak images, by ascending id. Only evaluate may read it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.arrow import SCHEMA, from_table, to_table
from pipeline.data.records import Record
from pipeline.engine.stage import Records

FILE = "truth.parquet"
ROWS = 64  # records in memory at a time


class TruthWriter:
    """Streams records into `folder`; use it in a `with` block."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(folder / FILE, SCHEMA, compression="zstd")
        self._rows: list[Record] = []

    def __enter__(self) -> "TruthWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def add(self, record: Record) -> None:
        """One more record; ids must ascend."""
        self._rows.append(record)
        if len(self._rows) == ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(to_table(self._rows))
            self._rows.clear()


def read_truth(folder: Path) -> Iterator[Record]:
    """The records that `TruthWriter` left in `folder`, by ascending id, a few in memory at a time."""
    with pq.ParquetFile(folder / FILE) as file:
        for batch in file.iter_batches(batch_size=ROWS, use_threads=False):
            yield from from_table(pa.Table.from_batches([batch]))


@dataclass(frozen=True)
class Compared:
    """(truth, found) of every weak image that has hidden truth and is not in quarantine; re-iterable, lazy."""

    records: Records
    truth: Path

    def __iter__(self) -> Iterator[tuple[Record, Record]]:
        truths = read_truth(self.truth)
        truth = next(truths, None)
        for record in self.records:  # both streams ascend by id
            while truth is not None and truth.image_id < record.image_id:
                truth = next(truths, None)
            if truth is not None and truth.image_id == record.image_id and record.dropped is None:
                yield truth, record
