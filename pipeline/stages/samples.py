"""How a stage gets at pixels: one record's photo, upright, checked to be the one that was taken in."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from pipeline.data.paths import Place
from pipeline.data.photos import read_unchanged
from pipeline.data.records import Record
from teachers.protocols import Sample


def read_sample(record: Record, images_root: Place) -> Sample:
    """The record with its photo (height, width, 3) uint8 RGB; BadInput as read_unchanged."""
    return Sample(record, read_unchanged(images_root / record.uri, record.sha256))


def blank_sample(record: Record) -> Sample:
    """The record with a black photo of its own size."""
    return Sample(record, np.zeros((record.height, record.width, 3), np.uint8))


def read_batches(records: Iterable[Record], images_root: Place, *, size: int) -> Iterator[list[Sample]]:
    """The photos of all records not in quarantine, `size` at a time; BadInput as read_sample."""
    usable = (record for record in records if record.dropped is None)
    while chunk := list(islice(usable, size)):
        yield [read_sample(record, images_root) for record in chunk]
