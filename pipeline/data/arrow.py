"""Records at rest: the Parquet form of a unit. One row is one record; the round trip is exact.

`role` and `digest` are columns of their own, so a planner reads them without the labels. Numbers are float64. Equal
records give equal bytes (for one version of pyarrow).
"""

from collections.abc import Iterable

import pyarrow as pa

from pipeline.data.records import Record
from pipeline.data.rows import record_digest, record_row, row_digest, row_record

__all__ = ["SCHEMA", "from_table", "record_digest", "to_table"]

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


def to_table(records: Iterable[Record]) -> pa.Table:
    """Records as a table of SCHEMA."""
    rows = [record_row(record) for record in records]
    return pa.Table.from_pylist([{**row, "digest": row_digest(row)} for row in rows], schema=SCHEMA)


def from_table(table: pa.Table) -> list[Record]:
    """The records of a table of SCHEMA."""
    return [row_record(row) for row in table.to_pylist()]
