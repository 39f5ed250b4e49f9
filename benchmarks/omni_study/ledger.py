"""The ledger of the study: a JSON line for each cell, kept so that a study may be broken off and gone on with.

A row says by what settings, weights and stages it was made; tables hold the rows of the newest study alone.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from benchmarks.omni_study.cells import Cell, Settings, config_of
from pipeline.stages.table import STAGES
from teachers.tiny.listing import read_listing

FULL_MASKS = "mask+class"  # the row of cost.json


@dataclass(frozen=True)
class Row:
    """One run's results; `made_by` is the digest of its settings, of the embedded weights and the stages' versions.

    `study` is the same of what all cells of the world have in common.
    `miou` of the pseudo-masks over true objects, misses count 0; None where no image was weak. `AP`, `AP50` of the
    student; `hours` of annotation, by the cost model, and those of full masks. `errors` and `correlations`: the
    calibration error of each estimate of the pseudo-masks, and its rank correlation with their IoU.
    """

    cell: Cell
    made_by: str
    study: str
    images: int
    miou: float | None
    AP: float | None
    AP50: float | None
    hours: float | None
    full_hours: float | None
    seconds: float
    errors: Mapping[str, float]
    correlations: Mapping[str, float | None]

    @property
    def name(self) -> tuple[str, str]:
        return self.cell.name, self.made_by


def made_by(config: Settings) -> str:
    """The first letters of a digest of settings, of the weights that come with the package and the stages' versions."""
    weights = {name: facts["sha256"] for name, facts in read_listing().items()}
    versions = {name: stage.version for name, stage in STAGES.items()}
    text = yaml.safe_dump(config, sort_keys=True) + json.dumps([weights, versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def row_of(cell: Cell, base: Settings, run: Path) -> Row:
    """What a finished run's files say; `base` is the config of its world."""
    metrics = _read(run / "metrics.json")
    cost = _read(run / "cost.json")
    prices = {row["kind"]: row["hours"] for row in cost["rows"]}
    own = next((row["hours"] for row in cost["rows"] if row["this_run"]), None)
    score = metrics["students"].get("student", {})
    pseudo = metrics["pseudo"] or {}
    reliability = pseudo.get("reliability", {})
    return Row(
        cell=cell,
        made_by=made_by(config_of(base, cell)),
        study=made_by(base),
        images=cost["images"],
        miou=pseudo.get("miou"),
        AP=score.get("AP"),
        AP50=score.get("AP50"),
        hours=own,
        full_hours=prices[FULL_MASKS],
        seconds=sum(cost["machine_seconds"].values()),
        errors={name: one["error"] for name, one in reliability.items()},
        correlations={name: one["correlation"] for name, one in reliability.items()},
    )


def read(path: Path) -> list[Row]:
    """All rows; a last line that a kill cut off is none."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [_row(json.loads(line)) for line in lines if line.endswith("\n")]


def add(path: Path, row: Row) -> None:
    """Append a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text and not text.endswith("\n"):  # a line that a kill cut off
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def newest(rows: Sequence[Row]) -> list[Row]:
    """Of each cell of the newest study of its world the row that was made last."""
    study = {row.cell.world: row.study for row in rows}
    return list({row.cell: row for row in rows if row.study == study[row.cell.world]}.values())


def _row(content: Mapping[str, Settings]) -> Row:
    return Row(**{**content, "cell": Cell(**content["cell"])})  # type: ignore[arg-type]


def _read(path: Path) -> Settings:
    found: Settings = json.loads(path.read_text(encoding="utf-8"))
    return found
