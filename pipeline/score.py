"""Scores outside of a run: a student, a results file or a file of pseudo-masks against the masks of a COCO file."""

import codecs
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, tee
from pathlib import Path

from pipeline.data.coco import CocoFile, CocoWriter, ImageEntry
from pipeline.data.coco_listed import listed_areas, listed_roles
from pipeline.data.errors import BadInput
from pipeline.data.images import Header, decode_upright, read_header, read_listed
from pipeline.data.metrics import coco_scores, matched_miou
from pipeline.data.records import Instance, Record, Role, Source
from pipeline.stages.scoring import BATCH, Pair, student_results
from students.protocols import Student
from teachers.protocols import Sample

Scores = dict[str, float | int | None]
TRUTH = "truth.json"


class Truth:
    """The masks of a COCO file to compare with, read image by image; `ontology` are its classes.

    Given the folder of its photos, annotations made for the stored frame of a photo are turned upright, as at ingest;
    without it the listed sizes count as upright. `bad_images` and `bad_annotations` fill with what is left out and why,
    `left_out` with the ids of such images (complete after reading), `notes` with what else is worth knowing.
    Use it in a `with` block; BadInput for a file that is no COCO file.
    """

    def __init__(self, path: Path, images: Path | None) -> None:
        self.path, self.images = path, images
        self._file = CocoFile(path)
        self.ontology = self._file.ontology
        self._entries = {image.id: image for image in self._file.images}
        self.bad_images: list[str] = []
        self.bad_annotations: list[str] = []
        self.notes: list[str] = []
        refused = {finding.entry_id for finding in self._file.findings if finding.section == "images"}
        self.left_out = {number for number in refused if number is not None and number not in self._entries}
        for finding in self._file.findings:
            bad = self.bad_images if finding.section == "images" else self.bad_annotations
            bad.append(f"{path}: {finding}")
        self._images = len(self._entries) + len(self.bad_images)
        self._annotations = self._file.annotations + len(self.bad_annotations)

    def __enter__(self) -> "Truth":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    @property
    def bad_share(self) -> float:
        """The larger of the shares of images and of annotations that were left out."""
        images = len(self.bad_images) / max(self._images, 1)
        return max(images, len(self.bad_annotations) / max(self._annotations, 1))

    def writer(self, path: Path) -> CocoWriter:
        """For a scorer's copy: size classes follow from the listed `area`, from the pixels where none is listed."""
        return CocoWriter(path, self.ontology, info={}, crowd=True, areas=listed_areas(self.path))

    def record(self, image_id: int, *, phrases: bool = False) -> Record | None:
        """One image upright, None if it is left out; things without a class are kept with `phrases` only.

        KeyError for an image that the file does not list.
        """
        image = self._entries[image_id]
        try:
            return self._record(image, self._header(image), phrases=phrases)
        except BadInput as error:
            self._leave_out(image, error)
            return None

    def records(self) -> Iterator[Record]:
        """All images that are not left out, by ascending id."""
        return (record for image_id in self._entries if (record := self.record(image_id)) is not None)

    def samples(self, photos: Path) -> Iterator[Sample]:
        """The same with their photos, from the folder `photos`; those that cannot be read are left out."""
        for image in self._entries.values():
            try:
                photo = decode_upright(read_listed(photos, image.file_name), image.file_name)
                record = self._record(image, photo.header, phrases=False)
            except BadInput as error:
                self._leave_out(image, error)
                continue
            yield Sample(record, photo.image)

    def lists(self, image_id: int) -> bool:
        """Whether the file has a usable entry of an image."""
        return image_id in self._entries

    def _leave_out(self, image: ImageEntry, error: BadInput) -> None:
        self.bad_images.append(str(error))
        self.left_out.add(image.id)

    def _header(self, image: ImageEntry) -> Header | None:
        if self.images is None:
            return None
        return read_header(read_listed(self.images, image.file_name), image.file_name)

    def _record(self, image: ImageEntry, header: Header | None, *, phrases: bool) -> Record:
        record, findings = self._file.record(image, sha256="", split="val", role=Role.VAL, header=header)
        self.bad_annotations += [f"{self.path}: {finding}" for finding in findings]
        kept = []
        for instance in record.instances:
            lacking = _lacking(instance, phrases=phrases)
            if lacking is None:
                kept.append(instance)
            else:
                self.bad_annotations.append(
                    f"{self.path}: annotation {instance.human_id} of image {image.id}: expected {lacking}"
                )
        if not kept and (len(kept) < len(record.instances) or image.id in self._file.damaged):
            raise BadInput(
                f"{self.path}: images[{image.index}] (id {image.id}): no annotation of it is usable"
            )
        return replace(record, instances=tuple(kept))


def _lacking(instance: Instance, *, phrases: bool) -> str | None:
    """What a true instance lacks to be compared with; ignore regions lack nothing."""
    if instance.dropped is not None:
        return None
    if instance.rle is None:
        return "a mask to compare with, found none"
    return None if phrases or instance.class_id is not None else "a category_id, found a phrase"


def score_student(student: Student, truth: Truth, photos: Path) -> Scores:
    """COCO's numbers for a student's masks on the photos of the true images, and how many images there were."""
    samples = truth.samples(photos)
    batches = iter(lambda: list(islice(samples, BATCH)), [])
    with tempfile.TemporaryDirectory(prefix="omnimask-") as folder:
        path = Path(folder) / TRUTH
        images, found = student_results(student, batches, truth=truth.writer(path))
        return {"images": images, **coco_scores(path, found)}


def score_file(truth: Truth, found: Path) -> Scores:
    """COCO's numbers for a results file (a list); mIoU of a COCO file of pseudo-masks (an object) on its own images.

    BadInput names the first entry of `found` that cannot be used.
    """
    try:
        data = found.read_bytes().removeprefix(codecs.BOM_UTF8)
        if not data.lstrip().startswith(b"["):
            return _score_pseudo(truth, found)
        results: list[object] = json.loads(data)
    except BadInput:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{found}: cannot be read as JSON: {error}") from error
    return _score_results(truth, results, source=found)


def _score_results(truth: Truth, results: Sequence[object], *, source: Path) -> Scores:
    """COCO's numbers; results of categories that the truth does not have count for nothing, which is noted."""
    with tempfile.TemporaryDirectory(prefix="omnimask-") as folder:
        path, images = Path(folder) / TRUTH, 0
        with truth.writer(path) as writer:
            for record in truth.records():
                writer.add(record)
                images += 1
        try:
            scores = coco_scores(path, results, left_out=truth.left_out)
        except BadInput as error:
            raise BadInput(f"{source}: {error}") from None
    known = set(truth.ontology.ids)
    found = (result.get("category_id") for result in results if isinstance(result, dict))
    foreign = [number for number in found if type(number) is int and number not in known]
    if foreign:
        truth.notes.append(
            f"{source}: {len(foreign)} of {len(results)} results count for nothing: {truth.path} has no category "
            f"{', '.join(map(str, sorted(set(foreign))))}"
        )
    return {"images": images, **scores}


def _score_pseudo(truth: Truth, found: Path) -> Scores:
    """mIoU over the true instances of the images whose masks are a machine's, and how many images that is."""
    with CocoFile(found) as file:
        if file.findings:
            raise BadInput(f"{found}: {file.findings[0]}")
        compared = _Compared(truth, file)
        real, drawn = tee(compared)
        scores = matched_miou((pair[0] for pair in real), (pair[1] for pair in drawn))
    return {
        "images": compared.images,
        "human_masked_images": compared.human,
        "miou": scores.miou,
        "miou_images": scores.miou_images,
        "instances": scores.truths,
        "pseudo_masks": scores.pseudos,
        "misses": scores.misses,
        "false_positives": scores.false_positives,
    }


class _Compared:
    """(truth, pseudo) of every image whose masks are a machine's; counts those and the images with human masks."""

    def __init__(self, truth: Truth, file: CocoFile) -> None:
        self.truth, self.file = truth, file
        self.images = self.human = 0

    def __iter__(self) -> Iterator[Pair]:
        roles = listed_roles(self.file.path)
        for image in self.file.images:
            where = f"{self.file.path}: images[{image.index}] (id {image.id})"
            record, findings = self.file.record(image, sha256="", split="train", role=Role.WEAK)
            if findings:
                raise BadInput(f"{self.file.path}: {findings[0]}")
            if not self.truth.lists(image.id):
                raise BadInput(f"{where}: expected an image of {self.truth.path}, found none with this id")
            if not _is_machine_made(record, roles.get(image.id)):
                self.human += 1
                continue
            real = self.truth.record(image.id, phrases=True)
            if real is None:
                continue
            sizes = [f"{r.width}x{r.height}" for r in (real, record)]
            if sizes[0] != sizes[1]:
                raise BadInput(f"{where}: expected {sizes[0]} as in {self.truth.path}, found {sizes[1]}")
            self.images += 1
            yield real, record


def _is_machine_made(record: Record, role: str | None) -> bool:
    """Whether an image's masks are pseudo-masks: in our own export, weak images without a mask given by a human.

    In a file of others (`role` None) nothing says who drew a mask; all of them are to be scored.
    """
    human = any(i.source is Source.HUMAN and i.rle is not None for i in record.instances)
    return role is None or (role == Role.WEAK and not human)
