"""`pipeline export`: COCO files and the photos they list, in a folder of their own for another trainer."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from pipeline.data.coco import CocoFile, CocoWriter, Finding, ImageEntry
from pipeline.data.coco_fields import as_object
from pipeline.data.coco_json import entries
from pipeline.data.coco_listed import listed_roles
from pipeline.data.errors import BadInput
from pipeline.data.paths import Place, check_folder, open_file
from pipeline.data.records import Record, Role
from pipeline.engine.files import remove, temp_name
from pipeline.engine.rundir import CONFIG, RunFolder
from pipeline.engine.status import find_results
from pipeline.stages import sources
from pipeline.stages.ingest import IngestConfig
from pipeline.stages.intake import is_masked
from pipeline.stages.photos import listed_twice, look_at, with_name

EXPORT = Path("export", "coco")
COCO, IMAGES = "coco", "images"  # what an exported folder holds


@dataclass
class Exported:
    """What became of a COCO file: images taken and listed, annotations listed, and why the rest could not be used.

    `maskless`: images left out because not every object of theirs has a mask; `nameless`: masks left out because their
    phrase is no category.
    """

    images: int = 0
    maskless: int = 0
    nameless: int = 0
    listed: int = 0
    annotations: int = 0
    remarks: dict[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # what a person should know, by file name
    bad_images: list[str] = field(default_factory=list)
    bad_annotations: list[str] = field(default_factory=list)

    @property
    def bad_share(self) -> float:
        """The larger of the shares of images and of annotations that cannot be used."""
        images = len(self.bad_images) / max(self.listed, 1)
        return max(images, len(self.bad_annotations) / max(self.annotations, 1))


def export_run(run: Path, out: Path) -> int:
    """Copy a run's COCO files and their images to the new folder `out`; how many images. BadInput if it exists."""
    source = run / EXPORT
    if not source.is_dir():
        raise BadInput(f"{run}: expected a COCO file or a run folder with {EXPORT}, found neither")
    images = images_root(run)
    with _new_folder(out) as temp:
        return sum(_copy_split(path, images, temp) for path in sorted(source.glob("*.json")))


def export_file(coco: Path, images: Place, out: Path) -> Exported:
    """Write a COCO file anew as runs write theirs, with copies of its photos, to the new folder `out`.

    As `pipeline train` does, images of which not every object has a usable mask are left out: to a trainer such an
    object would be background. Image and category ids stay, masks become RLE, crowd regions stay what they are.
    BadInput if `out` exists, or if no image is left.
    """
    check_folder(images)
    with CocoFile(coco) as file, _new_folder(out) as temp:
        exported = Exported(listed=len(file.images), annotations=file.annotations)
        for finding in file.findings:
            photo = finding.section == "images"
            (exported.bad_images if photo else exported.bad_annotations).append(f"{coco}: {finding}")
        exported.listed += len(exported.bad_images)
        exported.annotations += len(exported.bad_annotations)
        info = {"description": f"omnimask: {coco.name}, images of which every object has a mask"}
        with CocoWriter(temp / COCO / coco.name, file.ontology, info=info, crowd=True) as writer:
            for record in _trainable(file, images, exported):
                writer.add(record)
                _copy(images / record.uri, temp / IMAGES / record.uri)
                exported.images += 1
        exported.nameless = writer.left_out
        if not exported.images:
            raise BadInput(f"{coco}: expected an image with masks and a readable photo, found none")
    return exported


def _trainable(file: CocoFile, images: Place, exported: Exported) -> Iterator[Record]:
    """The records of all images that can be trained on; why the others cannot goes into `exported`."""
    roles = listed_roles(file.path)
    split = sources.Split("", file.path, images)
    candidates, twice = set(file.mask_candidates()), listed_twice(file.images)
    for image in file.images:
        photo = twice.get(image.id) or look_at(split, image, annotated=file.annotations > 0)
        if isinstance(photo, Finding):
            exported.bad_images.append(f"{file.path}: {with_name(photo, image)}")
            continue
        if photo.remarks:
            exported.remarks[image.file_name] = photo.remarks
        role = _role(roles.get(image.id))
        record, findings = file.record(image, sha256=photo.sha256, split="", role=role, header=photo.header)
        exported.bad_annotations += [f"{file.path}: {finding}" for finding in findings]
        if image.id in candidates or _is_complete(file, image, record):
            yield record
        else:
            exported.maskless += 1


def _is_complete(file: CocoFile, image: ImageEntry, record: Record) -> bool:
    return image.id not in file.damaged and is_masked(image, record)


def _role(listed: str | None) -> Role:
    return Role(listed) if listed in set(Role) else Role.HUMAN_MASKED


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` if all goes well and is gone otherwise."""
    if out.exists():
        raise BadInput(f"--out {out}: is there already and is not overwritten")
    temp = temp_name(out.absolute().parent)
    temp.mkdir(parents=True)
    try:
        yield temp
        temp.rename(out)
    finally:
        remove(temp)


def _copy_split(coco: Path, images: Place, out: Path) -> int:
    (out / COCO).mkdir(exist_ok=True)
    shutil.copyfile(coco, out / COCO / coco.name)
    count = 0
    for entry in entries(coco, frozenset({"images"})):
        name = str(as_object(entry.value)["file_name"])
        target = (out / IMAGES / name).resolve()
        if not target.is_relative_to((out / IMAGES).resolve()):
            raise BadInput(f"{coco}: image {name!r} lies outside the image folder and cannot be copied")
        _copy(images / name, target)
        count += 1
    return count


def _copy(source: Place, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_file(source) as file, target.open("wb") as copy:
        shutil.copyfileobj(file, copy)


def images_root(run: Path) -> Place:
    """The folder that the file names in a run's COCO files start from."""
    config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    data = IngestConfig.model_validate({key: config.get(key) for key in ("data", "masks", "shots")}).data
    log = RunFolder(run).read_log()
    if log is not None and not isinstance(data, sources.ToyworldData):
        return sources.images_root(data, Path(log.data_root))
    return next(iter(find_results(run, "ingest").values())) / "dataset" / "images"
