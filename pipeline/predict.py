"""A trained student on photos, outside of a run: COCO results."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pipeline.data.coco import CocoFile
from pipeline.data.coco_ap import Detection, detections
from pipeline.data.errors import BadInput
from pipeline.data.images import decode_upright, read_listed
from pipeline.data.paths import check_folder
from pipeline.data.records import Record, Role
from pipeline.engine.files import commit_file
from pipeline.stages.folders import find_photos
from pipeline.stages.photos import notes_on, remarks_on
from students.protocols import Student
from teachers.protocols import Sample

BATCH = 4


@dataclass
class Prediction:
    """Predicts on photos of `folder` (id, name), lazily; `bad` fills with the images that cannot be used, and why,
    `images` counts the others.
    """

    student: Student
    folder: Path
    photos: Sequence[tuple[int, str]]
    images: int = 0
    bad: list[str] = field(default_factory=list)
    remarks: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def bad_share(self) -> float:
        """Share of the images that were left out, once all are predicted."""
        return len(self.bad) / max(len(self.bad) + self.images, 1)

    @property
    def notes(self) -> list[str]:
        """What is odd with images that were used, once all are predicted."""
        return notes_on(self.remarks)

    def __iter__(self) -> Iterator[Detection]:
        samples = self._samples()
        while batch := list(islice(samples, BATCH)):
            for sample, instances in zip(batch, self.student.predict(batch), strict=True):
                yield from detections(sample.record, instances)

    def _samples(self) -> Iterator[Sample]:
        for image_id, name in self.photos:
            try:
                photo = decode_upright(read_listed(self.folder, name), name)
            except BadInput as error:
                self.bad.append(str(error))
                continue
            self.images += 1
            self.remarks[name] = remarks_on(photo)
            height, width = photo.header.upright_size
            yield Sample(Record(image_id, name, "", width, height, "", Role.WEAK), photo.image)


def list_photos(images: Path, coco: Path | None) -> tuple[list[tuple[int, str]], list[str]]:
    """(id, name) of every photo: those a COCO file lists, or all of the folder, numbered from 1 by name.

    And why other images of the COCO file cannot be used. BadInput for a file that is none, or a folder without photos.
    """
    check_folder(images)
    if coco is not None:
        with CocoFile(coco) as file:
            bad = [f"{coco}: {finding}" for finding in file.findings if finding.section == "images"]
            return [(image.id, image.file_name) for image in file.images], bad
    return list(enumerate(find_photos(images), start=1)), []


def write_results(results: Iterable[Detection], out: Path) -> int:
    """Write a COCO results file as a stream, atomically; how many results."""
    count = 0

    def write(temp: Path) -> None:
        nonlocal count
        with temp.open("w", encoding="utf-8") as file:
            file.write("[")
            for count, result in enumerate(results, start=1):
                file.write(("" if count == 1 else ",\n") + json.dumps(result))
            file.write("]\n")

    commit_file(out, write)
    return count
