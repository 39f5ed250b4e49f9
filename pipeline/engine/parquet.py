"""Parquet as the engine writes and reads it: page checksums on, the key inside the file, nothing that varies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.arrow import SCHEMA

KEY = b"omnimask.key"


@dataclass(frozen=True)
class Index:
    """What planning needs of a file's rows: ids int64 [N], roles and digests in the same order."""

    ids: npt.NDArray[np.int64]
    roles: tuple[str, ...]
    digests: tuple[bytes, ...]


def to_bytes(table: pa.Table, *, key: str = "") -> bytes:
    """A table of SCHEMA as a file; equal tables and keys give equal bytes.

    In memory, as pyarrow writes a file of so many columns in a hundred small pieces.
    """
    named = table.replace_schema_metadata({KEY: key.encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(named, sink, compression="zstd", write_page_checksum=True, use_dictionary=False)
    return bytes(sink.getvalue())


def read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file with page checksums compared; OSError or ArrowException if it is damaged."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read(columns=None if columns is None else list(columns), use_threads=False)


def rows(path: Path) -> int:
    """How many rows a file has, by its footer."""
    return int(pq.read_metadata(path).num_rows)


def is_sound(path: Path, key: str) -> bool:
    """Whether the file holds the unit of that key, readable to its last page."""
    try:
        table = read(path)
    except (OSError, pa.ArrowException):
        return False
    return bool(table.schema.equals(SCHEMA)) and (table.schema.metadata or {}).get(KEY) == key.encode()


def read_index(path: Path) -> Index:
    """Only the cheap columns of a file."""
    table = read(path, ["image_id", "role", "digest"])
    return Index(
        ids=table.column("image_id").to_numpy().astype(np.int64, copy=False),
        roles=tuple(table.column("role").to_pylist()),
        digests=tuple(table.column("digest").to_pylist()),
    )


def iterate(path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    """The file's rows in order, a few at a time; damage raises as in `read`."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield from file.iter_batches(batch_size=rows, use_threads=False)
