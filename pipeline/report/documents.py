"""The small JSON files that jobs leave for people and for the report: what stands in them and how they are read.

`metrics.json` comes from evaluate, `gate.json` from gate, `calibration.json` from calibrate, `cost.json` from cost,
`quarantine.json` from ingest (`cases.json`: case_documents.py). Numbers that could not be measured are null, never 0.
"""

import os
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from pipeline.data.calibration import Calibrator
from pipeline.data.errors import BadInput

Model = TypeVar("Model", bound=BaseModel)

IOU_BINS = 20  # of `iou_counts`: a bin starts at each IoU that people ask for


def _read(model: type[Model], path: Path) -> Model:
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadInput(f"{path}: not a readable {model.__name__}: {error}") from error


def _write(model: BaseModel, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(model.model_dump_json(indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


class Document(BaseModel):
    """Base of the files: unknown keys are refused, so that a file of another version is never half read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check the file; BadInput names it and the entry."""
        return _read(cls, path)

    def write(self, path: Path) -> None:
        """Write as indented JSON, whole or not at all."""
        _write(self, path)


class ReliabilityBin(Document):
    """Masks whose estimate lies in [low, high): how many, their mean estimate and their mean measured IoU."""

    low: float
    high: float
    masks: int
    estimate: float
    iou: float


class Reliability(Document):
    """What one estimate of quality was worth: over all masks that have it, those that match no object with IoU 0.

    `error` is the expected calibration error: how far the bins' mean estimates are from their mean IoU, weighed by
    their masks (Guo et al. 2017, for IoU in place of accuracy). `correlation` is Spearman's, in [-1, 1]; null where all
    estimates or all IoUs are equal. Empty bins are left out.
    """

    masks: int
    estimate: float
    iou: float
    error: float
    correlation: float | None
    bins: list[ReliabilityBin]


class PseudoQuality(Document):
    """Pseudo-masks against hidden truth; all means are of IoU in [0, 1].

    `miou` is over true instances (misses count 0), `miou_images` over images of their instances' mean; `by_class` as
    `miou`; `by_origin` over matched pairs by who placed the box, `masks_by_origin` of them. `iou_counts`: matched pairs
    in IOU_BINS equal bins. `reliability`: by the estimate's name. For semantic sets the foreground overlap stands
    instead: mean over images of all true against all pseudo pixels.
    """

    images: int
    instances: int
    pseudo_masks: int
    dropped: int
    miou: float | None
    miou_images: float | None
    misses: int | None
    false_positives: int | None
    by_class: dict[str, float]
    by_origin: dict[str, float]
    objects_by_class: dict[str, int] = Field(default_factory=dict)
    missed_by_class: dict[str, int] = Field(default_factory=dict)
    masks_by_origin: dict[str, int] = Field(default_factory=dict)
    iou_counts: list[int] = Field(default_factory=list)
    reliability: dict[str, Reliability] = Field(default_factory=dict)
    foreground_iou: float | None = None
    foreground_dice: float | None = None


class StudentScore(Document):
    """One student on the val images: COCO AP of masks in [0, 1], or foreground overlap for semantic sets."""

    images: int
    AP: float | None = None
    AP50: float | None = None
    AP75: float | None = None
    APs: float | None = None
    APm: float | None = None
    APl: float | None = None
    foreground_iou: float | None = None
    foreground_dice: float | None = None


class MetricsFile(Document):
    """What evaluate found: `pseudo` is null where nothing was hidden, so nothing could be compared."""

    seed: int
    weak: str
    images: dict[str, int]
    semantic: bool
    pseudo: PseudoQuality | None
    students: dict[str, StudentScore]


class LabelledGate(Document):
    """Mean IoU of true objects on images that were labelled as the weak ones are, misses 0: tuned and zero-shot.

    The other SAMs that such a labelling asks are as they were chosen.
    """

    tuned: float
    zero_shot: float
    objects: int


class GateVariant(Document):
    """One SAM of the teacher: which one is used, and why.

    `tuned`, `zero_shot`: mean IoU on masks it was not fitted on, alone, on prompts as it was tuned with. `labelled`: of
    the whole labelling, which decides; null where labels of the run's kind do not ask it, or found no object in any
    way, and `tuned`, `zero_shot` decide.
    """

    tuned: float | None
    zero_shot: float | None
    use: Literal["tuned", "zero_shot"]
    images: int
    instances: int
    method: Literal["reserved", "cross-fitting", "none"]
    why: str
    labelled: LabelledGate | None = None


class GateFile(RootModel[dict[str, GateVariant]]):
    """gate.json: variant (`box`, `point`, `point_box`, `plain_box`) -> decision."""

    model_config = ConfigDict(frozen=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check the file; BadInput names it and the entry."""
        return _read(cls, path)

    def write(self, path: Path) -> None:
        """Write as indented JSON, whole or not at all."""
        _write(self, path)


class CalibrationFile(Document):
    """calibration.json: how good the teacher's masks are on images whose human masks it was not fitted on.

    `said`, `true` and `image_ids`: of each of these masks the quality by a regression that has not seen its image, its
    IoU, and its image. `kinds`: how many of them came of each kind of weak label.
    `calibrator` is the regression on all of them; null, as `reliability`, where there were too few masks. `why` says
    so, or on which masks it was fitted.
    """

    weak: str
    why: str
    images: int
    masks: int
    calibrator: Calibrator | None
    reliability: Reliability | None
    kinds: dict[str, int]
    said: list[float]
    true: list[float]
    image_ids: list[int]


class CostRow(Document):
    """One way to label the data set: seconds per image without masks, hours and money in all, full masks over it."""

    kind: str
    this_run: bool
    seconds_per_image: float | None = None
    hours: float | None = None
    money: float | None = None
    saving: float | None = None
    note: str = ""


class CostFile(Document):
    """cost.json: the bill in annotation time, and the machine's time beside it.

    `classes` (K), `instances_per_image` (n) and `classes_per_image` (c) are null when there was nothing to count; then
    no row has a price.
    """

    counts_from: str
    classes: int | None
    instances_per_image: float | None
    classes_per_image: float | None
    images: int
    human_masked_images: int
    masked_fraction: float
    hourly_rate: float | None
    units: dict[str, float | None]
    rows: list[CostRow]
    machine_seconds: dict[str, float]


class Quarantined(Document):
    """One image or annotation that was left out, and why."""

    entry: str
    reason: str


class QuarantineFile(Document):
    """quarantine.json: everything that was left out at ingest."""

    images: list[Quarantined]
    annotations: list[Quarantined]


class SummaryFile(Document):
    """summary.json of ingest: what came in. `bad_*` are compared with `max_bad`."""

    images: int
    bad_images: int
    annotations: int
    bad_annotations: int
    classes: int
    roles: dict[str, int]
    weak: str
    semantic: bool
    notes: list[str]
