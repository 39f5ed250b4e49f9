"""Low-res logits to a mask at the original size, computed only where it can be positive.

Two bilinear steps as in segment-anything: low-res square -> input square, cut to the image -> original size. Each step
is separable, so an output row depends on few low-res rows; only rows and columns that touch a high enough low-res value
are computed. All arithmetic is elementwise (no matrix product), so a crop holds the very bits of the full canvas.
Legend: a map is (rows, columns) of the low-res square; `taps` of an output line are the two input lines it mixes.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from teachers.sam.pixels import Frame

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Span = tuple[int, int]  # first line, one past the last


@dataclass(frozen=True)
class _Step:
    """One bilinear step along one axis: out[i] = in[low[i]] * (1 - weight[i]) + in[high[i]] * weight[i]."""

    low: IntArray
    high: IntArray
    weight: FloatArray


def _step(source: int, target: int) -> _Step:
    # torch's interpolate with align_corners=False: centres are mapped, what falls before the first one is clamped.
    centre = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * np.float32(
        source / target
    ) - np.float32(0.5)
    centre = np.maximum(centre, np.float32(0))
    low = np.minimum(centre.astype(np.int64), source - 1)
    return _Step(low, np.minimum(low + 1, source - 1), centre - low.astype(np.float32))


@dataclass(frozen=True)
class _Axis:
    """Both steps along one axis; `reach` (n, 2) = first and last low-res line behind each original line."""

    first: _Step
    second: _Step | None  # None when the input already has the original size
    reach: IntArray

    def mix(self, values: FloatArray, span: Span) -> FloatArray:
        """Original lines of `span` from all low-res lines: (low, k) to (span, k)."""
        start, stop = span
        if self.second is None:
            return _mix(values, self.first, slice(start, stop), 0)
        lines = slice(start, stop)
        offset = int(self.second.low[start])
        middle = _mix(values, self.first, slice(offset, int(self.second.high[stop - 1]) + 1), 0)
        return _mix(middle, self.second, lines, offset)

    def span(self, first: int, last: int) -> Span:
        """Original lines that see any of the low-res lines first..last; empty (0, 0) when none does."""
        seen = np.flatnonzero((self.reach[:, 1] >= first) & (self.reach[:, 0] <= last))
        return (int(seen[0]), int(seen[-1]) + 1) if len(seen) else (0, 0)


def _mix(values: FloatArray, step: _Step, lines: slice, offset: int) -> FloatArray:
    weight = step.weight[lines][:, None]
    mixed: FloatArray = (
        values[step.low[lines] - offset] * (1 - weight) + values[step.high[lines] - offset] * weight
    )
    return mixed


def _axis(low_res: int, side: int, inside: int, original: int) -> _Axis:
    first = _step(low_res, side)
    if inside == original:
        return _Axis(first, None, np.stack([first.low[:inside], first.high[:inside]], axis=1))
    second = _step(inside, original)
    return _Axis(first, second, np.stack([first.low[second.low], first.high[second.high]], axis=1))


@dataclass(frozen=True)
class Crop:
    """Logits (h, w) float32 of the original image's rows from `top` and columns from `left`."""

    logits: FloatArray
    top: int
    left: int


class Upsampler:
    """Upsampling for one image, or the part that is seen of it; `low_res` = (rows, columns) of the decoder's logits.

    `size` = (height, width) of the whole image.
    """

    def __init__(self, frame: Frame, low_res: tuple[int, int]) -> None:
        height, width = frame.input_size
        self._seen = frame.seen
        self._rows = _axis(low_res[0], frame.side, height, self._seen.height)
        self._columns = _axis(low_res[1], frame.side, width, self._seen.width)
        self.size = (frame.height, frame.width)

    def above(self, low_res: FloatArray, threshold: float) -> Crop | None:
        """The crop outside of which no logit exceeds `threshold`; None when none does anywhere.

        Bilinear mixing never exceeds its inputs but by rounding, for which the margin of a thousandth stands.
        """
        high = low_res > threshold - 1e-3
        rows, columns = np.flatnonzero(high.any(axis=1)), np.flatnonzero(high.any(axis=0))
        if not len(rows):
            return None
        y = self._rows.span(int(rows[0]), int(rows[-1]))
        x = self._columns.span(int(columns[0]), int(columns[-1]))
        if y[0] == y[1] or x[0] == x[1]:
            return None  # all of it lies in the padding
        return Crop(self._compute(low_res, y, x), self._seen.top + y[0], self._seen.left + x[0])

    def _compute(self, low_res: FloatArray, rows: Span, columns: Span) -> FloatArray:
        # Rows first, on the narrow low-res width; the result is the transpose of a C-ordered array, as RLE likes it.
        wide = self._rows.mix(np.ascontiguousarray(low_res), rows)
        return self._columns.mix(np.ascontiguousarray(wide.T), columns).T
