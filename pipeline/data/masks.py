"""Masks at rest: COCO compressed RLE, its making and measuring, without ever filling a canvas that is not needed.

Legend: H, W = height, width of the image; masks are bool [H, W]; runs are column-major lengths (see rle_text.py).
Everything is validated before pycocotools' native code sees it: on runs that are too short it reads foreign memory.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from pycocotools import mask as native

from pipeline.data.errors import BadInput, show
from pipeline.data.orient import UPRIGHT, orient_array
from pipeline.data.records import RLE, Box
from pipeline.data.rle_text import MAX_PIXELS, Runs, check_runs, recode, runs_to_text, text_to_runs

MAX_OUTLINE = 10_000_000  # pixels of outline that one annotation may have
# pycocotools takes time and memory by the length of an outline, so a few points must not stand for a huge one: a long
# one of a real object has many points. Few points may go round the largest box that is taken twice.
_FREE_OUTLINE, _FREE_SIDES, _PER_POINT = 200_000, 16, 64
_KEPT_TEXT = 100_000  # characters of counts; longer ones have up to 128 MiB of runs

Mask = npt.NDArray[np.bool_]


def encode(mask: Mask) -> RLE:
    """The RLE of a mask [H, W] bool; same text as pycocotools' encode, cost by the object's crop, not the canvas."""
    height, width = mask.shape
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return RLE((height, width), runs_to_text(np.array([height * width])))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[top:bottom].any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    return encode_crop(mask[top:bottom, left:right], (height, width), top=top, left=left)


def encode_crop(crop: Mask, size: tuple[int, int], *, top: int, left: int) -> RLE:
    """The RLE on a canvas `size` = (H, W) of a crop [h, w] bool whose corner lies at (top, left).

    ValueError when the crop reaches outside the canvas.
    """
    height, width = size
    h, w = crop.shape
    if min(top, left) < 0 or top + h > height or left + w > width:
        raise ValueError(f"crop {h}x{w} at ({top}, {left}) does not lie within {height}x{width}")
    # A background row below the crop ends each column's run there; with full columns runs go on into the next one.
    stride = h if h == height else h + 1
    flat = np.zeros(w * stride + 2, bool)
    flat[1:-1].reshape(w, stride)[:, :h] = crop.T
    changes = (flat[1:] != flat[:-1]).nonzero()[0]
    column, row = np.divmod(changes, stride)
    bounds = (left + column) * height + top + row
    return _from_bounds(bounds, size)


def _from_bounds(bounds: Runs, size: tuple[int, int]) -> RLE:
    """The RLE of alternating starts and ends of foreground, column-major."""
    ends = np.empty(len(bounds) + 2, np.int64)
    ends[0], ends[1:-1], ends[-1] = 0, bounds, size[0] * size[1]
    runs = ends[1:] - ends[:-1]
    return RLE(size, runs_to_text(runs if runs[-1] else runs[:-1]))


def runs_of(rle: RLE) -> Runs:
    """Validated run lengths [n] int64, background first, read-only; BadInput for a broken RLE."""
    return _kept_runs(rle.counts, *rle.size)


def _kept_runs(counts: str, height: int, width: int) -> Runs:
    """Runs that are kept for a while, as one mask's area, box and pixels are asked for in a row; of long ones one."""
    return (_short_runs if len(counts) <= _KEPT_TEXT else _long_runs)(counts, height, width)


def _runs(counts: str, height: int, width: int) -> Runs:
    _check_canvas(height, width, "mask")
    runs = text_to_runs(counts, height * width, where="mask")
    runs.setflags(write=False)
    return runs


_short_runs = lru_cache(maxsize=64)(_runs)
_long_runs = lru_cache(maxsize=1)(_runs)


def decode(rle: RLE) -> Mask:
    """The mask [H, W] bool, Fortran-ordered."""
    runs = runs_of(rle)
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(rle.size[1], rle.size[0]).T


def area(rle: RLE) -> int:
    """Foreground pixels."""
    return int(runs_of(rle)[1::2].sum())


def tight_box(rle: RLE) -> Box | None:
    """The smallest xyxy box around the foreground, None for an empty mask."""
    bounds = np.cumsum(runs_of(rle))
    starts, ends = bounds[0::2], bounds[1::2]
    if not len(ends):
        return None
    height = rle.size[0]
    first = starts[: len(ends)] // height * height  # where the columns of the runs' first pixels begin
    left, right = float(first[0] // height), float((ends[-1] - 1) // height + 1)
    bottom = int((ends - first).max())
    if bottom > height:  # a run that leaves its column holds that column's foot and the next one's head
        return (left, 0.0, right, float(height))
    return (left, float((starts[: len(ends)] - first).min()), right, float(bottom))


def foreground_pixel(rle: RLE, index: int) -> tuple[int, int]:
    """(x, y) of the index-th foreground pixel in column-major order; IndexError beyond the area."""
    runs = runs_of(rle)
    filled = np.cumsum(runs[1::2])
    if not 0 <= index < (int(filled[-1]) if len(filled) else 0):
        raise IndexError(
            f"foreground pixel {index} of a mask with area {int(filled[-1]) if len(filled) else 0}"
        )
    run = int(np.searchsorted(filled, index, side="right"))
    end = int(np.cumsum(runs)[2 * run + 1])
    position = end - int(filled[run]) + index
    return position // rle.size[0], position % rle.size[0]


def iou_matrix(a: Sequence[RLE], b: Sequence[RLE], *, crowd: bool = False) -> npt.NDArray[np.float64]:
    """IoU [len(a), len(b)] float64; with `crowd` the divisor is the area of `a` alone (COCO's crowd rule).

    All masks must have one size; ValueError otherwise.
    """
    if not a or not b:
        return np.zeros((len(a), len(b)))
    sizes = {rle.size for rle in (*a, *b)}
    if len(sizes) > 1:
        raise ValueError(f"masks to compare must have one size, got {sorted(sizes)}")
    overlap = native.iou(_native(a), _native(b), [crowd] * len(b))
    return np.asarray(overlap, np.float64).reshape(len(a), len(b))


def _native(rles: Sequence[RLE]) -> list[dict[str, object]]:
    """Validated masks in the form pycocotools takes."""
    return [{"size": list(r.size), "counts": runs_to_text(runs_of(r)).encode("ascii")} for r in rles]


def union(rles: Sequence[RLE]) -> RLE:
    """The union of at least one mask of one size."""
    if len({rle.size for rle in rles}) != 1:
        raise ValueError(f"a union needs masks of one size, got {[rle.size for rle in rles]}")
    merged = native.merge(_native(rles))
    return RLE(rles[0].size, merged["counts"].decode("ascii"))


def rotate(rle: RLE, orientation: int) -> RLE:
    """A mask of the stored frame, in the upright frame (EXIF `orientation` 1-8)."""
    if orientation == UPRIGHT:
        return rle
    return encode(orient_array(decode(rle), orientation))


def polygons_to_rle(polygons: Sequence[Sequence[float]], height: int, width: int, *, where: str) -> RLE:
    """The union of polygons [x0, y0, x1, y1, ...], rasterised as pycocotools does; BadInput for unusable ones."""
    merged = native.merge(_rasterised(polygons, height, width, where=where))
    return RLE((height, width), merged["counts"].decode("ascii"))


def polygon_areas(
    polygons: Sequence[Sequence[float]], height: int, width: int, *, where: str
) -> npt.NDArray[np.int64]:
    """Pixels [len(polygons)] of each polygon by itself; BadInput for unusable ones."""
    parts = _rasterised(polygons, height, width, where=where)
    # One at a time: pycocotools' area of 256 or more masks at once overflows.
    return np.array([native.area(part) for part in parts], np.int64)


def _rasterised(
    polygons: Sequence[Sequence[float]], height: int, width: int, *, where: str
) -> list[dict[str, object]]:
    """pycocotools' masks of polygons, once these are known to do no harm there."""
    _check_canvas(height, width, where)
    length, points = 0.0, 0
    for index, polygon in enumerate(polygons):
        length += _outline(polygon, height, width, where=f"{where}[{index}]")
        points += len(polygon) // 2
    if not polygons:
        raise BadInput(f"{where}: expected one or more polygons, found no polygon")
    free = max(_FREE_OUTLINE, _FREE_SIDES * (height + width))
    limit = min(free + _PER_POINT * points, MAX_OUTLINE)
    if length > limit:
        raise BadInput(
            f"{where}: expected polygons of {points} points with at most {limit} pixels of outline, found {length:.0f}"
        )
    # Never one bare list: pycocotools takes four numbers for a box.
    parts: list[dict[str, object]] = native.frPyObjects(
        [list(map(float, polygon)) for polygon in polygons], height, width
    )
    return parts


def _outline(polygon: Sequence[float], height: int, width: int, *, where: str) -> float:
    """A polygon's length in pixels, the native work; BadInput unless it has 3 or more finite points near the canvas."""
    if len(polygon) < 6 or len(polygon) % 2:
        raise BadInput(f"{where}: expected an even number of 6 or more coordinates, found {len(polygon)}")
    if not set(map(type, polygon)) <= {int, float}:
        odd = next(value for value in polygon if type(value) not in (int, float))
        raise BadInput(f"{where}: expected numbers as coordinates, found {show(odd)}")
    reach = 2.0 * max(height, width)
    # Compared as Python numbers: an integer of 400 digits has no float. NaN is neither end and fails the sum.
    if not (-reach <= min(polygon) and max(polygon) <= reach and math.isfinite(sum(polygon))):
        odd = next(value for value in polygon if not -reach <= value <= reach)
        raise BadInput(
            f"{where}: expected coordinates within {reach:.0f} pixels of the origin, found {show(odd)}"
        )
    points = np.array(polygon, np.float64).reshape(-1, 2)
    edges = np.abs(points - points[np.arange(-1, len(points) - 1)]).max(axis=1)
    return float(edges.sum())


def _check_canvas(height: int, width: int, where: str) -> None:
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise BadInput(f"{where}: expected a mask size of 1 to {MAX_PIXELS} pixels, found {height}x{width}")


def rle_from_coco(segmentation: object, height: int, width: int, *, where: str) -> RLE:
    """A COCO `segmentation` (polygons, compressed or uncompressed RLE) as RLE of exactly height x width.

    Everything is checked here, before native code; BadInput says what of `where` is wrong.
    """
    if isinstance(segmentation, list):
        for index, polygon in enumerate(segmentation):
            if not isinstance(polygon, list):
                raise BadInput(f"{where}[{index}]: expected a list of numbers, found {_kind(polygon)}")
        return polygons_to_rle(segmentation, height, width, where=where)
    if not isinstance(segmentation, dict):
        raise BadInput(
            f"{where}: expected polygons or an RLE with size and counts, found {_kind(segmentation)}"
        )
    _check_canvas(height, width, where)
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width] or any(isinstance(v, bool) or not isinstance(v, int) for v in size):
        raise BadInput(f"{where}.size: expected the image's [{height}, {width}], found {show(size)}")
    if isinstance(counts, str):
        return _canonical(counts, height, width, where=f"{where}.counts")
    if isinstance(counts, list):
        runs = _listed_runs(counts, height * width, where=f"{where}.counts")
        return RLE((height, width), runs_to_text(runs))
    raise BadInput(f"{where}.counts: expected text or a list of run lengths, found {_kind(counts)}")


def _canonical(counts: str, height: int, width: int, *, where: str) -> RLE:
    try:
        runs = _kept_runs(counts, height, width)  # kept, as area and box are asked for next
    except BadInput:
        runs = text_to_runs(counts, height * width, where=where)  # the same error, at its place
    return RLE((height, width), recode(counts, runs))


def _listed_runs(counts: list[object], pixels: int, *, where: str) -> Runs:
    for index, value in enumerate(counts):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= pixels:
            raise BadInput(
                f"{where}[{index}]: expected a run length of 0 to {pixels}, an integer, found {show(value)}"
            )
    return check_runs(np.array(counts, np.int64), pixels, where=where)


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
