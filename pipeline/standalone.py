"""Single steps as small runs: train a student on any COCO file, label photos with any teacher.

Each makes the config of a run with few stages, so that keys, resume, quarantine and signals are those of every run.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import JsonValue

from pipeline.config import Request, make_plan
from pipeline.data.errors import BadInput
from pipeline.data.records import WeakKind
from pipeline.engine.plan import RunPlan
from pipeline.engine.rundir import CONFIG, LOG
from pipeline.engine.runner import read_ontology
from pipeline.engine.status import find_results
from pipeline.problems import did_you_mean
from pipeline.report.documents import CalibrationFile, SummaryFile
from pipeline.stages.ingest import ALL
from students import catalog as students
from students.card import CARD
from teachers import catalog as teachers

TEACHER_CARD = "teacher.json"
CALIBRATION = "calibration"
PROPOSER = "tiny_grounder"
LABELLING = ("propose", "pseudo_label", "filter")
NOT_TAKEN = (
    "model",
    "resources",
)  # of a run's stage: the model is taken apart from it, the machine is another
Entry = dict[str, JsonValue]


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


@dataclass(frozen=True)
class Found:
    """A teacher named on the command line: its config entry, and the artifacts that hold what it learned.

    Of a run also its proposer, the settings of its labelling stages by name, and its classes, name -> id.
    """

    entry: Entry
    lent: dict[str, Path]
    proposer: Entry | None = None
    settings: dict[str, Entry] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)


def plan_training(student: str, photos: Photos, request: Request) -> RunPlan:
    """A run that trains a catalog's student on the images of a COCO file whose objects all have masks, a human's or an
    export's, and scores it if there is a val file.
    """
    known = students.names()
    if student not in known:
        raise BadInput(f"student {student!r}: no catalog entry, {did_you_mean(student, known)}")
    stages: list[JsonValue] = [{"train_student": {"model": "student"}}]
    if photos.val_json is not None:
        stages.append({"evaluate": {}})
    raw: Entry = {
        "name": f"train-{_safe(photos.name)}",
        "data": photos.data(),
        "weak": WeakKind.NONE.value,
        "masks": ALL,
        "models": {"student": {"use": student}},
        "stages": stages,
    }
    return make_plan(raw, request)


def plan_labelling(found: Found, proposer: str | None, photos: Photos | Folder, request: Request) -> RunPlan:
    """A run that gives every image pseudo-masks from its weak labels, and exports them.

    A proposer not named is that of the teacher's run, if it comes from one.
    """
    weak = request.weak or (WeakKind.NONE if isinstance(photos, Folder) else WeakKind.POINT).value
    models: Entry = {"teacher": found.entry}
    stages: list[JsonValue] = [
        {"pseudo_label": {"model": "teacher", **found.settings.get("pseudo_label", {})}},
        {"filter": found.settings.get("filter", {})},
        {"export": {}},
    ]
    if weak != WeakKind.BOX.value:
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


def find_teacher(text: str) -> Found:
    """A teacher by catalog name, by its artifact's folder, or by the folder of the run that tuned it."""
    folder = Path(text)
    names = teachers.names("teacher")
    if text in names:
        return Found({"use": text}, {})
    if (folder / LOG).is_file():
        lent = {
            name: path
            for name, stage in (("teacher", "finetune_teacher"), ("gate", "gate"), (CALIBRATION, "calibrate"))
            for path in find_results(folder, stage).values()
        }
        return _found_in_run(folder, lent)
    if (folder / TEACHER_CARD).is_file():
        from teachers.heads import read_teacher

        model = read_teacher(folder).model
        entry: Entry = {"use": "class_aware_sam", **model.model_dump(include={"sam", "class_aware", "zoom"})}
        return Found(entry | ({"text": model.text} if model.text else {}), {"teacher": folder.resolve()})
    raise BadInput(
        f"teacher {text!r}: no catalog entry, folder with {TEACHER_CARD} or run folder; {did_you_mean(text, names)}"
    )


def find_student(text: str) -> Path:
    """A trained student's artifact folder: given as such, as the run that trained it, or as RUN/NAME, by its model."""
    folder = Path(text)
    if (folder / CARD).is_file():
        return folder
    if (folder / LOG).is_file():
        return _student_of(folder)
    if (folder.parent / LOG).is_file() and (folder.name in _trained_in(folder.parent) or not folder.exists()):
        return _student_of(folder.parent, folder.name)
    if text in students.names():
        raise BadInput(
            f"student {text!r}: a catalog entry knows nothing yet; `pipeline train {text}` makes an artifact"
        )
    raise BadInput(f"student {text!r}: expected a folder with {CARD} or a run folder, found neither")


def _student_of(run: Path, name: str | None = None) -> Path:
    found = _trained_in(run)
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name in found:
        return found[name]
    wanted = "a run with one student" if name is None else f"a student named {name}"
    listed = ", ".join(f"{run / own}" for own in sorted(found))
    raise BadInput(f"student {run}: expected {wanted}, found {listed or 'none'}")


def _trained_in(run: Path) -> dict[str, Path]:
    """The artifacts of a run's students by their models' names; a label has the name only beside others."""
    found = find_results(run, "train_student").items()
    stages = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))["stages"]
    only = next((entry["train_student"]["model"] for entry in stages if "train_student" in entry), "")
    return {label.partition(":")[2] or only: path for label, path in found}


def _found_in_run(run: Path, lent: dict[str, Path]) -> Found:
    """The teacher as a run used it: with its proposer, thresholds and classes."""
    config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    stages: dict[str, Entry] = {name: entry[name] for entry in config["stages"] for name in entry}
    if "pseudo_label" not in stages:
        raise BadInput(f"{run / CONFIG}: expected a stage `pseudo_label`, found {', '.join(stages)}")
    dataset = find_results(run, "ingest")
    ontology = read_ontology(next(iter(dataset.values())) / "dataset" / "ontology.json") if dataset else None
    return Found(
        config["models"][stages["pseudo_label"]["model"]],
        lent,
        config["models"][stages["propose"]["model"]] if "propose" in stages else None,
        {
            name: {key: value for key, value in stages[name].items() if key not in NOT_TAKEN}
            for name in LABELLING
            if name in stages
        },
        {c.name: c.id for c in ontology.categories} if ontology else {},
    )


def _safe(name: str) -> str:
    """A file's or folder's name as a run's may be."""
    return re.sub(r"[^A-Za-z0-9._+-]", "_", name)


def notes_of(run: Path) -> list[str]:
    """What ingest noted on a run's images."""
    folder = next(iter(find_results(run, "ingest").values()))
    return SummaryFile.read(folder / "dataset" / "summary.json").notes
