"""EXIF orientation as geometry: from the stored frame of a photo to its upright one.

Orientation 1-8 as in EXIF tag 0x0112; anything else counts as 1. Sizes are (height, width) of the *stored* frame.
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.data.records import Box, Point

UPRIGHT = 1
SWAPPED = frozenset({5, 6, 7, 8})  # these exchange width and height

Scalar = TypeVar("Scalar", bound=np.generic)


def valid_orientation(value: object) -> int:
    """The orientation to apply: 1-8 as given, everything else (0, 9, text, None) is 1."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 8 else UPRIGHT


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(height, width) of the upright frame."""
    return (size[1], size[0]) if orientation in SWAPPED else size


def orient_array(array: npt.NDArray[Scalar], orientation: int) -> npt.NDArray[Scalar]:
    """The upright view of a stored array [H, W, ...]; no copy is made."""
    if orientation in SWAPPED:
        array = array.swapaxes(0, 1)
    # After the exchange 5 is done, 6 (90 degrees clockwise) still needs x mirrored, 8 needs y, 7 both.
    mirror_x = orientation in (2, 3, 6, 7)
    mirror_y = orientation in (3, 4, 7, 8)
    if mirror_x:
        array = array[:, ::-1]
    return array[::-1] if mirror_y else array


def orient_xy(x: float, y: float, size: tuple[int, int], orientation: int) -> tuple[float, float]:
    """One location of the stored frame, in the upright frame."""
    height, width = upright_size(size, orientation)
    if orientation in SWAPPED:
        x, y = y, x
    return (width - x if orientation in (2, 3, 6, 7) else x), (
        height - y if orientation in (3, 4, 7, 8) else y
    )


def orient_points(points: tuple[Point, ...], size: tuple[int, int], orientation: int) -> tuple[Point, ...]:
    """Points of the stored frame, in the upright frame."""
    return tuple(Point(*orient_xy(p.x, p.y, size, orientation), label=p.label) for p in points)


def orient_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """An xyxy box of the stored frame, in the upright frame."""
    ax, ay = orient_xy(box[0], box[1], size, orientation)
    bx, by = orient_xy(box[2], box[3], size, orientation)
    return (min(ax, bx), min(ay, by), max(ax, bx), max(ay, by))
