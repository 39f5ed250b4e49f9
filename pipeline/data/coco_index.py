"""The first pass over a COCO file: its images and classes, checked, and where each annotation lies."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.data import coco_entries as parse
from pipeline.data.coco_entries import Finding, Frame, ImageEntry
from pipeline.data.coco_fields import EntryError, Raw, as_object, integer, known_id
from pipeline.data.coco_json import Entry, entries
from pipeline.data.errors import BadInput, show
from pipeline.data.records import Category, Instance, Ontology, Source

SECTIONS = frozenset({"images", "categories", "annotations"})
TOLD_EVERY = 1000  # entries
MASKED, WEAK, CROWD = 0, 1, 2  # what an annotation seems to be before it is read in full

Table = npt.NDArray[np.int64]


class Watcher(Protocol):
    """Told what a file holds while it is read, by those who must say more of it than what a run leaves out."""

    def entry(self, entry: Entry) -> None:
        """An entry of the first pass, before it is judged; with `remarks`."""
        ...

    def error(self, finding: Finding) -> None:
        """A finding of the first pass; it is told here only, so that a million of them need no memory."""
        ...

    def annotation(self, image: ImageEntry, index: int, raw: Raw, read: tuple[Instance, Frame]) -> None:
        """An annotation that can be used: as it is written, and as it was read in which frame."""
        ...


@dataclass(frozen=True)
class Index:
    """What the first pass finds.

    `table` [6, A] int64 by (image id, position): id, image id, offset, length, position in the section, what it is.
    `damaged`: image ids of refused annotations; None among them: of one nobody knows which image it is for.
    `named`: ids of the classes that tags and annotations name, crowd regions aside.
    """

    images: tuple[ImageEntry, ...]
    ontology: Ontology
    table: Table
    damaged: frozenset[int | None]
    named: frozenset[int]
    findings: tuple[Finding, ...]


def read_index(path: Path, watcher: Watcher | None = None, told: Callable[[], None] = lambda: None) -> Index:
    """Index a file; BadInput for an unusable one. With a watcher, `findings` stays empty. `told`: as in `CocoFile`."""
    found: list[Finding] = []
    gathering = _Gathering(found.append if watcher is None else watcher.error)
    for number, entry in enumerate(entries(path, SECTIONS, remarks=watcher is not None)):
        if number % TOLD_EVERY == 0:
            told()
        if watcher is not None:
            watcher.entry(entry)
            if entry.section not in SECTIONS:
                continue
        try:
            gathering.add(entry)
        except BadInput as error:
            raise BadInput(f"{path}: {entry.section}[{entry.index}]: {error}") from None
    if not gathering.found_image:
        raise BadInput(f"{path}: expected a section 'images' with at least one image, found none")
    gathering.check_tags()
    table = gathering.table()
    found.sort(key=lambda finding: (finding.section, finding.index or 0))
    return Index(
        tuple(sorted(gathering.images.values(), key=lambda image: image.id)),
        Ontology(tuple(gathering.categories.values())),
        table,
        frozenset(gathering.damaged),
        frozenset(gathering.named),
        tuple(found),
    )


@dataclass
class _Gathering:
    """What was collected so far."""

    tell: Callable[[Finding], None]
    images: dict[int, ImageEntry] = field(default_factory=dict)
    categories: dict[int, Category] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)
    damaged: set[int | None] = field(default_factory=set)
    named: set[int] = field(default_factory=set)
    found_image: bool = False
    rows: "array[int]" = field(default_factory=lambda: array("q"))  # six numbers each, as in `Index.table`

    def add(self, entry: Entry) -> None:
        """Take one entry, or tell why not."""
        try:
            if entry.section == "annotations":
                self._annotation(entry)
            elif entry.section == "images":
                self.found_image = True
                self._image(entry)
            else:
                category = parse.parse_category(entry.value)
                _refuse_twice(category.id in self.categories, category.id)
                self.categories[category.id] = category
        except EntryError as error:
            self._refuse(entry, error)

    def _refuse(self, entry: Entry, error: EntryError) -> None:
        raw = entry.value if isinstance(entry.value, dict) else {}
        entry_id = known_id(raw.get("id"))
        self.tell(Finding(entry.section, entry.index, entry_id, error.field, error.problem))
        if entry.section == "images" and entry_id is not None:
            self.refused.add(entry_id)
        if entry.section == "annotations":
            image_id = raw.get("image_id")
            self.damaged.add(image_id if type(image_id) is int else None)

    def _image(self, entry: Entry) -> None:
        image = parse.parse_image(entry.value, index=entry.index, offset=entry.offset, length=entry.length)
        _refuse_twice(image.id in self.images, image.id)
        self.images[image.id] = image
        self.named.update(image.tags or ())

    def _annotation(self, entry: Entry) -> None:
        raw = as_object(entry.value)
        if "segments_info" in raw:
            raise BadInput("expected instance annotations, found panoptic ones (segments_info)")
        number, image_id = integer(raw, "id"), integer(raw, "image_id")
        masked = bool(raw.get("segmentation")) and parse.source_of(raw) is Source.HUMAN
        what = CROWD if parse.is_crowd(raw) else MASKED if masked else WEAK
        if what != CROWD and type(category := raw.get("category_id")) is int:
            self.named.add(category)
        self.rows.extend((number, image_id, entry.offset, entry.length, entry.index, what))

    def check_tags(self) -> None:
        """Refuse the images with tags that are no classes."""
        for image in list(self.images.values()):
            unknown = sorted(set(image.tags or ()) - self.categories.keys())
            if unknown:
                problem = f"expected ids of categories, found {show(unknown[0])}"
                self.tell(Finding("images", image.index, image.id, "tags", problem))
                self.refused.add(image.id)
                del self.images[image.id]

    def table(self) -> Table:
        """The table, less the entries whose id or image is not usable."""
        table = np.array(self.rows, np.int64).reshape(-1, 6).T.copy()
        order = np.argsort(table[0], kind="stable")
        again = np.zeros(table.shape[1], bool)
        again[order[1:]] = table[0][order[1:]] == table[0][order[:-1]]
        known = np.isin(table[1], np.array(sorted(self.images), np.int64))
        for number, image_id, index in zip(*table[[0, 1, 4]][:, again].tolist(), strict=True):
            self.damaged.add(image_id)
            problem = f"expected an id of its own, found {number} a second time"
            self.tell(Finding("annotations", index, number, "id", problem))
        for number, image_id, index in zip(*table[[0, 1, 4]][:, ~again & ~known].tolist(), strict=True):
            state = "of a refused image" if image_id in self.refused else "of no image"
            problem = f"expected the id of an image, found {image_id} {state}"
            self.tell(Finding("annotations", index, number, "image_id", problem))
        table = table[:, known & ~again]
        return table[:, np.lexsort((table[4], table[1]))]


def _refuse_twice(seen: bool, number: int) -> None:
    if seen:
        raise EntryError("id", f"expected an id of its own, found {number} a second time")
