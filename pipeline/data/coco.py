"""COCO files in: an index in memory, annotations read from disk image by image. Their writing is in coco_write.py.

Read beside plain instances: PointSup's `point_coords`/`point_labels`, `bbox` without segmentation (a weak box), `tags`
and `instructions` on images, an open `phrase` on annotations, crowd regions. A problem of one entry becomes a
`Finding` and leaves its neighbours alone; a problem of the file raises `BadInput`.
"""

import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from pipeline.data import coco_entries as parse
from pipeline.data.coco_entries import EntryError, Finding, Frame, ImageEntry
from pipeline.data.coco_json import Entry, entries, read_entry
from pipeline.data.coco_write import CocoWriter
from pipeline.data.errors import BadInput
from pipeline.data.images import Header, annotation_orientation
from pipeline.data.masks import rle_from_coco, rotate
from pipeline.data.orient import UPRIGHT, upright_size
from pipeline.data.records import Category, Instance, Ontology, Record, Role, Source

__all__ = ["CocoFile", "CocoWriter", "Finding", "ImageEntry", "read_records"]

_SECTIONS = frozenset({"images", "categories", "annotations"})
_MASKED, _WEAK, _CROWD = 0, 1, 2  # what an annotation seems to be before it is read in full


@dataclass
class _Gathering:
    """What the first pass over a file collects; annotations as columns, 8 bytes a number."""

    images: dict[int, ImageEntry] = field(default_factory=dict)
    categories: dict[int, Category] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    refused: set[int] = field(default_factory=set)
    damaged: set[int | None] = field(
        default_factory=set
    )  # image ids of refused annotations; None: nobody knows
    found: set[str] = field(default_factory=set)
    # id, image id, offset, length, position in the section, what it is
    columns: tuple["array[int]", ...] = field(default_factory=lambda: tuple(array("q") for _ in range(6)))

    def add(self, entry: Entry) -> None:
        """Take one entry, or note why not."""
        try:
            if entry.section == "images":
                self._image(entry)
            elif entry.section == "categories":
                category = parse.parse_category(entry.value)
                _refuse_twice(category.id in self.categories, category.id)
                self.categories[category.id] = category
            else:
                self._annotation(entry)
        except EntryError as error:
            self.note(entry, error)

    def note(self, entry: Entry, error: EntryError) -> None:
        raw_id = entry.value.get("id") if isinstance(entry.value, dict) else None
        entry_id = raw_id if type(raw_id) is int else None
        self.findings.append(Finding(entry.section, entry.index, entry_id, error.field, error.problem))
        if entry.section == "images" and entry_id is not None:
            self.refused.add(entry_id)
        if entry.section == "annotations":
            raw_image = entry.value.get("image_id") if isinstance(entry.value, dict) else None
            self.damaged.add(raw_image if type(raw_image) is int else None)

    def _image(self, entry: Entry) -> None:
        image = parse.parse_image(entry.value, index=entry.index, offset=entry.offset, length=entry.length)
        _refuse_twice(image.id in self.images, image.id)
        self.images[image.id] = image

    def _annotation(self, entry: Entry) -> None:
        raw = parse.as_object(entry.value)
        if "segments_info" in raw:
            raise BadInput("expected instance annotations, found panoptic ones (segments_info)")
        number, image_id = parse.integer(raw, "id"), parse.integer(raw, "image_id")
        masked = bool(raw.get("segmentation")) and parse.source_of(raw) is Source.HUMAN
        what = _CROWD if parse.is_crowd(raw) else _MASKED if masked else _WEAK
        values = (number, image_id, entry.offset, entry.length, entry.index, what)
        for column, value in zip(self.columns, values, strict=True):
            column.append(value)


def _refuse_twice(seen: bool, number: int) -> None:
    if seen:
        raise EntryError("id", f"expected an id of its own, found {number} a second time")


class CocoFile:
    """An indexed COCO file: `ontology`, `images` by ascending id, `findings` of the first pass.

    Close it (or use `with`) after reading. Reading records is safe from several threads.
    """

    def __init__(self, path: Path, *, semantic: bool = False) -> None:
        """Index `path`; `semantic` says that its masks are whole classes. BadInput for an unusable file."""
        self.path, self.semantic = path, semantic
        gathered = _Gathering()
        for entry in entries(path, _SECTIONS):
            gathered.found.add(entry.section)
            try:
                gathered.add(entry)
            except BadInput as error:
                raise BadInput(f"{path}: {entry.section}[{entry.index}]: {error}") from None
        if "images" not in gathered.found:
            raise BadInput(f"{path}: expected a section 'images' with at least one image, found none")
        self.ontology = Ontology(tuple(gathered.categories.values()))
        self._classes = frozenset(gathered.categories)
        self._check_tags(gathered)
        self.images = tuple(gathered.images[i] for i in sorted(gathered.images))
        columns = [np.frombuffer(c, np.int64) if len(c) else np.zeros(0, np.int64) for c in gathered.columns]
        self._table = self._index(np.stack(columns), gathered)
        self._unindexed = gathered.damaged
        weak = None in gathered.damaged or bool((self._table[5] == _WEAK).any())
        # Whether every annotation has a human mask: then an image without any counts as checked and empty.
        self.complete = self.annotations > 0 and not weak
        self.findings = tuple(sorted(gathered.findings, key=lambda f: (f.section, f.index)))
        self._descriptor = os.open(path, os.O_RDONLY)

    def __enter__(self) -> "CocoFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)

    @property
    def annotations(self) -> int:
        """Annotations that the index holds (all but those in `findings`)."""
        return len(self._table[0])

    def _check_tags(self, gathered: _Gathering) -> None:
        for image in list(gathered.images.values()):
            unknown = sorted(set(image.tags or ()) - self._classes)
            if unknown:
                problem = f"expected ids of categories, found {unknown[0]}"
                gathered.findings.append(Finding("images", image.index, image.id, "tags", problem))
                gathered.refused.add(image.id)
                del gathered.images[image.id]

    def _index(self, table: npt.NDArray[np.int64], gathered: _Gathering) -> npt.NDArray[np.int64]:
        """Columns [6, A] by (image id, position), less the entries whose id or image is not usable."""
        order = np.argsort(table[0], kind="stable")
        again = np.zeros(table.shape[1], bool)
        again[order[1:]] = table[0][order[1:]] == table[0][order[:-1]]
        known = np.isin(table[1], np.array(sorted(gathered.images), np.int64))
        for number, image_id, _, _, index, _ in table[:, again].T.tolist():
            gathered.damaged.add(image_id)
            problem = f"expected an id of its own, found {number} a second time"
            gathered.findings.append(Finding("annotations", index, number, "id", problem))
        for number, image_id, _, _, index, _ in table[:, ~again & ~known].T.tolist():
            state = "of a refused image" if image_id in gathered.refused else "of no image"
            problem = f"expected the id of an image, found {image_id} {state}"
            gathered.findings.append(Finding("annotations", index, number, "image_id", problem))
        table = table[:, known & ~again]
        return table[:, np.lexsort((table[4], table[1]))]

    def _rows(self, image_id: int) -> npt.NDArray[np.int64]:
        first, last = np.searchsorted(self._table[1], [image_id, image_id + 1])
        return self._table[:, first:last]

    @cached_property
    def damaged(self) -> frozenset[int]:
        """Ids of images that lost an annotation: what is left does not say all that is there.

        The first call reads every annotation.
        """
        upright = (Frame(i.height, i.width, UPRIGHT, self._classes, self.semantic) for i in self.images)
        lost = {i.id for i, frame in zip(self.images, upright, strict=True) if self._labels(i, frame)[2]}
        return frozenset(lost | {i.id for i in self.images if i.id in self._unindexed})

    def mask_candidates(self, *, unread: bool = False) -> tuple[int, ...]:
        """Image ids that may serve as human-masked: all their annotations have human masks, none is `damaged`.

        Images without an annotation count in a `complete` file, or when their tags say that they are empty. `unread`:
        no annotation is read for it, so images with an unusable one may be among them.
        """
        damaged = self._unindexed if unread else self.damaged
        weak = damaged | set(self._table[1][self._table[5] == _WEAK].tolist())
        masked = set(self._table[1][self._table[5] == _MASKED].tolist())
        complete = self.complete
        return tuple(
            i.id for i in self.images if i.id not in weak and (i.id in masked or complete or i.tags == ())
        )

    def empty_images(self) -> tuple[int, ...]:
        """Image ids without any annotation but crowd regions, and without one that was refused."""
        busy = self.damaged | set(self._table[1][self._table[5] != _CROWD].tolist())
        return tuple(image.id for image in self.images if image.id not in busy)

    def record(
        self, image: ImageEntry, *, sha256: str, split: str, role: Role, header: Header | None = None
    ) -> tuple[Record, tuple[Finding, ...]]:
        """All that the file says of one image, upright, and the annotations that cannot be used.

        With the photo's `header`, annotations made for the stored frame are turned with it; BadInput (the image is to
        be quarantined) when the listed size fits neither frame. Without it the listed size is taken as upright.
        """
        where = f"{self.path}: images[{image.index}] (id {image.id})"
        turn = (
            UPRIGHT
            if header is None
            else annotation_orientation(header, image.height, image.width, where=where)
        )
        frame = Frame(image.height, image.width, turn, self._classes, self.semantic)
        instances, crowd, findings = self._labels(image, frame)
        try:
            instances += self._ignored(image, frame)
        except EntryError as error:
            findings.append(Finding("images", image.index, image.id, error.field, error.problem))
        height, width = upright_size((image.height, image.width), turn)
        bare = not len(self._rows(image.id)[0]) and image.id not in self._unindexed
        tags = () if image.tags is None and self.complete and bare else image.tags
        record = Record(
            image.id,
            image.file_name,
            sha256,
            width,
            height,
            split,
            role,
            tags=tags,
            instructions=image.instructions,
            instances=tuple(instances),
            crowd=tuple(crowd),
        )
        return record, tuple(findings)

    def _labels(
        self, image: ImageEntry, frame: Frame
    ) -> tuple[list[Instance], list[Instance], list[Finding]]:
        """(instances, crowd regions, what is wrong with the others) of an image's annotations."""
        instances: list[Instance] = []
        crowd: list[Instance] = []
        findings: list[Finding] = []
        for number, _, offset, length, index, what in self._rows(image.id).T.tolist():
            try:
                instance = parse.parse_annotation(self._raw(offset, length, f"annotations[{index}]"), frame)
                (crowd if what == _CROWD else instances).append(instance)
            except EntryError as error:
                findings.append(Finding("annotations", index, number, error.field, error.problem))
        return instances, crowd, findings

    def _raw(self, offset: int, length: int, where: str) -> dict[str, object]:
        value = read_entry(os.pread(self._descriptor, length, offset), f"{self.path}: {where}")
        return parse.as_object(value)

    def _ignored(self, image: ImageEntry, frame: Frame) -> Iterator[Instance]:
        """The ignore regions that our own export keeps under an image's `pseudo` key."""
        extra = self._raw(image.offset, image.length, f"images[{image.index}]").get("pseudo")
        regions = extra.get("ignore", []) if isinstance(extra, dict) else []
        if not isinstance(regions, list):
            raise EntryError("pseudo.ignore", f"expected a list of masks, found {parse.show(regions)}")
        for index, region in enumerate(regions):
            place = f"pseudo.ignore[{index}]"
            try:
                rle = rle_from_coco(region, frame.height, frame.width, where=place)
            except BadInput as error:
                raise EntryError(place, str(error)) from None
            reason = parse.known_text(region.get("reason"))
            yield Instance(
                Source.TEACHER,
                rle=rotate(rle, frame.orientation),
                semantic=frame.semantic,
                dropped=reason or "ignored by the export",
            )


def read_records(
    path: Path, *, split: str, role: Role, semantic: bool = False
) -> tuple[Ontology, list[Record]]:
    """All images of a small, faultless file as records, without looking at the photos (sha256 is left empty).

    BadInput with the first finding otherwise.
    """
    with CocoFile(path, semantic=semantic) as file:
        findings = list(file.findings)
        records = []
        for image in file.images:
            record, problems = file.record(image, sha256="", split=split, role=role)
            records.append(record)
            findings += problems
    if findings:
        raise BadInput(
            f"{path}: {findings[0]}" + (f" (and {len(findings) - 1} more)" if findings[1:] else "")
        )
    return file.ontology, records
