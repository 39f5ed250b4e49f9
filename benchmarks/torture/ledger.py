"""The ledger of trials: a JSON line for each, read back to go on from it and to make the table of the documentation.

A row says of which code it is; nothing is concluded from one version for another.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

TRIED = ("pipeline/**/*.py", "teachers/fake.py", "configs/torture.yaml", "benchmarks/torture/**/*.py")


@dataclass(frozen=True)
class Row:
    """One trial's result; `kind`, `engine`, `seed` and `number` name it, `code` is the digest of what was tried.

    One without `kills` has not met its fault: the run was over before, say.
    """

    code: str
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


def code_digest(root: Path) -> str:
    """The first letters of a digest of all that a trial tries and is made by."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in TRIED for path in root.glob(pattern)):
        digest.update(f"{path.relative_to(root)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]


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
    hit = [row for row in rows if row.kills]
    faults, failed = sum(row.kills for row in rows), sum(bool(row.failures) for row in rows)
    text = f"{len(hit)} trials, {failed} failures, {faults} faults, {_rate(rows)} units redone per kill"
    return text + (f"; {len(rows) - len(hit)} more met no fault" if len(hit) < len(rows) else "")


def _rate(rows: Sequence[Row]) -> str:
    """Units redone per kill, of the trials that counted them."""
    counted = [row for row in rows if row.redone is not None]
    kills = sum(row.kills for row in counted)
    return f"{sum(row.redone or 0 for row in counted) / kills:.2f}" if kills else "-"


def of_newest(rows: Sequence[Row]) -> list[Row]:
    """The rows of the code that was tried last."""
    return [row for row in rows if row.code == rows[-1].code]


def table(rows: Sequence[Row]) -> str:
    """Markdown: which code it was, and a line for each kind and engine."""
    if not rows:
        return "No trial yet."
    groups: Mapping[tuple[str, str], list[Row]] = defaultdict(list)
    for row in of_newest(rows):
        groups[row.kind, row.engine].append(row)
    lines = [
        f"Of the code `{rows[-1].code}` (`python -m benchmarks.torture --code`):",
        "",
        "| kind | engine | trials | met no fault | faults put in | failures | units redone per kill | median seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (kind, engine), found in sorted(groups.items()):
        hit = sum(bool(row.kills) for row in found)
        middle = sorted(row.seconds for row in found)[len(found) // 2]
        numbers = (
            hit,
            len(found) - hit,
            sum(row.kills for row in found),
            sum(bool(r.failures) for r in found),
        )
        cells = [kind, engine, *map(str, numbers), _rate(found), f"{middle:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
