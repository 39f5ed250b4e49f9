"""Units: record sets cut into buckets of a hash of image_id, so that an added image touches one unit.

A record set is a row of Parquet files, each holding one contiguous range of hashes. Bucket counts are powers
of two and a bucket is the top bits of the hash, so the buckets of different counts nest: a stage with another
count reads a part of a file, or several.
"""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from pipeline.data.arrow import SCHEMA, from_table
from pipeline.data.records import Record, Role
from pipeline.engine import parquet

HASH_BITS = 64


def hash_ids(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """64-bit hashes of image ids [N] (the finaliser of splitmix64, Steele et al. 2014)."""
    mixed = ids.astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def bits_for(images: int, unit_size: int) -> int:
    """log2 of the bucket count: the next power of two of images / unit_size."""
    return (-(-max(images, 1) // unit_size) - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Bucket:
    """The hashes whose top `bits` bits are `index`; bits 0 is everything."""

    bits: int
    index: int

    @property
    def name(self) -> str:
        return f"{self.bits:02d}-{self.index:x}"

    @property
    def first(self) -> int:
        return self.index << (HASH_BITS - self.bits)

    @property
    def last(self) -> int:
        return ((self.index + 1) << (HASH_BITS - self.bits)) - 1

    def holds(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of the ids [N] fall into the bucket."""
        hashes = hash_ids(ids)
        return (hashes >= np.uint64(self.first)) & (hashes <= np.uint64(self.last))

    @classmethod
    def parse(cls, name: str) -> "Bucket":
        """The bucket of a `name`; ValueError for another text."""
        bits, index = name.split("-")
        return cls(int(bits), int(index, 16))


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a record set and the hashes it holds."""

    bucket: Bucket
    path: Path


@dataclass(frozen=True)
class RecordSet:
    """Files that together hold every record once, in the order of their hashes, none of them empty; `rows` in all."""

    parts: tuple[Part, ...]
    rows: int

    @classmethod
    def of_folder(cls, folder: Path) -> "RecordSet":
        """The record set that `write_records` left in a folder."""
        rows = {Part(Bucket.parse(path.stem), path): parquet.rows(path) for path in folder.glob("*.parquet")}
        parts = sorted((part for part in rows if rows[part]), key=lambda part: part.bucket.first)
        return cls(tuple(parts), sum(rows.values()))

    @cached_property
    def _firsts(self) -> list[int]:
        return [part.bucket.first for part in self.parts]

    def touching(self, bucket: Bucket) -> tuple[Part, ...]:
        """The parts that may hold records of a bucket."""
        firsts = self._firsts
        start = max(0, bisect_right(firsts, bucket.first) - 1)
        end = bisect_right(firsts, bucket.last)
        return tuple(part for part in self.parts[start:end] if part.bucket.last >= bucket.first)


def _index(path: Path) -> parquet.Index:
    stat = path.stat()
    return _cached_index(path, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=4)
def _cached_index(path: Path, mtime_ns: int, inode: int) -> parquet.Index:  # noqa: ARG001 (part of the identity)
    return parquet.read_index(path)


@dataclass(frozen=True)
class UnitInput:
    """The input of one unit: its bucket, the files that hold it, how many records, and the digest of them
    all.
    """

    bucket: Bucket
    parts: tuple[Part, ...]
    rows: int
    digest: str


def _update(digest: "hashlib._Hash", ids: npt.NDArray[np.int64], rows: list[bytes]) -> None:
    for image_id, row in zip(ids.tolist(), rows, strict=True):
        digest.update(image_id.to_bytes(8, "little", signed=True))
        digest.update(row)


def _rows_of(part: Part, bucket: Bucket) -> tuple[npt.NDArray[np.int64], list[bytes]]:
    index = _index(part.path)
    chosen = np.flatnonzero(bucket.holds(index.ids))
    return index.ids[chosen], [index.digests[i] for i in chosen]


def filled_buckets(records: RecordSet, bits: int) -> list[int]:
    """Indices of the buckets of so many bits that hold a record, in order."""
    found: set[int] = set()
    for part in records.parts:
        if part.bucket.bits >= bits:  # no part is empty
            found.add(part.bucket.index >> (part.bucket.bits - bits))
        else:
            found.update((hash_ids(_index(part.path).ids) >> np.uint64(HASH_BITS - bits)).tolist())
    return sorted(found)


@dataclass(frozen=True)
class Summary:
    """What is asked of a unit besides its records: how many, the digest of them all, id -> reason of those dropped."""

    rows: int
    digest: str
    dropped: Mapping[int, str]


SUMMARISED = ("image_id", "digest", "dropped")  # the columns that it takes


def summarise(table: pa.Table) -> Summary:
    """The summary of a unit's table."""
    ids = table.column("image_id").to_numpy().astype(np.int64, copy=False)
    rows, reasons = (table.column(name).to_pylist() for name in ("digest", "dropped"))
    dropped = {i: reason for i, reason in zip(ids.tolist(), reasons, strict=True) if reason is not None}
    return Summary(len(ids), _digest(ids, rows), dropped)


def _digest(ids: npt.NDArray[np.int64], rows: list[bytes]) -> str:
    order = np.argsort(ids)
    digest = hashlib.sha256()
    _update(digest, ids[order], [rows[i] for i in order])
    return digest.hexdigest()


def plan_unit(parts: tuple[Part, ...], bucket: Bucket) -> UnitInput:
    """The input of one unit, from the files that hold its bucket."""
    found = [_rows_of(part, bucket) for part in parts]
    ids = np.concatenate([ids for ids, _ in found])
    rows = [row for _, rows in found for row in rows]
    return UnitInput(bucket, parts, len(ids), _digest(ids, rows))


def digest_records(records: RecordSet, roles: frozenset[Role]) -> tuple[str, int]:
    """Digest and number of the records of some roles; the same however the set is cut."""
    digest = hashlib.sha256()
    count = 0
    for part in records.parts:
        index = _index(part.path)
        # Parts follow each other in hash order, so sorting each by hash gives one order for every cut.
        for i in np.argsort(hash_ids(index.ids)):
            if index.roles[i] in roles:
                _update(digest, index.ids[i : i + 1], [index.digests[i]])
                count += 1
    return digest.hexdigest(), count


def read_unit(parts: tuple[Part, ...], bucket: Bucket) -> list[Record]:
    """The records of a bucket, by image_id."""
    tables = [parquet.read(part.path).replace_schema_metadata(None) for part in parts]
    whole = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    ids = whole.column("image_id").to_numpy()
    inside = whole.filter(pa.array(bucket.holds(ids)))
    return from_table(inside.take(pc.sort_indices(inside, sort_keys=[("image_id", "ascending")])))


@dataclass(frozen=True)
class Timing:
    """What a result cost when it was made: wall seconds and the images that were worked on."""

    seconds: float
    images: int


def note_of(content: bytes, table: pa.Table, timing: Timing) -> dict[str, JsonValue]:
    """What is noted beside a unit's file of these bytes."""
    summary = summarise(table)
    body = json.dumps([summary.rows, summary.digest, list(summary.dropped.items())])
    return {
        "seconds": timing.seconds,
        "images": timing.images,
        "sha256": hashlib.sha256(content).hexdigest(),
        "summary": body,
        "summary_sha256": hashlib.sha256(body.encode()).hexdigest(),
    }
