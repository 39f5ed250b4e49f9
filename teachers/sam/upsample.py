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

_BAND = 1 << 15  # values computed at a time, so that what lies between the steps stays in the cache


@dataclass(frozen=True)
class _Step:
    """One bilinear step along one axis: out[i] = in[low[i]] * rest[i] + in[high[i]] * weight[i]; weights (n, 1)."""

    low: IntArray
    high: IntArray
    weight: FloatArray
    rest: FloatArray


def _step(source: int, target: int) -> _Step:
    # torch's interpolate with align_corners=False: centres are mapped, what falls before the first one is clamped.
    centre = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * np.float32(
        source / target
    ) - np.float32(0.5)
    centre = np.maximum(centre, np.float32(0))
    low = np.minimum(centre.astype(np.int64), source - 1)
    weight = (centre - low.astype(np.float32))[:, None]
    return _Step(low, np.minimum(low + 1, source - 1), weight, 1 - weight)


@dataclass(frozen=True)
class _Axis:
    """Both steps along one axis; `reach` (2, n) = first and last low-res line behind each original line."""

    first: _Step
    second: _Step | None  # None when the input already has the original size
    reach: IntArray

    def mix(self, values: FloatArray, span: Span, *, offset: int = 0) -> FloatArray:
        """Original lines of `span` from low-res lines, `values` being those from `offset` on: (low, k) to (span, k)."""
        start, stop = span
        out = np.empty((stop - start, values.shape[1]), np.float32)
        band = max(1, _BAND // values.shape[1])
        for first in range(start, stop, band):
            last = min(first + band, stop)
            target = out[first - start : last - start]
            if self.second is None:
                _mix(values, self.first, slice(first, last), offset=offset, out=target)
                continue
            between = slice(int(self.second.low[first]), int(self.second.high[last - 1]) + 1)
            middle = np.empty((between.stop - between.start, values.shape[1]), np.float32)
            _mix(values, self.first, between, offset=offset, out=middle)
            _mix(middle, self.second, slice(first, last), offset=between.start, out=target)
        return out

    def span(self, first: int, last: int) -> Span:
        """Original lines that see any of the low-res lines first..last; empty (0, 0) when none does."""
        start = int(np.searchsorted(self.reach[1], first))  # both rows of `reach` ascend
        stop = int(np.searchsorted(self.reach[0], last, side="right"))
        return (start, stop) if start < stop else (0, 0)


def _mix(values: FloatArray, step: _Step, lines: slice, *, offset: int, out: FloatArray) -> None:
    """Write the step's `lines` into `out`, from source lines of which `values` holds those from `offset` on."""
    # Trap: with mode "raise" numpy would take into a buffer of its own first.
    values.take(step.low[lines] - offset, axis=0, out=out, mode="clip")
    out *= step.rest[lines]
    high = values.take(step.high[lines] - offset, axis=0, mode="clip")
    high *= step.weight[lines]
    out += high


def _axis(low_res: int, side: int, inside: int, original: int) -> _Axis:
    first = _step(low_res, side)
    if inside == original:
        return _Axis(first, None, np.stack([first.low[:inside], first.high[:inside]]))
    second = _step(inside, original)
    return _Axis(first, second, np.stack([first.low[second.low], first.high[second.high]]))


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
        return self._compute_crop(low_res, y, x)

    def whole(self, low_res: FloatArray) -> Crop:
        """All logits of what is seen of the image."""
        return self._compute_crop(low_res, (0, self._seen.height), (0, self._seen.width))

    def _compute_crop(self, low_res: FloatArray, rows: Span, columns: Span) -> Crop:
        return Crop(
            self._compute(low_res, rows, columns), self._seen.top + rows[0], self._seen.left + columns[0]
        )

    def _compute(self, low_res: FloatArray, rows: Span, columns: Span) -> FloatArray:
        # Rows first, on the few low-res columns that are seen; the result is the transpose of a C-ordered array, as RLE
        # likes it.
        left, right = int(self._columns.reach[0, columns[0]]), int(self._columns.reach[1, columns[1] - 1])
        wide = self._rows.mix(low_res[:, left : right + 1], rows)
        return self._columns.mix(np.ascontiguousarray(wide.T), columns, offset=left).T
