"""One entry of a COCO file at a time: raw JSON values in, checked values out; every problem names entry and field."""

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from pipeline.data import masks
from pipeline.data.coco_fields import (
    EntryError,
    Raw,
    as_object,
    integer,
    known_text,
    numbers,
    present,
    text,
)
from pipeline.data.errors import BadInput, show
from pipeline.data.orient import orient_box, orient_points
from pipeline.data.records import RLE, Box, Category, Instance, Point, Source, WeakKind
from pipeline.data.rle_text import MAX_PIXELS, MAX_SIDE

_SOURCES = frozenset(Source)
_ESTIMATES = ("pred_iou", "stability", "quality")  # of an instance, and of our own export's `pseudo`
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of one entry; `problem` says what was expected and what was found. No index: of the whole section."""

    section: str
    index: int | None
    entry_id: int | None
    field: str
    problem: str

    @property
    def place(self) -> str:
        """The entry: where it stands in its section, and its id if it has one."""
        name = self.section if self.index is None else f"{self.section}[{self.index}]"
        return name if self.entry_id is None else f"{name} (id {self.entry_id})"

    def __str__(self) -> str:
        return f"{self.place}: {self.field}: {self.problem}"


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """An image as the file lists it; `offset` and `length` are its bytes in the file.

    `exported`: the file is our own export, which lists all that is known of the image, were it nothing.
    """

    index: int
    id: int
    file_name: str
    width: int
    height: int
    tags: tuple[int, ...] | None
    instructions: tuple[str, ...]
    offset: int
    length: int
    exported: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """The image an annotation is made for: its listed size, and the EXIF orientation that turns it upright."""

    height: int
    width: int
    orientation: int
    classes: Collection[int]
    semantic: bool


def parse_category(value: object) -> Category:
    """A class; EntryError without an id of at least 0 (scorers take no other) and a name."""
    raw = as_object(value)
    return Category(integer(raw, "id", low=0), text(raw, "name"), known_text(raw.get("supercategory")))


def parse_image(value: object, *, index: int, offset: int, length: int) -> ImageEntry:
    """An image; EntryError unless all of it is usable: an id of at least 0, name, size, texts, integers as tags."""
    raw = as_object(value)
    image_id, name = integer(raw, "id", low=0), text(raw, "file_name")
    path = PurePosixPath(name)
    if _URL.match(name):
        raise EntryError("file_name", f"expected a path, as nothing is fetched, found the URL {show(name)}")
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise EntryError("file_name", f"expected a path inside the image folder, found {show(name)}")
    width = _shared(integer(raw, "width", low=1, high=MAX_SIDE))
    height = _shared(integer(raw, "height", low=1, high=MAX_SIDE))
    if width * height > MAX_PIXELS:
        raise EntryError("width", f"expected at most {MAX_PIXELS} pixels, found {width}x{height}")
    tags = raw.get("tags")
    if tags is not None and not (isinstance(tags, list) and all(type(tag) is int for tag in tags)):
        raise EntryError("tags", f"expected a list of category ids, found {show(tags)}")
    lines = raw.get("instructions", [])
    if not (isinstance(lines, list) and None not in map(known_text, lines)):
        raise EntryError("instructions", f"expected a list of texts, found {show(lines)}")
    known = None if tags is None else tuple(sorted(set(tags)))
    extra = raw.get("pseudo")
    exported = isinstance(extra, dict) and "role" in extra
    return ImageEntry(index, image_id, name, width, height, known, tuple(lines), offset, length, exported)


@lru_cache(maxsize=MAX_SIDE)
def _shared(side: int) -> int:
    """One object for equal sides: a million images have few."""
    return side


def is_crowd(raw: Raw) -> bool:
    """Whether an annotation is a crowd region."""
    value = raw.get("iscrowd", 0)
    if not isinstance(value, int) or value not in (0, 1):
        raise EntryError("iscrowd", f"expected 0 or 1, found {show(value)}")
    return bool(value)


def source_of(raw: Raw) -> Source:
    """Who made an annotation: a human, unless our own export says otherwise under `pseudo`."""
    extra = raw.get("pseudo")
    if not isinstance(extra, dict) or "source" not in extra:
        return Source.HUMAN
    value = extra["source"]
    if not isinstance(value, str) or value not in _SOURCES:
        raise EntryError("pseudo.source", f"expected one of {', '.join(Source)}, found {show(value)}")
    return Source(value)


def parse_annotation(raw: Raw, frame: Frame) -> Instance:
    """What an annotation says, in the upright frame; EntryError when that is nothing usable.

    A mask is kept as it decodes; points and a box are kept as weak labels beside it or in its place.
    """
    class_id, phrase = _meaning(raw, frame.classes)
    source, size = source_of(raw), (frame.height, frame.width)
    rle = _mask(raw, frame)
    points = orient_points(_points(raw, frame), size, frame.orientation)
    box = None if rle is not None else _box(raw, frame)
    if rle is None and is_crowd(raw):
        raise EntryError(
            "segmentation", f"expected the mask of a crowd region, found {present(raw, 'segmentation')}"
        )
    if rle is None and box is None and not any(point.label == 1 for point in points):
        raise EntryError(
            "segmentation", "expected a mask, a bbox or point_coords on the object, found none of them"
        )
    kind = None if rle is not None else WeakKind.POINT if box is None else WeakKind.BOX
    return Instance(
        source,
        class_id=class_id,
        phrase=phrase,
        points=points,
        box_xyxy=None if box is None else orient_box(box, size, frame.orientation),
        rle=None if rle is None else masks.rotate(rle, frame.orientation),
        semantic=frame.semantic,
        human_id=integer(raw, "id") if source is Source.HUMAN else None,
        weak_kind=kind,
        **_of_machine(raw, source),
    )


def _meaning(raw: Raw, classes: Collection[int]) -> tuple[int | None, str | None]:
    """Class id or phrase, exactly one."""
    if raw.get("phrase") is not None:
        if raw.get("category_id") is not None:
            raise EntryError("phrase", "expected a phrase or a category_id, found both")
        return None, text(raw, "phrase")
    class_id = integer(raw, "category_id")
    if class_id not in classes:
        raise EntryError("category_id", f"expected the id of a category, found {class_id}")
    return class_id, None


def _mask(raw: Raw, frame: Frame) -> RLE | None:
    segmentation = raw.get("segmentation")
    if segmentation is None or segmentation == []:
        return None
    try:
        rle = masks.rle_from_coco(segmentation, frame.height, frame.width, where="segmentation")
    except BadInput as error:
        place, _, problem = str(error).partition(": ")
        raise EntryError(place, problem) from None
    if not masks.area(rle):
        raise EntryError("segmentation", "expected a mask with at least one pixel, found an empty one")
    return rle


def _box(raw: Raw, frame: Frame) -> Box | None:
    """The bbox as xyxy cut to the image."""
    if raw.get("bbox") is None:
        return None
    xywh = numbers(raw["bbox"], 4)
    if xywh is None or min(xywh[2:]) <= 0:
        raise EntryError(
            "bbox", f"expected [x, y, width, height] with positive sides, found {show(raw['bbox'])}"
        )
    x, y, w, h = xywh
    box = (max(x, 0.0), max(y, 0.0), min(x + w, float(frame.width)), min(y + h, float(frame.height)))
    if box[0] >= box[2] or box[1] >= box[3]:
        size = f"{frame.width}x{frame.height}"
        raise EntryError("bbox", f"expected a box that touches the {size} image, found {show(raw['bbox'])}")
    return box


def _points(raw: Raw, frame: Frame) -> tuple[Point, ...]:
    """PointSup's point_coords with their point_labels."""
    coords, labels = raw.get("point_coords"), raw.get("point_labels")
    if coords is None:
        return ()
    if not isinstance(coords, list):
        raise EntryError("point_coords", f"expected a list of [x, y], found {show(coords)}")
    if not isinstance(labels, list) or len(labels) != len(coords):
        raise EntryError(
            "point_labels", f"expected {len(coords)} labels, found {present(raw, 'point_labels')}"
        )
    points = []
    for index, (place, label) in enumerate(zip(coords, labels, strict=True)):
        xy = numbers(place, 2)
        if xy is None or not (0 <= xy[0] <= frame.width and 0 <= xy[1] <= frame.height):
            size = f"{frame.width}x{frame.height}"
            raise EntryError(
                f"point_coords[{index}]", f"expected [x, y] in the {size} image, found {show(place)}"
            )
        if isinstance(label, bool) or not isinstance(label, int | float) or label not in (0, 1):
            raise EntryError(f"point_labels[{index}]", f"expected 0 or 1, found {show(label)}")
        points.append(Point(xy[0], xy[1], int(label)))
    return tuple(points)


def _of_machine(raw: Raw, source: Source) -> dict[str, Any]:
    """What is noted of a machine's mask: score, our own export's estimates, the digest of the weights that made it."""
    extra = raw.get("pseudo")
    if source is Source.HUMAN or not isinstance(extra, dict):
        return {}
    estimates = {name: _estimate(extra.get(name), f"pseudo.{name}") for name in _ESTIMATES}
    return {
        "score": _estimate(raw.get("score"), "score"),
        "model": known_text(extra.get("model")),
        **estimates,
    }


def _estimate(value: object, place: str) -> float | None:
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not (math.isfinite(value) and 0 <= value <= 1)
    ):
        raise EntryError(place, f"expected a number from 0 to 1, found {show(value)}")
    return float(value)
