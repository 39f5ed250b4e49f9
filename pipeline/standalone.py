"""Single steps as small runs: train a student on any COCO file, label photos with any teacher.

Each makes the config of a run with few stages, so that keys, resume, quarantine and signals are those of every run.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue

from pipeline.config import Request, make_plan
from pipeline.data.errors import BadInput
from pipeline.data.records import WeakKind
from pipeline.engine.artifact import MANIFEST
from pipeline.engine.plan import RunPlan
from pipeline.engine.status import find_results
from pipeline.found import CALIBRATION, Entry, Found
from pipeline.problems import did_you_mean
from pipeline.report.documents import CalibrationFile, SummaryFile
from pipeline.stages.export import BOXLESS
from pipeline.stages.ingest import ALL
from students import catalog as students
from teachers import catalog as teachers

PROPOSER = "tiny_grounder"
PROPOSALS = "proposals"  # where a teacher of whole classes has its boxes from


@dataclass(frozen=True)
class Photos:
    """A COCO file and the folder of its images; the same for validation, if there is one."""

    json: Path
    images: Path
    val_json: Path | None = None
    val_images: Path | None = None

    @property
    def name(self) -> str:
        return self.json.stem

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
class Folder:
    """Images of which nothing is known, and the classes to look for: name -> id."""

    images: Path
    classes: dict[str, int]

    def data(self) -> Entry:
        """The `data:` of a config."""
        return {"source": "folder", "images": str(self.images.resolve()), "classes": dict(self.classes)}

    @property
    def name(self) -> str:
        return self.images.resolve().name


def plan_training(name: str, photos: Photos, request: Request, *, proposer: str | None = None) -> RunPlan:
    """A run that trains a student or tunes a teacher of the catalogs on a COCO file.

    On the images whose objects all have masks, or, of a teacher, on as many of these as the request's `shots`. Masks
    are a human's or, for a student, an export's. A student is scored if there is a val file.
    """
    tunable = [use for use, entry in teachers.ENTRIES.items() if entry.tunable]
    known = [*students.names(), *tunable]
    if name not in known:
        raise BadInput(f"{name!r}: no student or tunable teacher, {did_you_mean(name, known)}")
    if name in tunable:
        return _plan_tuning(name, photos, request, proposer)
    for option, given in (("--shots", request.shots), ("--proposer", proposer)):
        if given is not None:
            raise BadInput(f"{option}: is of teachers ({', '.join(tunable)}), found the student {name!r}")
    stages: list[JsonValue] = [{"train_student": {"model": "student"}}]
    if photos.val_json is not None:
        stages.append({"evaluate": {}})
    raw: Entry = {
        "name": f"train-{_safe(photos.name)}",
        "data": photos.data(),
        "weak": WeakKind.NONE.value,
        "masks": ALL,
        "models": {"student": {"use": name}},
        "stages": stages,
    }
    return make_plan(raw, request)


def _plan_tuning(name: str, photos: Photos, request: Request, proposer: str | None) -> RunPlan:
    if photos.val_json is not None:
        raise BadInput(f"--val-json: is of students, found the teacher {name!r}; label images to score it")
    models: dict[str, Entry] = {"teacher": {"use": name}}
    stage: Entry = {"model": "teacher"}
    if proposer is not None:
        if not teachers.ENTRIES[name].whole_classes:
            raise BadInput(f"--proposer: {name!r} is tuned without boxes of others")
        models["teacher"]["boxes"] = PROPOSALS
        models["proposer"] = {"use": proposer}
        stage["proposer"] = "proposer"
    raw: Entry = {
        "name": f"train-{_safe(photos.name)}",
        "data": photos.data(),
        "weak": WeakKind.NONE.value,
        "masks": ALL,
        "models": dict(models),
        "stages": [{"finetune_teacher": stage}],
    }
    return make_plan(raw, request)


def plan_labelling(found: Found, proposer: str | None, photos: Photos | Folder, request: Request) -> RunPlan:
    """A run that gives every image pseudo-masks from its weak labels, and exports them.

    A proposer not named is that of the teacher's run, if it comes from one; none is asked where the teacher finds its
    boxes by itself.
    """
    placeless = isinstance(photos, Folder) or found.whole_classes
    weak = request.weak or (WeakKind.NONE if placeless else WeakKind.POINT).value
    if proposer is not None and found.whole_classes:
        found = replace(found, entry={**found.entry, "boxes": PROPOSALS})
    models: Entry = {"teacher": found.entry}
    stages: list[JsonValue] = [
        {"pseudo_label": {"model": "teacher", **found.settings.get("pseudo_label", {})}},
        {"filter": found.settings.get("filter", {})},
        {"export": {}},
    ]
    if weak != WeakKind.BOX.value and not found.finds:
        models["proposer"] = {"use": proposer} if proposer else found.proposer or {"use": PROPOSER}
        stages.insert(0, {"propose": {"model": "proposer", **found.settings.get("propose", {})}})
    raw: Entry = {
        "name": f"label-{_safe(photos.name)}",
        "data": photos.data(),
        "weak": weak,
        "masks": "0%",
        "models": models,
        "stages": stages,
    }
    why = _other_masks(found, weak, proposer, request)
    limits = [
        key for key in ("precision", "min_quality") if found.settings.get("filter", {}).get(key) is not None
    ]
    if why and limits:
        raise BadInput(
            f"label: the teacher's run has filter.{limits[0]}, which {why}; expected labels as there"
        )
    lent = {name: path for name, path in found.lent.items() if not why or name != CALIBRATION}
    return make_plan(raw, request, lent=lent)


def _other_masks(found: Found, weak: str, proposer: str | None, request: Request) -> str:
    """Why what a run calibrated says nothing of masks that are made so; empty if it does, or if there is nothing."""
    folder = found.lent.get(CALIBRATION)
    if folder is None:
        return ""
    calibrated = CalibrationFile.read(folder / "calibration.json").weak
    if calibrated != weak:
        return f"was calibrated for --weak={calibrated}, not {weak}"
    if weak != WeakKind.BOX.value and (proposer is not None or found.proposer is None):
        return "was calibrated with another proposer"
    changed = [text for text in request.settings if text.split(".")[0] in ("models", "stages")]
    return f"was calibrated without --set={changed[0]}" if changed else ""


def photos_to_label(images: Path, coco: Path | None, classes: str | None, found: Found) -> Photos | Folder:
    """What a COCO file lists or, without one, the whole folder; BadInput if it is not known what to look for."""
    if coco is not None:
        if classes is not None:
            raise BadInput(f"--classes: the classes are those of --json {coco}; expected one of the two")
        return Photos(coco, images)
    named = {
        name.strip(): number for number, name in enumerate((classes or "").split(","), 1) if name.strip()
    }
    if not (named or found.classes):
        raise BadInput(
            "label: nothing says what to look for; expected --json FILE, --classes a,b,c or a run folder as --teacher"
        )
    return Folder(images, named or found.classes)


def _safe(name: str) -> str:
    """A file's or folder's name as a run's may be."""
    return re.sub(r"[^A-Za-z0-9._+-]", "_", name)


def notes_of(run: Path) -> list[str]:
    """What ingest noted on a run's images, and how many masks were asked for without a box."""
    folder = next(iter(find_results(run, "ingest").values()))
    return [*SummaryFile.read(folder / "dataset" / "summary.json").notes, *_boxless(run)]


def _boxless(run: Path) -> list[str]:
    for folder in find_results(run, "export").values():
        metrics = json.loads((folder / MANIFEST).read_bytes())["metrics"]
        if count := metrics.get(BOXLESS):
            return [
                f"{count} pseudo-masks were made without a box, as none was found: the whole image was asked"
            ]
    return []
