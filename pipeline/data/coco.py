"""COCO files in: an index in memory, annotations read from disk image by image. Their writing is in coco_write.py.

Read beside plain instances: PointSup's `point_coords`/`point_labels`, `bbox` without segmentation (a weak box), `tags`
and `instructions` on images, an open `phrase` on annotations, crowd regions. A problem of one entry becomes a
`Finding` and leaves its neighbours alone; a problem of the file raises `BadInput`.
"""

import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType

from pipeline.data import coco_entries as parse
from pipeline.data.coco_entries import Finding, Frame, ImageEntry
from pipeline.data.coco_fields import EntryError, known_text
from pipeline.data.coco_index import CROWD, MASKED, WEAK, Table, Watcher, read_index
from pipeline.data.coco_json import read_entry
from pipeline.data.coco_write import CocoWriter
from pipeline.data.errors import BadInput, show
from pipeline.data.images import Header, annotation_orientation
from pipeline.data.masks import rle_from_coco, rotate
from pipeline.data.orient import UPRIGHT, upright_size
from pipeline.data.records import Instance, Ontology, Record, Role, Source

__all__ = ["CocoFile", "CocoWriter", "Finding", "ImageEntry", "read_records"]


class CocoFile:
    """An indexed COCO file: `ontology`, `images` by ascending id, `findings` of the first pass.

    `named`: ids of the classes that tags and annotations name, crowd regions aside.
    Close it (or use `with`) after reading. Reading records is safe from several threads.
    """

    def __init__(
        self,
        path: Path,
        *,
        semantic: bool = False,
        watcher: Watcher | None = None,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        """Index `path`; `semantic` says that its masks are whole classes. BadInput for an unusable file.

        A `watcher` is told of every entry, and of the findings that otherwise stand in `findings`. `told` is called now
        and then while many entries are read, and may end that by an exception.
        """
        self.path, self.semantic, self._watcher, self._told = path, semantic, watcher, told
        index = read_index(path, watcher, told)
        self.ontology, self.images, self.findings = index.ontology, index.images, index.findings
        self.named, self._classes = index.named, frozenset(index.ontology.ids)
        self._table, self._unindexed = index.table, index.damaged
        weak = None in index.damaged or bool((self._table[5] == WEAK).any())
        # Whether every annotation has a human mask: then an image without any counts as checked and empty.
        self.complete = self.annotations > 0 and not weak
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

    def _rows(self, image_id: int) -> Table:
        column = self._table[1]
        return self._table[:, column.searchsorted(image_id) : column.searchsorted(image_id, side="right")]

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
        weak = damaged | set(self._table[1][self._table[5] == WEAK].tolist())
        masked = set(self._table[1][self._table[5] == MASKED].tolist())
        complete = self.complete
        return tuple(
            i.id for i in self.images if i.id not in weak and (i.id in masked or complete or i.tags == ())
        )

    def empty_images(self) -> tuple[int, ...]:
        """Image ids without any annotation but crowd regions, and without one that was refused."""
        busy = self.damaged | set(self._table[1][self._table[5] != CROWD].tolist())
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
        self._told()
        for number, _, offset, length, index, what in self._rows(image.id).T.tolist():
            raw = self._raw(offset, length, f"annotations[{index}]")
            try:
                instance = parse.parse_annotation(raw, frame)
            except EntryError as error:
                findings.append(Finding("annotations", index, number, error.field, error.problem))
                continue
            (crowd if what == CROWD else instances).append(instance)
            if self._watcher is not None:
                self._watcher.annotation(image, index, raw, (instance, frame))
        return instances, crowd, findings

    def _raw(self, offset: int, length: int, where: str) -> dict[str, object]:
        place = f"{self.path}: {where}"
        value = read_entry(os.pread(self._descriptor, length, offset), place)
        if not isinstance(value, dict):
            raise BadInput(f"{place}: the file changed while it was read")
        return value

    def _ignored(self, image: ImageEntry, frame: Frame) -> Iterator[Instance]:
        """The ignore regions that our own export keeps under an image's `pseudo` key."""
        extra = self._raw(image.offset, image.length, f"images[{image.index}]").get("pseudo")
        regions = extra.get("ignore", []) if isinstance(extra, dict) else []
        if not isinstance(regions, list):
            raise EntryError("pseudo.ignore", f"expected a list of masks, found {show(regions)}")
        for index, region in enumerate(regions):
            place = f"pseudo.ignore[{index}]"
            try:
                rle = rle_from_coco(region, frame.height, frame.width, where=place)
            except BadInput as error:
                part, _, problem = str(error).partition(": ")
                raise EntryError(part, problem) from None
            reason = known_text(region.get("reason")) if isinstance(region, dict) else None
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
