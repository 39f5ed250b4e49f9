"""Record sets as streams: a job reads one in image_id order, ingest writes one, neither holds it in memory."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.data.arrow import SCHEMA, from_table, to_table
from pipeline.data.records import Record, Role
from pipeline.engine import files, parquet
from pipeline.engine.units import Bucket, RecordSet, bits_for

FAN_IN = 128  # files merged at a time: well below the usual limit of open files
ROWS_AT_A_TIME = 32
SPILL_BITS = 4
SPILL_ROWS = 4096
DEFAULT_UNIT = 1024  # each file costs milliseconds when it is written, planned with, or read


@dataclass(frozen=True)
class RecordStream:
    """The records of some roles in image_id order, read from disk each time anew (a `Records`)."""

    records: RecordSet
    roles: frozenset[Role]
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Record]:
        paths = [part.path for part in self.records.parts]
        with files.scratch_folder() as scratch:
            while len(paths) > FAN_IN:
                paths = _merge_groups(paths, scratch)
            yield from heapq.merge(
                *(self._chosen(path) for path in paths), key=lambda record: record.image_id
            )

    def _chosen(self, path: Path) -> Iterator[Record]:
        for batch in parquet.iterate(path, ROWS_AT_A_TIME):
            table = pa.Table.from_batches([batch])
            inside = pc.is_in(
                table.column("role"), pa.array([role.value for role in self.roles], pa.string())
            )
            yield from from_table(table.filter(inside))


def _rows(path: Path) -> Iterator[tuple[int, pa.Table]]:
    for batch in parquet.iterate(path, ROWS_AT_A_TIME):
        table = pa.Table.from_batches([batch]).replace_schema_metadata(None)
        for number, image_id in enumerate(table.column("image_id").to_pylist()):
            yield image_id, table.slice(number, 1)


def _merged(paths: Sequence[Path]) -> Iterator[pa.Table]:
    for _, row in heapq.merge(*(_rows(path) for path in paths), key=lambda pair: pair[0]):
        yield row


def _merge_groups(paths: Sequence[Path], scratch: Path) -> list[Path]:
    merged = []
    for start in range(0, len(paths), FAN_IN):
        target = files.temp_name(scratch)
        group = paths[start : start + FAN_IN]
        with pq.ParquetWriter(target, SCHEMA, write_page_checksum=True) as writer:
            rows = _merged(group)
            while pending := list(islice(rows, SPILL_ROWS)):
                writer.write_table(pa.concat_tables(pending))
        merged.append(target)
    return merged


def write_records(folder: Path, records: Iterable[Record], *, unit_size: int = DEFAULT_UNIT) -> int:
    """Write a record set into an empty folder, for a job whose artifact is one; how many records.

    Memory is bounded: records beyond a few thousand are spilled to disk by hash. ValueError for an id given
    twice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with files.scratch_folder() as spill:
        count = 0
        pending: list[Record] = []
        for count, record in enumerate(records, start=1):
            pending.append(record)
            if len(pending) == SPILL_ROWS:
                _spill(spill, pending, str(count))
                pending = []
        _spill(spill, pending, "last")
        bits = bits_for(count, unit_size)
        coarse = min(bits, SPILL_BITS)
        for number in range(1 << coarse):
            _write_range(folder, spill, Bucket(coarse, number), bits=bits)
    return count


def _spill(folder: Path, records: list[Record], name: str) -> None:
    ids = np.array([record.image_id for record in records], np.int64)
    for number in range(1 << SPILL_BITS):
        chosen = np.flatnonzero(Bucket(SPILL_BITS, number).holds(ids))
        if len(chosen):
            content = parquet.to_bytes(to_table(records[i] for i in chosen))
            (folder / f"{number:02d}-{name}.parquet").write_bytes(content)


def _write_range(folder: Path, spill: Path, bucket: Bucket, *, bits: int) -> None:
    """Write the final files of one coarse bucket from its spilled pieces."""
    width = SPILL_BITS - bucket.bits
    numbers = range(bucket.index << width, (bucket.index + 1) << width)
    pieces = [path for number in numbers for path in sorted(spill.glob(f"{number:02d}-*.parquet"))]
    if not pieces:
        return
    whole = pa.concat_tables([parquet.read(path).replace_schema_metadata(None) for path in pieces])
    whole = whole.sort_by("image_id")
    ids = whole.column("image_id").to_numpy()
    if np.any(ids[1:] == ids[:-1]):
        raise ValueError(f"image_id {ids[1:][ids[1:] == ids[:-1]][0]} was given twice; ids must be unique")
    step = bits - bucket.bits
    for index in range(bucket.index << step, (bucket.index + 1) << step):
        fine = Bucket(bits, index)
        inside = np.flatnonzero(fine.holds(ids))
        if len(inside):
            content = parquet.to_bytes(whole.take(pa.array(inside)))
            (folder / f"{fine.name}.parquet").write_bytes(content)
