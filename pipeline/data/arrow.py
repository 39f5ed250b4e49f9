"""Records at rest: the Parquet form of a unit. One row is one record; the round trip is exact.

`role` and `digest` are columns of their own, so a planner reads them without the labels. Numbers are float64. Equal
records give equal bytes (for one version of pyarrow).
"""

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.errors import BadInput
from pipeline.data.records import Record, Role
from pipeline.data.rows import record_digest, record_row, row_digest, row_record

__all__ = [
    "SCHEMA",
    "IndexRow",
    "from_table",
    "read_index",
    "read_records",
    "record_digest",
    "to_bytes",
    "to_table",
]

_BOX = pa.list_(pa.float64())
_POINTS = pa.list_(pa.struct([("x", pa.float64()), ("y", pa.float64()), ("label", pa.int8())]))
_RLE = pa.struct([("height", pa.int32()), ("width", pa.int32()), ("counts", pa.string())])
_MEANING = [("class_id", pa.int64()), ("phrase", pa.string())]
_PROMPT = pa.struct(
    [("origin", pa.string()), ("box_xyxy", _BOX), ("points", _POINTS), *_MEANING, ("score", pa.float64())]
)
_MATCH = pa.struct([("proposal", pa.int64()), ("cost", pa.float64()), ("iou", pa.float64())])
_INSTANCE = pa.struct(
    [
        ("source", pa.string()),
        *_MEANING,
        ("points", _POINTS),
        ("box_xyxy", _BOX),
        ("rle", _RLE),
        ("semantic", pa.bool_()),
        ("human_id", pa.int64()),
        ("weak_kind", pa.string()),
        ("prompt", _PROMPT),
        ("match", _MATCH),
        *((name, pa.float64()) for name in ("score", "pred_iou", "stability", "quality")),
        ("dropped", pa.string()),
        ("model", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        ("uri", pa.string()),
        ("sha256", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("split", pa.string()),
        pa.field("role", pa.string(), nullable=False),
        ("tags", pa.list_(pa.int64())),
        ("instructions", pa.list_(pa.string())),
        ("instances", pa.list_(_INSTANCE)),
        ("proposals", pa.list_(_PROMPT)),
        ("crowd", pa.list_(_INSTANCE)),
        ("dropped", pa.string()),
        pa.field("digest", pa.binary(32), nullable=False),
    ]
)


class IndexRow(NamedTuple):
    """What a planner needs of a record: its id, what may be done with it, and the digest of what it holds."""

    image_id: int
    role: Role
    digest: bytes


def to_table(records: Iterable[Record]) -> pa.Table:
    """Records as a table of SCHEMA."""
    rows = [record_row(record) for record in records]
    return pa.Table.from_pylist([{**row, "digest": row_digest(row)} for row in rows], schema=SCHEMA)


def from_table(table: pa.Table) -> list[Record]:
    """The records of a table of SCHEMA."""
    return [row_record(row) for row in table.to_pylist()]


def to_bytes(records: Iterable[Record]) -> bytes:
    """Records as one Parquet file; equal records give equal bytes."""
    sink = BytesIO()
    pq.write_table(to_table(records), sink, compression="zstd", compression_level=3)
    return sink.getvalue()


def read_records(path: Path) -> list[Record]:
    """The records of a unit's Parquet file; BadInput when it is not one."""
    return from_table(_read(path, None))


def read_index(path: Path) -> list[IndexRow]:
    """Id, role and digest of a unit's records, without reading their labels; BadInput as above."""
    names = list(IndexRow._fields)
    table = _read(path, names)
    columns = (table.column(name).to_pylist() for name in names)
    return [IndexRow(image_id, Role(role), digest) for image_id, role, digest in zip(*columns, strict=True)]


def _read(path: Path, columns: list[str] | None) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(SCHEMA):
                raise BadInput(f"{path}: expected a Parquet file of records, found other columns")
            return file.read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path}: expected a Parquet file of records: {error}") from error
