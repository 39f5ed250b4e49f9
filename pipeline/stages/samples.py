"""How a stage gets at pixels: one record's photo, upright, checked to be the one that was taken in."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.data.errors import BadInput
from pipeline.data.images import decode_upright, read_bytes
from pipeline.data.records import Record
from teachers.protocols import Sample


def read_sample(record: Record, images_root: Path) -> Sample:
    """The record with its photo (height, width, 3) uint8 RGB.

    BadInput for an unreadable file, and for one whose bytes are no longer those of ingest: labels made for the old
    photo would land on the new one.
    """
    path = images_root / record.uri
    data = read_bytes(path)
    found = hashlib.sha256(data).hexdigest()
    if found != record.sha256:
        raise BadInput(f"image {path}: changed since ingest, expected sha256 {record.sha256}, found {found}")
    return Sample(record, decode_upright(data, str(path)).image)


def blank_sample(record: Record) -> Sample:
    """The record with a black photo of its own size."""
    return Sample(record, np.zeros((record.height, record.width, 3), np.uint8))


def read_batches(records: Iterable[Record], images_root: Path, *, size: int) -> Iterator[list[Sample]]:
    """The photos of all records not in quarantine, `size` at a time; BadInput as read_sample."""
    usable = (record for record in records if record.dropped is None)
    while chunk := list(islice(usable, size)):
        yield [read_sample(record, images_root) for record in chunk]
