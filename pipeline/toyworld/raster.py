"""An exact integer polygon rasteriser: 2 x 2 samples a pixel, pixel i covers [i, i+1), winding number > 0 fills."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.toyworld.shapes import Contour
from pipeline.toyworld.world import SIZE

_SUB = 2
_UNIT = 32
_FULL = _SUB * _SUB


@dataclass(frozen=True)
class Patch:
    """Coverage of a crop of the scene: (h, w) uint8, 0..4 samples inside, its upper left pixel at (y, x)."""

    y: int
    x: int
    samples: npt.NDArray[np.uint8]

    @property
    def crop(self) -> tuple[slice, slice]:
        """The crop as an index of a scene-sized array."""
        h, w = self.samples.shape
        return slice(self.y, self.y + h), slice(self.x, self.x + w)

    @property
    def alpha(self) -> npt.NDArray[np.float32]:
        """Coverage in [0, 1], float32."""
        return self.samples.astype(np.float32) * np.float32(1 / _FULL)

    @property
    def inside(self) -> npt.NDArray[np.bool_]:
        """Pixels at least half covered."""
        return self.samples * 2 >= _FULL


def rasterise(contours: Sequence[Contour]) -> Patch | None:
    """Coverage of the union of the contours (pixels of the scene); None if nothing lies inside the scene."""
    scale = _SUB * _UNIT
    ends = [np.floor(np.clip(c, -4 * SIZE, 5 * SIZE) * scale + 0.5).astype(np.int64) for c in contours]
    start = np.concatenate(ends)
    stop = np.concatenate([e[_rolled(len(e))] for e in ends])
    low, high = start.min(axis=0) // scale, start.max(axis=0) // scale + 1
    x0, y0 = (max(int(v), 0) for v in low)
    x1, y1 = (min(int(v), SIZE) for v in high)
    if x0 >= x1 or y0 >= y1:
        return None
    winding = _winding(start, stop, rows=(y0 * _SUB, y1 * _SUB), cols=(x0 * _SUB, x1 * _SUB))
    inside = (winding > 0).view(np.uint8)
    pairs = inside[0::2] + inside[1::2]
    samples = pairs[:, 0::2] + pairs[:, 1::2]
    return Patch(y0, x0, samples)


_ROLLED: dict[int, npt.NDArray[np.intp]] = {}


def _rolled(n: int) -> npt.NDArray[np.intp]:
    if n not in _ROLLED:
        _ROLLED[n] = np.roll(np.arange(n), -1)
    return _ROLLED[n]


def _winding(
    start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64], *, rows: tuple[int, int], cols: tuple[int, int]
) -> npt.NDArray[np.int8]:
    half = _UNIT // 2
    x0, y0 = start[:, 0], start[:, 1]
    dx, dy = stop[:, 0] - x0, stop[:, 1] - y0
    first = np.clip((np.minimum(y0, stop[:, 1]) + half - 1) // _UNIT, *rows)
    last = np.clip((np.maximum(y0, stop[:, 1]) + half - 1) // _UNIT, *rows)
    count = last - first
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) + np.repeat(first - np.cumsum(count) + count, count)
    # A sample row never runs along an edge's end twice: [first, last) is half open, so dy != 0 wherever count > 0.
    crossing = x0[edge] - ((y0[edge] - row * _UNIT - half) * dx[edge]) // dy[edge]  # rounded up, as is column
    column = np.clip((crossing + half - 1) // _UNIT, *cols) - cols[0]
    height, width = rows[1] - rows[0], cols[1] - cols[0]
    flat = (row - rows[0]) * (width + 1) + column
    steps = np.bincount(flat, weights=-np.sign(dy)[edge], minlength=height * (width + 1))
    return np.cumsum(steps.reshape(height, width + 1)[:, :width].astype(np.int8), axis=1, dtype=np.int8)
