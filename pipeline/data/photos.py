"""A photo's pixels, if it is still the file that was taken in."""

import hashlib

import numpy as np
import numpy.typing as npt

from pipeline.data.errors import BadInput
from pipeline.data.images import decode_upright, read_bytes
from pipeline.data.paths import Place


def read_unchanged(path: Place, sha256: str) -> npt.NDArray[np.uint8]:
    """Pixels (height, width, 3) uint8 RGB, upright.

    BadInput for an unreadable file, and for one whose bytes are no longer those of ingest: labels made for the old
    photo would land on the new one.
    """
    data = read_bytes(path)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise BadInput(f"image {path}: changed since ingest, expected sha256 {sha256}, found {found}")
    return decode_upright(data, str(path)).image
