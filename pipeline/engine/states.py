"""Saved states of an unfinished job: each file is named after its digest, so a torn or damaged one is known as such.

`<name>-<number>-<sha256>.safetensors`. The one before the last is kept too, for the case that the last is damaged.
"""

from collections.abc import Callable
from pathlib import Path

from pipeline.engine import files

KEPT = 2
SUFFIX = ".safetensors"


def save_state(folder: Path, name: str, number: int, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file, and make it the state of that number; all but the last ones before are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    files.clean_leftovers(folder)
    temp = files.temp_name(folder)
    try:
        write(temp)
        files.sync(temp)
        temp.replace(folder / f"{name}-{number:09d}-{files.file_digest(temp)}{SUFFIX}")
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    files.sync(folder)
    for old in states(folder, name)[:-KEPT]:
        old.unlink(missing_ok=True)


def last_state(folder: Path, name: str) -> Path | None:
    """The last state whose bytes are those that were saved; None if there is none."""
    return next((path for path in reversed(states(folder, name)) if _is_whole(path)), None)


def states(folder: Path, name: str) -> list[Path]:
    """All states of that name, the last one last."""
    return sorted(folder.glob(f"{name}-{'[0-9]' * 9}-*{SUFFIX}"))


def _is_whole(path: Path) -> bool:
    return files.is_whole(path, path.stem.rpartition("-")[2])
