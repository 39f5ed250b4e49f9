"""A trained student on photos, outside of a run: COCO results, and scores against a COCO file."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pipeline.data.coco import CocoFile, read_records
from pipeline.data.coco_ap import Detection, coco_ap, detections
from pipeline.data.errors import BadInput
from pipeline.data.images import read_upright
from pipeline.data.matching import matched_miou
from pipeline.data.records import Record, Role
from pipeline.engine.files import commit_file
from students.protocols import Student
from teachers.protocols import Sample

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
KEYS = frozenset({"image_id", "category_id", "segmentation", "score"})
BATCH = 4
Scores = dict[str, float | int | None]


@dataclass
class Prediction:
    """Predicts lazily; `bad` fills with the images that could not be read, and why, `images` counts the others."""

    student: Student
    photos: Sequence[tuple[int, Path]]
    images: int = 0
    bad: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Detection]:
        samples = self._samples()
        while batch := list(islice(samples, BATCH)):
            for sample, instances in zip(batch, self.student.predict(batch), strict=True):
                yield from detections(sample.record, instances)

    def _samples(self) -> Iterator[Sample]:
        for image_id, path in self.photos:
            try:
                image = read_upright(path).image
            except BadInput as error:
                self.bad.append(str(error))
                continue
            self.images += 1
            height, width = image.shape[:2]
            yield Sample(Record(image_id, path.name, "", width, height, "", Role.WEAK), image)


def list_photos(images: Path, coco: Path | None) -> list[tuple[int, Path]]:
    """(id, path) of every photo: those a COCO file lists, or all of the folder, numbered from 1 by name."""
    if coco is not None:
        with CocoFile(coco) as file:
            return [(image.id, images / image.file_name) for image in file.images]
    if not images.is_dir():
        raise BadInput(f"{images}: expected a folder of images, found none")
    found = sorted(path for path in images.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise BadInput(f"{images}: expected images ({', '.join(sorted(SUFFIXES))}), found none")
    return list(enumerate(found, start=1))


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


def score_results(truth: Path, results: Iterable[Detection]) -> Scores:
    """COCO AP of masks, each 0..1."""
    return dict(coco_ap(truth, results))


def score_file(truth: Path, found: Path) -> Scores:
    """AP of a COCO results file (a list), or mIoU of a COCO file with pseudo-masks (an object) on its own images."""
    try:
        content = json.loads(found.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"{found}: cannot be read as JSON: {error}") from error
    if isinstance(content, list):
        for index, result in enumerate(content):
            lacking = sorted(KEYS - result.keys()) if isinstance(result, dict) else ["an object"]
            if lacking:
                raise BadInput(
                    f"{found}: results[{index}]: expected {', '.join(lacking)}, found {result!r:.80}"
                )
        return score_results(truth, content)
    _, pseudo = read_records(found, split="train", role=Role.WEAK)
    wanted = {record.image_id: record for record in read_records(truth, split="train", role=Role.VAL)[1]}
    unknown = [record.image_id for record in pseudo if record.image_id not in wanted]
    if unknown:
        raise BadInput(f"{found}: image {unknown[0]} is not in {truth}")
    scores = matched_miou((wanted[record.image_id] for record in pseudo), pseudo)
    return {
        "miou": scores.miou,
        "miou_images": scores.miou_images,
        "instances": scores.truths,
        "pseudo_masks": scores.pseudos,
        "misses": scores.misses,
        "false_positives": scores.false_positives,
    }
