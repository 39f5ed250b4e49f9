"""The fits of the study of AM-SAM, the settings that each is, and the row that a ledger keeps of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from benchmarks.studies import Settings

SHOTS = (4, 8, 16)
BOXES = ("none", "detector", "truth")
PLAIN, SINGLE, BILEVEL, CALIBRATED, LEARNED, SECOND, PAPER_LR, AGAIN = ARMS = (
    "plain SAM",  # nothing is tuned
    "single level",  # without boxes: LoRA of the decoder, as SAMed
    "bi-level",  # without boxes: BLO-SAM
    "bi-level, calibrated",  # with boxes: AM-SAM
    "bi-level, learned calibration",
    "bi-level, second order",
    "bi-level, calibrated, the paper's learning rate",
    "bi-level, calibrated, a second round",
)
WIDE_WORLD = "human-seg"  # where all arms are compared
WORLDS = (WIDE_WORLD, "car-parts", "toyworld")
COPIES = {WIDE_WORLD: ("102.jpg",)}  # train images that are test images too
TOYWORLD: Settings = {"source": "toyworld", "train": 100, "val": 100, "seed": 0}
EPOCHS = {
    WIDE_WORLD: 100,
    "car-parts": 30,
    "toyworld": 30,
}  # where an image has many classes a step takes long
# Chosen on images of human-seg's train part that are no shots of seeds that are not reported.
LR = {"none": 5e-3, "detector": 1e-3, "truth": 1e-3}
PAPER_LR_IS = 5e-3
OWN_MASKS = 0.5  # share of weak images
MARKS = (0, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)  # epochs whose Dice on D2 a row keeps


@dataclass(frozen=True)
class Draw:
    """The images of a fit, and the detector that is tuned on them: what all cells of it have in common."""

    world: str
    shots: int
    seed: int


@dataclass(frozen=True)
class Cell:
    """One fit. `boxes`: who finds them, in training and test: nobody, a detector tuned on the shots, or truth."""

    draw: Draw
    boxes: str
    arm: str

    @property
    def name(self) -> str:
        """For messages."""
        own = self.draw
        return f"{own.world}, {own.shots} shots, seed {own.seed}, boxes {self.boxes}, {self.arm}"


@dataclass(frozen=True)
class Row:
    """One fit's results; `made_by` is the digest of its settings, its models' weights and the stage's version.

    `dice`: of the test images at full size, each the mean over the classes that are there or were found; `of_d2` of D2
    by the epoch that was kept, None where none is chosen; `curve`: of D2 by epoch. `found`: the share of the classes
    of the test images whose box has an IoU of 0.5 or more with the true one, `found_in_shots` of the shots'; None
    without boxes. `core_seconds`: of the steps. `data`: digest of the files.
    """

    cell: Cell
    made_by: str
    dice: float
    of_d2: float | None = None
    best_epoch: int | None = None
    curve: Mapping[str, float] = field(default_factory=dict)
    found: float | None = None
    found_in_shots: float | None = None
    own_masks: int | None = None
    core_seconds: float = 0.0
    data: str = ""

    @classmethod
    def of(cls, line: Settings) -> "Row":
        """Of a ledger's line."""
        cell = {**line["cell"], "draw": Draw(**line["cell"]["draw"])}
        return cls(**{**line, "cell": Cell(**cell)})


def cells_of(draw: Draw) -> Iterator[Cell]:
    """The cells of a draw."""
    wide = draw.world == WIDE_WORLD
    for boxes in BOXES:
        arms = [SINGLE, BILEVEL, CALIBRATED, AGAIN] if wide else [SINGLE, BILEVEL]
        if boxes != "none":
            arms = [PLAIN, SINGLE, BILEVEL, CALIBRATED, *([PAPER_LR, AGAIN] if wide else [])]
        if boxes == "truth" and wide:
            arms += [LEARNED, SECOND]
        yield from (Cell(draw, boxes, arm) for arm in arms)


def settings_of(cell: Cell, *, effort: float = 1.0) -> Settings:
    """Of the teacher; boxes come with the records. `effort`: share of the epochs, for a quick try."""
    boxes = "none" if cell.boxes == "none" else "proposals"
    settings: Settings = {
        "mode": "single_level" if cell.arm == SINGLE else "blo_sam" if boxes == "none" else "am_sam",
        "boxes": boxes,
        "calibration": {LEARNED: "learned"}.get(cell.arm, "sample" if "calibrated" in cell.arm else "off"),
        "epochs": max(1, round(EPOCHS[cell.draw.world] * effort)),
        "lr": PAPER_LR_IS if cell.arm == PAPER_LR else LR[cell.boxes],
    }
    if cell.arm == SECOND:
        settings["order"] = "second"
    if cell.arm == AGAIN:
        settings["self_training"] = OWN_MASKS
    return settings


def config_of(cell: Cell, *, effort: float = 1.0) -> Settings:
    """The settings as a run would have them: what a row's digest is of."""
    teacher = {"use": "am_sam", **settings_of(cell, effort=effort)}
    models: Settings = {"teacher": teacher}
    if cell.boxes == "detector":
        models["detector"] = {"use": "am_sam", **detector_settings(effort=effort)}
    return {
        "cell": cell.name,
        "data": data_of(cell.draw.world),
        "models": models,
        "stages": [{"finetune_teacher": {}}],
    }


def detector_settings(*, effort: float = 1.0) -> Settings:
    """Of a teacher that is fitted for its detector alone."""
    epochs = max(1, round(100 * effort))
    return {"mode": "am_sam", "boxes": "detector", "detector_epochs": epochs, "steps": 1}


def data_of(world: str) -> Settings:
    """A run's `data`."""
    if world == "toyworld":
        return TOYWORLD
    semantic = {"masks": "semantic"} if world == WIDE_WORLD else {}
    return {
        "source": "coco",
        "json": f"{world}/train.json",
        "images": f"{world}/images",
        "val_json": f"{world}/test.json",
        **semantic,
    }
