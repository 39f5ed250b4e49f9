"""The ledger of the study: a JSON line for each cell, kept so that a study may be broken off and gone on with.

A row says by what settings, weights and stages it was made; tables hold the rows that would be made so now.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.omni_study.cells import FULL, Cell, config_of
from benchmarks.studies import Settings, add_line, made_by, read_lines
from pipeline.data.cost import CostModel

SECONDS = 3600.0  # of an hour
RIGHT = 0.5  # IoU from which a mask is right
COUNTED = ("classes", "instances_per_image", "classes_per_image")  # of cost.json


@dataclass(frozen=True)
class Row:
    """One run's results; `made_by` is the digest of its settings, its models' weights and its stages' versions.

    `miou`, `miou_images` of the pseudo-masks over true objects and over images, misses count 0; `right`: the share of
    them with an IoU of at least 0.5, `pseudo_masks` how many there are; None where no image was weak. `AP`, `AP50` of
    the student. `images` of which `masked` have human masks; `counted`: of the cell with full masks the classes, and
    the instances and present classes of an image. `gate`: what answers for each variant. `errors` and
    `correlations`: the calibration error of each estimate of the pseudo-masks, and its rank correlation with their IoU.
    """

    cell: Cell
    made_by: str
    images: int
    masked: int
    counted: tuple[int, float, float] | None
    miou: float | None
    miou_images: float | None
    right: float | None
    pseudo_masks: int | None
    AP: float | None
    AP50: float | None
    gate: Mapping[str, str]
    seconds: float
    errors: Mapping[str, float]
    correlations: Mapping[str, float | None]

    @property
    def name(self) -> tuple[str, str]:
        return self.cell.name, self.made_by


def row_of(cell: Cell, base: Settings, run: Path) -> Row:
    """What a finished run's files say; `base` is the config of its world."""
    metrics = _read(run / "metrics.json")
    cost = _read(run / "cost.json")
    score = metrics["students"].get("student", {})
    pseudo = metrics["pseudo"] or {}
    reliability = pseudo.get("reliability", {})
    return Row(
        cell=cell,
        made_by=made_by(config_of(base, cell)),
        images=cost["images"],
        masked=cost["human_masked_images"],
        counted=tuple(cost[key] for key in COUNTED) if cell.masks == FULL else None,  # type: ignore[arg-type]
        miou=pseudo.get("miou"),
        miou_images=pseudo.get("miou_images"),
        right=_right(pseudo),
        pseudo_masks=pseudo.get("pseudo_masks"),
        AP=score.get("AP"),
        AP50=score.get("AP50"),
        gate={variant: choice["use"] for variant, choice in _gate(run).items()},
        seconds=sum(cost["machine_seconds"].values()),
        errors={name: one["error"] for name, one in reliability.items()},
        correlations={name: one["correlation"] for name, one in reliability.items()},
    )


def hours(rows: Sequence[Row]) -> dict[Cell, float]:
    """Hours of annotation of each cell, by the cost model (methods: Das et al. 2024, Table 1).

    All cells of a world and seed have one price list: that of the cell with full masks, whose labels show every object.
    Cells of a seed that lacks it are left out.
    """
    full = {(row.cell.world, row.cell.seed): row.counted for row in rows if row.counted}
    found = {}
    for row in rows:
        counted = full.get((row.cell.world, row.cell.seed))
        if counted is not None:
            seconds = CostModel(*counted).total(row.images, row.masked / row.images, row.cell.weak)
            found[row.cell] = seconds / SECONDS
    return found


def read(path: Path) -> list[Row]:
    """All rows."""
    return [_row(content) for content in read_lines(path)]


def add(path: Path, row: Row) -> None:
    """Append a row."""
    add_line(path, asdict(row))


def _row(content: Mapping[str, Settings]) -> Row:
    counted = content["counted"]
    own = {"cell": Cell(**content["cell"]), "counted": counted and tuple(counted)}
    return Row(**{**content, **own})  # type: ignore[arg-type]


def _right(pseudo: Settings) -> float | None:
    """Share of the pseudo-masks that have the IoU of a right one."""
    counts = pseudo.get("iou_counts")
    if not counts or not pseudo["pseudo_masks"]:
        return None
    return float(sum(counts[round(len(counts) * RIGHT) :]) / pseudo["pseudo_masks"])


def _gate(run: Path) -> Settings:
    """Nothing where no teacher was judged."""
    return _read(run / "gate.json") if (run / "gate.json").exists() else {}


def _read(path: Path) -> Settings:
    found: Settings = json.loads(path.read_text(encoding="utf-8"))
    return found
