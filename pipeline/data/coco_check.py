"""What a user wants to know of a COCO file that can be used as it is; what cannot be used is `CocoFile`'s to find."""

import math
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from pipeline.data.coco import CocoFile
from pipeline.data.coco_doubts import doubts
from pipeline.data.coco_entries import Finding, Frame, ImageEntry
from pipeline.data.coco_fields import Raw, known_id
from pipeline.data.coco_index import SECTIONS
from pipeline.data.coco_json import Entry
from pipeline.data.errors import show
from pipeline.data.images import Header
from pipeline.data.records import Instance

Sink = Callable[[Finding], None]

_UNSEEN = frozenset(
    "\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)
_NAME = 40  # characters of a key that are shown without quotes
_CONTROL = frozenset({"Cc", "Zl", "Zp"})  # Unicode's categories of control characters and separators


class Checker:
    """A `Watcher` that hands errors on and adds warnings; `listed` counts the entries of each section.

    Kept are a number for each image file and, for the image in hand, one for each annotation.
    """

    def __init__(self, error: Sink, warn: Sink) -> None:
        self.error, self._warn = error, warn
        self.listed: Counter[str] = Counter()
        self._categories: dict[int, int] = {}  # id -> position
        self._photos: dict[int, int] = {}  # first bytes of a digest -> position
        self._image: int | None = None
        self._labels: dict[int, int] = {}  # hash of class and shape -> position, of that image

    def entry(self, entry: Entry) -> None:
        """Count it; warn of what JSON allows and nobody means."""
        raw = entry.value if isinstance(entry.value, dict) else {}
        number = known_id(raw.get("id"))
        known = entry.section in SECTIONS
        self.listed[entry.section if known else ""] += 1
        if entry.section == "categories" and number is not None:
            self._categories.setdefault(number, entry.index)
        section = entry.section if known else _plain(entry.section)
        for key, problem in entry.remarks:
            field = _plain(key or _not_finite(raw) or "entry")
            self._warn(Finding(section, entry.index if known else None, number, field, problem))

    def annotation(self, image: ImageEntry, index: int, raw: Raw, read: tuple[Instance, Frame]) -> None:
        """Warn of what is doubtful about a usable annotation."""
        instance, frame = read
        number = known_id(raw.get("id"))
        for field, problem in doubts(raw, instance, frame):
            self._warn(Finding("annotations", index, number, field, problem))
        if image.tags is not None and instance.class_id is not None and instance.class_id not in image.tags:
            problem = f"expected one of its image's tags, found {instance.class_id}"
            self._warn(Finding("annotations", index, number, "category_id", problem))
        if image.index != self._image:
            self._image, self._labels = image.index, {}
        shape = (instance.rle, instance.box_xyxy, instance.points)
        key = hash((instance.class_id, instance.phrase, instance.source, shape))
        if (other := self._labels.setdefault(key, index)) != index:
            field = (
                "segmentation"
                if instance.rle is not None
                else "bbox"
                if instance.box_xyxy
                else "point_coords"
            )
            problem = f"expected an object of its own, found the class and shape of annotations[{other}]"
            self._warn(Finding("annotations", index, number, field, problem))

    def whole(self, file: CocoFile) -> None:
        """Warn of what shows when the file has been read once: names that are hardly told apart."""
        if not file.ontology.categories:
            self._warn(Finding("categories", None, None, "entry", "expected at least one class, found none"))
        self._class_names(file)
        self._file_names(file)

    def photo(self, image: ImageEntry, sha256: str, header: Header, remarks: Sequence[str]) -> None:
        """Warn of a photo that can be used, but is more or other than it seems; `remarks`: what it has."""
        for remark in remarks:
            self._warn_image(image, "file_name", f"expected a plain photo, found {remark}")
        if (image.height, image.width) != header.upright_size:
            upright = f"{header.upright_size[1]}x{header.upright_size[0]}"
            problem = f"expected the upright {upright}, found the stored {image.width}x{image.height}"
            self._warn_image(image, "width", f"{problem}; annotations are turned with the photo")
        key = int(sha256[:16], 16)
        if (other := self._photos.setdefault(key, image.index)) != image.index:
            problem = f"expected a photo of its own, found the content of images[{other}]"
            self._warn_image(image, "file_name", problem)

    def _warn_image(self, image: ImageEntry, field: str, problem: str) -> None:
        self._warn(Finding("images", image.index, image.id, field, problem))

    def _class_names(self, file: CocoFile) -> None:
        seen: dict[str, tuple[int, str]] = {}
        for category in file.ontology.categories:
            index, name = self._categories[category.id], category.name
            if any(c in _UNSEEN or unicodedata.category(c) in _CONTROL for c in name):
                problem = f"expected a name in visible characters, found {show(name)}"
                self._warn(Finding("categories", index, category.id, "name", problem))
            key = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
            other, known = seen.setdefault(key, (index, name))
            if other != index:
                but = "" if known == name else ", but for case, spaces or Unicode form"
                problem = f"expected a name of its own, found {show(name)}, that of categories[{other}]{but}"
                self._warn(Finding("categories", index, category.id, "name", problem))

    def _file_names(self, file: CocoFile) -> None:
        seen: dict[str, tuple[int, str]] = {}
        for image in file.images:
            path = posixpath.normpath(image.file_name)
            other, known = seen.setdefault(unicodedata.normalize("NFC", path), (image.index, path))
            if known != path:  # the very same file twice is no doubt, but an error
                problem = f"expected a file of its own, found {show(path)}, that of images[{other}]"
                self._warn_image(image, "file_name", f"{problem}, but for Unicode form")


def _plain(name: str) -> str:
    """A name from the file, which may be anything, as it is if it is short and plain."""
    return name if name.isidentifier() and len(name) <= _NAME else show(name)


def _not_finite(raw: Raw) -> str | None:
    """The first field that holds a NaN or an infinity, at any depth."""
    for field, value in raw.items():
        inner = [value]
        while inner:
            item = inner.pop()
            if isinstance(item, dict | list):
                inner += item.values() if isinstance(item, dict) else item
            elif isinstance(item, float) and not math.isfinite(item):
                return field
    return None
