"""What is doubtful about one annotation that can be used as it is: the box or area beside its mask, its outlines.

Each doubt is (field, problem). Legend: N = points of an outline, P = pairs of its edges.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.data import masks
from pipeline.data.coco_entries import Frame, is_crowd
from pipeline.data.coco_fields import Raw, numbers, present
from pipeline.data.orient import orient_box, upright_size
from pipeline.data.records import RLE, Box, Instance

Doubt = tuple[str, str]
Points = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]
Pairs = npt.NDArray[np.int64]

# COCO's own boxes and areas are those of the outline, not of the pixels: within these of the mask's in all of the real
# sets that were looked at, but for the areas of crowd regions.
BOX_PIXELS, BOX_SHARE = 2.0, 0.05  # of the box's side
AREA_SHARE, AREA_EDGE = 0.1, 0.5  # of the mask's area; of its box's width + height
OUTSIDE = 1.0  # pixels beyond the edge that are rounding, not a mistake
MAX_PAIRS = (
    1_000_000  # edges that lie side by side; an outline with more of them is not looked at for crossings
)
_BACK = {6: 8, 8: 6}  # the other EXIF orientations undo themselves


def doubts(raw: Raw, instance: Instance, frame: Frame) -> Iterator[Doubt]:
    """The doubts about an annotation as it is written, and as it was read in `frame`."""
    if raw.get("id") == 0:
        yield "id", "expected an id of at least 1, found 0, which pycocotools takes for unmatched"
    segmentation = raw.get("segmentation")
    if instance.rle is None:
        yield from _weak_box(raw, frame)
        return
    if is_crowd(raw) and isinstance(segmentation, list):
        yield "iscrowd", "expected RLE for a crowd region, as in COCO, found polygons"
    tight = _tight_box(instance.rle, frame)
    yield from _box_beside_mask(raw, (tight, _outline_box(segmentation)), frame)
    if not is_crowd(raw):
        yield from _area_beside_mask(raw, masks.area(instance.rle), tight)
    if isinstance(segmentation, list):
        yield from _outlines(segmentation, frame)


def _tight_box(rle: RLE, frame: Frame) -> Box:
    """The mask's box in the frame of the annotation, xyxy."""
    tight = masks.tight_box(rle)
    assert tight is not None  # an empty mask is refused
    size = upright_size((frame.height, frame.width), frame.orientation)
    return orient_box(tight, size, _BACK.get(frame.orientation, frame.orientation))


def _weak_box(raw: Raw, frame: Frame) -> Iterator[Doubt]:
    xywh = numbers(raw.get("bbox"), 4)
    if xywh is None:
        return
    x, y, w, h = xywh
    if max(-x, -y, x + w - frame.width, y + h - frame.height) > OUTSIDE:
        size = f"{frame.width}x{frame.height}"
        yield "bbox", f"expected a box inside the {size} image, found {present(raw, 'bbox')}, which is cut"
    if min(w, h) < 1:
        yield "bbox", f"expected a box in pixels, found one of less than a pixel: {present(raw, 'bbox')}"


def _outline_box(segmentation: object) -> Box | None:
    """The box around polygons, whose thin ends may have no pixels."""
    if not isinstance(segmentation, list):
        return None
    xs, ys = ([v for polygon in segmentation for v in polygon[start::2]] for start in (0, 1))
    return (min(xs), min(ys), max(xs), max(ys))


def _box_beside_mask(raw: Raw, boxes: tuple[Box, Box | None], frame: Frame) -> Iterator[Doubt]:
    """`boxes`: those around the mask's pixels and around its outline, either of which will do."""
    if raw.get("bbox") is None:
        return
    xywh = numbers(raw["bbox"], 4)
    if xywh is None:
        yield "bbox", f"expected [x, y, width, height] beside a mask, found {present(raw, 'bbox')}"
        return
    x, y, w, h = xywh
    tight = boxes[0]
    if not any(_near((x, y, x + w, y + h), box, frame) for box in boxes if box is not None):
        shape = (tight[0], tight[1], tight[2] - tight[0], tight[3] - tight[1])
        expected = ", ".join(f"{v:g}" for v in shape)
        hint = ", which fits as [x0, y0, x1, y1]" if _near((x, y, w, h), tight, frame) else ""
        yield "bbox", f"expected about the mask's [{expected}], found {present(raw, 'bbox')}{hint}"


def _near(one: Box, other: Box, frame: Frame) -> bool:
    """Whether two boxes, cut to the image, are about the same."""
    ends = (frame.width, frame.height) * 2
    reach = [BOX_PIXELS + BOX_SHARE * (other[i + 2] - other[i]) for i in (0, 1)] * 2
    pairs = ([min(max(v, 0.0), end) for v in pair] for *pair, end in zip(one, other, ends, strict=True))
    return all(abs(a - b) <= r for (a, b), r in zip(pairs, reach, strict=True))


def _area_beside_mask(raw: Raw, pixels: int, tight: Box) -> Iterator[Doubt]:
    if raw.get("area") is None:
        return
    listed = numbers([raw["area"]], 1)
    reach = AREA_SHARE * pixels + AREA_EDGE * (tight[2] - tight[0] + tight[3] - tight[1])
    if listed is None:
        yield "area", f"expected a number beside a mask, found {present(raw, 'area')}"
    elif abs(listed[0] - pixels) > reach:
        yield "area", f"expected about the mask's {pixels}, found {present(raw, 'area')}"


def _outlines(polygons: list[list[float]], frame: Frame) -> Iterator[Doubt]:
    size = f"{frame.width}x{frame.height}"
    for index, polygon in enumerate(polygons):
        field = f"segmentation[{index}]"
        points = np.array(polygon, np.float64).reshape(-1, 2)
        beyond = float(max(-points.min(), (points - (frame.width, frame.height)).max()))
        if beyond > OUTSIDE:
            yield (
                field,
                f"expected an outline inside the {size} image, found {beyond:.0f} pixels outside, cut off",
            )
        if (at := crossing(points)) is not None:
            place = f"near ({at[0]:.0f}, {at[1]:.0f})"
            yield field, f"expected an outline that does not cross itself, found a crossing {place}"
    if len(polygons) > 1:
        areas = masks.polygon_areas(polygons, frame.height, frame.width, where="segmentation")
        for index in np.flatnonzero(areas == 0).tolist():
            yield f"segmentation[{index}]", "expected a part of at least one pixel, found none"


def crossing(points: Points) -> tuple[float, float] | None:
    """Where the closed outline [N, 2] crosses itself (touching is no crossing), one place; None if nowhere.

    None, too, for an outline with more than MAX_PAIRS pairs of edges over one another.
    """
    # Outlines are short, so calls take the time: complex numbers x + iy are points [N] in one array.
    start: Complex = points.view(np.complex128)[:, 0]
    end = np.concatenate((start[1:], start[:1]))
    low = np.minimum(start.real, end.real)
    order = low.argsort(kind="stable")
    start, end = start[order], end[order]
    # Only edges whose spans in x overlap can cross: each with those that begin before it ends.
    number = np.arange(len(points))
    count = low[order].searchsorted(np.maximum(start.real, end.real), side="right") - number - 1
    before = count.cumsum()
    pairs = int(before[-1])
    if pairs > MAX_PAIRS:
        return None
    first = number.repeat(count)
    second = np.arange(pairs) + (number + 1 - before + count).repeat(count)
    tiny = 1e-9 * float(np.abs(start - start[0]).max()) ** 2  # of rounding: not yet on the other side
    found = _parted(start, end, (first, second), tiny)
    found = found[_parted(start, end, (second[found], first[found]), tiny)]
    if not len(found):
        return None
    one, two = first[found[0]], second[found[0]]
    whole = _side(start[one], end[one], start[two]), _side(start[one], end[one], end[two])
    at = start[two] + (end[two] - start[two]) * whole[0] / (whole[0] - whole[1])
    return float(at.real), float(at.imag)


def _parted(start: Complex, end: Complex, pair: tuple[Pairs, Pairs], tiny: float) -> Pairs:
    """The pairs of edges [P] of which the second one's ends lie on different sides of the first one's line."""
    a, b = start[pair[0]], end[pair[0]]
    c, d = _side(a, b, start[pair[1]]), _side(a, b, end[pair[1]])
    return np.flatnonzero((np.minimum(c, d) < -tiny) & (np.maximum(c, d) > tiny))


def _side(a: Complex, b: Complex, c: Complex) -> npt.NDArray[np.float64]:
    """On which side of the lines a-b the points c lie: the sign; 0 on the line."""
    side: npt.NDArray[np.float64] = ((b - a).conj() * (c - a)).imag
    return side
