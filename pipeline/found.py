"""Teachers and students named on the command line: by catalog name, by their folder, or by the run that made them."""

from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import JsonValue

from pipeline.data.errors import BadInput
from pipeline.engine.rundir import CONFIG, LOG
from pipeline.engine.runner import read_ontology
from pipeline.engine.status import find_results
from pipeline.problems import did_you_mean
from students import catalog as students
from students.card import CARD
from teachers import catalog as teachers
from teachers.tuned import asked_as_tuned, tuned

TEACHER_CARD = "teacher.json"
CALIBRATION = "calibration"
LABELLING = ("propose", "pseudo_label", "filter")
NOT_TAKEN = (
    "model",
    "resources",
)  # of a run's stage: the model is taken apart from it, the machine is another
Entry = dict[str, JsonValue]


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

    @property
    def whole_classes(self) -> bool:
        """Whether it labels classes, not objects."""
        return teachers.ENTRIES[str(self.entry["use"])].whole_classes

    @property
    def finds(self) -> bool:
        """Whether it finds its boxes by itself."""
        settings = {key: value for key, value in self.entry.items() if key != "use"}
        return teachers.finds(
            teachers.ModelSpec(name="teacher", use=str(self.entry["use"]), settings=settings)
        )


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
        as_tuned = tuned(folder)
        classes = {category.name: category.id for category in as_tuned.categories}
        return Found(as_tuned.entry, {"teacher": folder.resolve()}, classes=classes)
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
        asked_as_tuned(config["models"][stages["pseudo_label"]["model"]], lent.get("teacher")),
        lent,
        config["models"][stages["propose"]["model"]] if "propose" in stages else None,
        {
            name: {key: value for key, value in stages[name].items() if key not in NOT_TAKEN}
            for name in LABELLING
            if name in stages
        },
        {c.name: c.id for c in ontology.categories} if ontology else {},
    )
