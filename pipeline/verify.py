"""`pipeline models check`: are weights what was published or recorded, do they open safely and fit their models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.data.errors import BadInput
from pipeline.engine.files import file_digest
from pipeline.weights import RECORD, Fetched, Repository, find_weights
from students import catalog as students
from teachers import catalog as teachers
from teachers.catalog import ModelSpec


@dataclass(frozen=True)
class Verdict:
    """What was found; `why` tells what is wrong, or what could not be compared."""

    state: Literal["ok", "missing", "damaged"]
    why: str = ""

    def __str__(self) -> str:
        return f"{self.state}: {self.why}" if self.why else self.state


def verify(name: str, folder: Path) -> Verdict:
    """Look at the weights `name` in `folder`; embedded ones lie in the package. BadInput for an unknown name."""
    weights = find_weights(name)
    place = weights.place(name, folder)
    if place is not None and not place.exists():
        return Verdict("missing")
    note = ""
    try:
        if isinstance(weights.source, Repository):
            note = _compare_recorded(folder / name)
        _inspect(weights.spec(name, folder), weights.part)
    except BadInput as error:
        return Verdict("damaged", "; ".join(str(error).splitlines()))
    return Verdict("ok", note)


def _compare_recorded(folder: Path) -> str:
    """BadInput for a file that is not the recorded one; a note if nothing is recorded."""
    record = Fetched.read(folder)
    if record is None:
        return f"there is no {RECORD}, so no digest was compared"
    for name, expected in record.files.items():
        path = folder / name
        found = file_digest(path) if path.is_file() else "nothing"
        if found != expected:
            raise BadInput(f"{path}: expected sha256 {expected}, found {found}")
    return ""


def _inspect(spec: ModelSpec, part: str | None) -> None:
    if spec.use in teachers.ENTRIES:
        teachers.inspect(spec, part)
    else:
        students.inspect(spec, part)
