"""Single steps as small runs: train a student on any COCO file, label photos with any teacher.

Each makes the config of a run with few stages, so that keys, resume, quarantine and signals are those of every run.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import JsonValue

from pipeline.config import Request, make_plan
from pipeline.data.coco_entries import as_object
from pipeline.data.coco_json import entries
from pipeline.data.errors import BadInput
from pipeline.data.records import WeakKind
from pipeline.engine.files import remove, temp_name
from pipeline.engine.plan import RunPlan
from pipeline.engine.rundir import CONFIG, LOG, RunFolder
from pipeline.engine.status import find_results
from pipeline.problems import did_you_mean
from students import catalog as students
from students.card import CARD
from teachers import catalog as teachers

TEACHER_CARD = "teacher.json"
EXPORT = Path("export", "coco")
Entry = dict[str, JsonValue]


@dataclass(frozen=True)
class Photos:
    """A COCO file and the folder of its images; the same for validation, if there is one."""

    json: Path
    images: Path
    val_json: Path | None = None
    val_images: Path | None = None

    def data(self) -> Entry:
        """The `data:` of a config."""
        entry: Entry = {
            "source": "coco",
            "json": str(self.json.resolve()),
            "images": str(self.images.resolve()),
        }
        if self.val_json is not None:
            entry["val_json"] = str(self.val_json.resolve())
        if self.val_images is not None:
            entry["val_images"] = str(self.val_images.resolve())
        return entry


@dataclass(frozen=True)
class Found:
    """A model named on the command line: its config entry, and the artifacts that hold what it learned."""

    entry: Entry
    lent: dict[str, Path]


def plan_training(student: str, photos: Photos, request: Request) -> RunPlan:
    """A run that trains a catalog's student on all masks of a COCO file, and scores it if there is a val file."""
    known = students.names()
    if student not in known:
        raise BadInput(f"student {student!r}: no catalog entry, {did_you_mean(student, known)}")
    stages: list[JsonValue] = [{"train_student": {"model": "student"}}]
    if photos.val_json is not None:
        stages.append({"evaluate": {}})
    raw: Entry = {
        "name": f"train-{photos.json.stem}",
        "data": photos.data(),
        "weak": WeakKind.NONE.value,
        "masks": "100%",
        "models": {"student": {"use": student}},
        "stages": stages,
    }
    return make_plan(raw, request)


def plan_labelling(teacher: str, proposer: str, photos: Photos, request: Request) -> RunPlan:
    """A run that gives every image of a COCO file pseudo-masks from its weak labels, and exports them."""
    found = find_teacher(teacher)
    weak = request.weak or WeakKind.POINT.value
    stages: list[JsonValue] = [{"pseudo_label": {"model": "teacher"}}, {"filter": {}}, {"export": {}}]
    models: Entry = {"teacher": found.entry}
    if weak != WeakKind.BOX.value:
        models["proposer"] = {"use": proposer}
        stages.insert(0, {"propose": {"model": "proposer"}})
    raw: Entry = {
        "name": f"label-{photos.json.stem}",
        "data": photos.data(),
        "weak": weak,
        "masks": "0%",
        "models": models,
        "stages": stages,
    }
    return make_plan(raw, request, lent=found.lent)


def find_teacher(text: str) -> Found:
    """A teacher by catalog name, by its artifact's folder, or by the folder of the run that tuned it."""
    folder = Path(text)
    names = teachers.names("teacher")
    if text in names:
        return Found({"use": text}, {})
    if (folder / LOG).is_file():
        lent = {
            name: path
            for name, stage in (("teacher", "finetune_teacher"), ("gate", "gate"))
            for path in find_results(folder, stage).values()
        }
        return Found(_model_of(folder, "pseudo_label"), lent)
    if (folder / TEACHER_CARD).is_file():
        from teachers.heads import read_teacher

        model = read_teacher(folder).model
        entry: Entry = {"use": "class_aware_sam", "sam": model.sam, "class_aware": model.class_aware}
        return Found(entry | ({"text": model.text} if model.text else {}), {"teacher": folder.resolve()})
    raise BadInput(
        f"teacher {text!r}: no catalog entry, folder with {TEACHER_CARD} or run folder; {did_you_mean(text, names)}"
    )


def find_student(text: str) -> Path:
    """A trained student's artifact folder, given as such or as the folder of the run that trained it."""
    folder = Path(text)
    if (folder / CARD).is_file():
        return folder
    if (folder / LOG).is_file():
        found = find_results(folder, "train_student")
        if len(found) == 1:
            return next(iter(found.values()))
        listed = "".join(f"\n  {label}: {path}" for label, path in found.items())
        raise BadInput(f"student {folder}: expected a run with one student, found {len(found)}{listed}")
    if text in students.names():
        raise BadInput(
            f"student {text!r}: a catalog entry knows nothing yet; `pipeline train {text}` makes an artifact"
        )
    raise BadInput(f"student {text!r}: expected a folder with {CARD} or a run folder, found neither")


def _model_of(run: Path, stage: str) -> Entry:
    """The config entry of the model that a run's stage used."""
    config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    for entry in config["stages"]:
        if stage in entry:
            found: Entry = config["models"][entry[stage]["model"]]
            return found
    raise BadInput(
        f"{run / CONFIG}: expected a stage `{stage}`, found {[next(iter(e)) for e in config['stages']]}"
    )


def copy_export(run: Path, out: Path) -> int:
    """Copy a run's COCO files and their images to the new folder `out`; how many images. BadInput if it exists."""
    source = run / EXPORT
    if not source.is_dir():
        raise BadInput(f"{run}: expected a run folder with {EXPORT}, found none")
    if out.exists():
        raise BadInput(f"--out {out}: is there already and is not overwritten")
    images = images_root(run)
    temp = temp_name(out.absolute().parent)
    temp.mkdir(parents=True)
    try:
        count = sum(_copy_split(path, images, temp) for path in sorted(source.glob("*.json")))
        temp.rename(out)
    finally:
        remove(temp)
    return count


def _copy_split(coco: Path, images: Path, out: Path) -> int:
    (out / "coco").mkdir(exist_ok=True)
    shutil.copyfile(coco, out / "coco" / coco.name)
    count = 0
    for entry in entries(coco, frozenset({"images"})):
        name = str(as_object(entry.value)["file_name"])
        target = (out / "images" / name).resolve()
        if not target.is_relative_to((out / "images").resolve()):
            raise BadInput(f"{coco}: image {name!r} lies outside the image folder and cannot be copied")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(images / name, target)
        count += 1
    return count


def images_root(run: Path) -> Path:
    """The folder that the file names in a run's COCO files start from."""
    data: dict[str, str] = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))["data"]
    log = RunFolder(run).read_log()
    if log is not None and data["source"] == "coco":
        return Path(log.data_root) / data["images"]
    return next(iter(find_results(run, "ingest").values())) / "dataset" / "images"
