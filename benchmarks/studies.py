"""What studies share: runs by the command line a user would type, a ledger of them, tables between a document's marks.

A ledger has a JSON line for each run. It says by what settings, weights and stages the run was made (`made_by`), so
that a study that was broken off goes on, and one whose settings have changed begins anew.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeVar

import yaml

from pipeline.engine.files import file_digest
from pipeline.models import Models
from pipeline.stages.ingest import Ingest
from pipeline.stages.table import STAGES

Settings = dict[str, Any]


class Cell(Protocol):
    """One run of a study."""

    @property
    def name(self) -> str: ...


class Row(Protocol):
    """What a ledger keeps of one run."""

    @property
    def cell(self) -> Hashable: ...

    @property
    def made_by(self) -> str: ...


AnyCell = TypeVar("AnyCell", bound=Cell)
AnyRow = TypeVar("AnyRow", bound=Row)


def made_by(config: Settings) -> str:
    """The first letters of a digest of settings, of the weights its models start from and its stages' versions."""
    models = Models(config["models"])
    weights = {name: dict(models.weights(name)) for name in config["models"]}
    versions = {name: STAGES[name].version for stage in config["stages"] for name in stage}
    versions[Ingest.name] = Ingest.version
    text = yaml.safe_dump(config, sort_keys=True) + json.dumps([weights, versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def data_digest(config: Settings, folder: Path | None) -> str:
    """Of the files that a config takes from a folder: both COCO files, and what lies among its images.

    Empty for data that the settings make by themselves, and without a folder.
    """
    data = config["data"]
    if folder is None or data["source"] != "coco":
        return ""
    paths = [folder / data["json"], folder / data["val_json"], *sorted((folder / data["images"]).rglob("*"))]
    told = [(path.relative_to(folder).as_posix(), file_digest(path)) for path in paths if path.is_file()]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


def read_lines(path: Path) -> list[Settings]:
    """What a ledger holds; a last line that a kill cut off is none."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def add_line(path: Path, content: Mapping[str, Any]) -> None:
    """Append to a ledger."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text and not text.endswith("\n"):  # a line that a kill cut off
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")


def newest(ledger: Path, rows: Iterable[AnyRow], current: Callable[[AnyRow], str]) -> list[AnyRow]:
    """Of each cell the row that was made last, of those that would be made so now: `current` says by what.

    Ends the program with an error if there is none, as tables of nothing would take the place of others.
    """
    found = {row.cell: row for row in rows if row.made_by == current(row)}
    if not found:
        sys.exit(f"{ledger}: no row was made with these settings, weights and stages; run the study first")
    return list(found.values())


@dataclass(frozen=True)
class Runs:
    """Where runs go, what is shared between them, and the ledger of those that are done."""

    ledger: Path
    out: Path
    store: Path | None = None
    data: Path | None = None
    lock: Lock = field(default_factory=Lock)

    def one(self, name: str, config: Settings, row: Callable[[Path], Mapping[str, Any]]) -> bool:
        """`pipeline run` on a config, then the row that its folder gives; False if the run fails."""
        out = self.run(name, config)
        if out is None:
            return False
        found = row(out)
        with self.lock:
            add_line(self.ledger, found)
        return True

    def run(self, name: str, config: Settings) -> Path | None:
        """`pipeline run` on a config, which goes on where it was broken off: its folder, or None if it fails."""
        out = self.out / name / made_by(config)
        out.parent.mkdir(parents=True, exist_ok=True)
        file = out.with_suffix(".yaml")
        file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "pipeline.cli", "run", str(file), f"--out={out}"]
        command += [f"--store={self.store or self.out / '.store'}"]
        command += [f"--data={self.data}"] if self.data else []
        return None if subprocess.run(command, check=False).returncode else out


def run_all(cells: Iterable[AnyCell], run: Callable[[AnyCell], bool], *, at_a_time: int) -> int:
    """Run all cells; 1 if one failed, after the others, with the names of those on standard error.

    A cell fails if `run` says so, or raises.
    """
    with ThreadPoolExecutor(at_a_time) as pool:
        tried = {pool.submit(run, cell): cell.name for cell in cells}
        try:
            wait(tried)
        finally:
            pool.shutdown(cancel_futures=True)  # what an interrupted study has not begun
    failed = []
    for one, name in tried.items():
        error = one.exception()
        if error is not None:
            failed.append(f"{name}: {error!r}")
        elif not one.result():
            failed.append(name)
    sys.stderr.write("".join(f"failed: {line}\n" for line in failed))
    return 1 if failed else 0


def marks(name: str) -> tuple[str, str]:
    """What a study's tables stand between."""
    return f"<!-- {name} -->", f"<!-- end of {name} -->"


def check(file: Path, name: str) -> None:
    """ValueError unless a file has a study's two marks."""
    text, (first, last) = file.read_text(encoding="utf-8"), marks(name)
    if [text.count(mark) for mark in (first, last)] != [1, 1] or text.index(first) > text.index(last):
        raise ValueError(f"{file}: expected {first} and {last}, each once and in that order")


def write(file: Path, name: str, tables: str) -> None:
    """Put a study's tables between its marks in a file; ValueError if it lacks them."""
    check(file, name)
    first, last = marks(name)
    before, rest = file.read_text(encoding="utf-8").split(first)
    after = rest.split(last, 1)[1]
    file.write_text(f"{before}{first}\n\n{tables}\n\n{last}{after}", encoding="utf-8")


def markdown(title: str, header: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A titled table."""
    names = list(header)
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{title}:\n\n| {' | '.join(names)} |\n|{'|'.join('---' for _ in names)}|\n{body}"
