"""The runs of the study of BLO-Inst, the config that each is, and the row that a ledger keeps of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.studies import Settings

ORDERS = ("none", "separate", "joint", "first", "second")
EVEN = 0.5
SPLITS = (0.2, 1 / 3, EVEN, 2 / 3, 0.8)  # SAM's images over the detector's: 1/4, 1/2, 1, 2, 4
PARTS = ("decoder", "prompt_encoder", "both")
WIDE_WORLD = "penn-fudan"  # where splits and parts are compared
TOYWORLD: Settings = {"source": "toyworld", "train": 200, "val": 100}
# Set before any score was seen: 10, 20 and 8 epochs of an even split. In epochs, uneven splits would have more steps.
STEPS = {"toyworld": 130, "penn-fudan": 100, "car-parts": 200}
PRETRAIN_EPOCHS = {"toyworld": 20, "penn-fudan": 60, "car-parts": 20}
WORLDS = tuple(STEPS)


@dataclass(frozen=True)
class Start:
    """The detector that all students of a world and seed begin with: it was trained alone, on all images.

    That part of a training knows of no order, split or part: a student that trains its detector itself has the same
    bits.
    """

    world: str
    seed: int

    @property
    def name(self) -> str:
        """A folder's name; no cell and no other start has it."""
        return f"{self.world}-{self.seed}-start"


@dataclass(frozen=True)
class Cell:
    """One student. `split`: share of the images that SAM's part learns from; `part`: what of SAM that is.

    `order`: as the student's, or `none`: the detector alone, for as many steps as in `separate`, with zero-shot SAM.
    """

    world: str
    seed: int
    order: str
    split: float = EVEN
    part: str = PARTS[0]

    @property
    def start(self) -> Start:
        """What it begins with."""
        return Start(self.world, self.seed)

    @property
    def plain(self) -> bool:
        """Whether it differs from others in its order alone."""
        return self.split == EVEN and self.part == PARTS[0]

    @property
    def name(self) -> str:
        """A folder's name; no other cell has it."""
        words = [self.world, str(self.seed), self.order]
        words += [] if self.split == EVEN else [f"{self.split:.2f}"]
        return "-".join(words if self.part == PARTS[0] else [*words, self.part])


@dataclass(frozen=True)
class Row:
    """One run's results; `made_by` is the digest of its settings, its models' weights and its stages' versions.

    AP, AP50 and AP75 of the test, in 0..1. `training`: what `BloInst.fit` says. `missed_in_test`: the mean loss over
    the test's objects; `found_in_test`: the share of them that a box found. `data`: digest of the files it was made of.
    """

    cell: Cell
    made_by: str
    AP: float
    AP50: float
    AP75: float
    training: Mapping[str, float]
    missed_in_test: float
    found_in_test: float
    data: str = ""

    @classmethod
    def of(cls, line: Settings) -> "Row":
        """Of a ledger's line."""
        return cls(**{**line, "cell": Cell(**line["cell"])})


def cells_of(world: str, seed: int) -> Iterator[Cell]:
    """The cells of a world and seed, in the order they are run."""
    yield from (Cell(world, seed, order) for order in ORDERS)
    if world == WIDE_WORLD:
        yield from (Cell(world, seed, "first", split) for split in SPLITS if split != EVEN)
        yield from (Cell(world, seed, "first", part=part) for part in PARTS[1:])


def config_of(cell: Cell, *, effort: float = 1.0) -> Settings:
    """What `pipeline run` would be given for the whole of a cell; `effort`: share of the steps, for a quick try."""
    student: Settings = {
        "use": "blo_inst",
        "order": cell.order,
        "split": cell.split,
        "part": cell.part,
        "pretrain_epochs": _share(PRETRAIN_EPOCHS[cell.world], effort),
        "steps": _share(STEPS[cell.world], effort),
    }
    if cell.order == "none":
        student |= {"order": "separate", "seg": 0}
    return _config(cell, student) | {"stages": [{"train_student": {"model": "aligned"}}, {"evaluate": {}}]}


def start_config(start: Start, *, effort: float = 1.0) -> Settings:
    """What `pipeline run` is given for a start."""
    epochs = _share(PRETRAIN_EPOCHS[start.world], effort)
    student: Settings = {"use": "blo_inst", "pretrain_epochs": epochs, "epochs": 0}
    return _config(start, student) | {"stages": [{"train_student": {"model": "aligned"}}]}


def from_start(cell: Cell, weights: Path, *, effort: float = 1.0) -> Settings:
    """What `pipeline run` is given for the rest of a cell; `weights`: the file of its start."""
    config = config_of(cell, effort=effort)
    config["models"]["aligned"] |= {"pretrain_epochs": 0, "detector_weights": str(weights)}
    return config


def _share(count: int, effort: float) -> int:
    return max(1, round(count * effort))


def _config(cell: Cell | Start, student: Settings) -> Settings:
    return {
        "name": cell.name,
        "seed": cell.seed,
        "data": _data(cell),
        "weak": "box+class",
        "masks": "100%",
        "torch_threads": 1,
        "models": {"aligned": student},
    }


def _data(cell: Cell | Start) -> Settings:
    if cell.world == "toyworld":
        return {**TOYWORLD, "seed": cell.seed}
    return {
        "source": "coco",
        "json": f"{cell.world}/train.json",
        "images": f"{cell.world}/images",
        "val_json": f"{cell.world}/test.json",
    }
