"""The ledger of trials: a JSON line for each, read back to go on from it and to make the table of the documentation."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One trial's result; `kind`, `engine`, `seed` and `number` name it."""

    kind: str
    engine: str
    seed: int
    number: int
    kills: int
    redone: int | None
    seconds: float
    how: str
    failures: tuple[str, ...]

    @property
    def name(self) -> tuple[str, str, int, int]:
        return self.kind, self.engine, self.seed, self.number


def read(path: Path) -> list[Row]:
    """All rows; a last line that was cut off by a kill is no row."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            content = json.loads(line)
            rows.append(Row(**{**content, "failures": tuple(content["failures"])}))
    return rows


def add(path: Path, row: Row) -> None:
    """Append a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text() if path.exists() else ""
    if text and not text.endswith("\n"):  # a line that a kill cut off
        path.write_text(text[: text.rfind("\n") + 1])
    with path.open("a") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def summary(rows: Sequence[Row]) -> str:
    """The line at the end: trials, failures, units redone a kill."""
    faults, failed = sum(row.kills for row in rows), sum(bool(row.failures) for row in rows)
    return f"{len(rows)} trials, {failed} failures, {faults} faults, {_rate(rows)} units redone per kill"


def _rate(rows: Sequence[Row]) -> str:
    """Units redone per kill, of the trials that counted them."""
    counted = [row for row in rows if row.redone is not None]
    kills = sum(row.kills for row in counted)
    return f"{sum(row.redone or 0 for row in counted) / kills:.2f}" if kills else "-"


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each kind and engine."""
    groups: Mapping[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.kind, row.engine].append(row)
    lines = [
        "| kind | engine | trials | faults put in | failures | units redone per kill | median seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for (kind, engine), found in sorted(groups.items()):
        faults = sum(row.kills for row in found)
        middle = sorted(row.seconds for row in found)[len(found) // 2]
        failed = sum(bool(row.failures) for row in found)
        lines.append(
            f"| {kind} | {engine} | {len(found)} | {faults} | {failed} | {_rate(found)} | {middle:.0f} |"
        )
    return "\n".join(lines)
