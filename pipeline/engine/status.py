"""What a run folder and its store tell, from disk alone, also while the run goes on."""

import fcntl
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.engine.faults import BadPlan
from pipeline.engine.remote_store import open_store
from pipeline.engine.rundir import HEARTBEAT, LOCK, LOG, RunFolder, StageLog
from pipeline.engine.store import Store


@dataclass(frozen=True)
class StageStatus:
    """One stage: its results in all (0: not planned yet), those in the store, those that are there but damaged.

    `state` is `waiting`, `running`, `interrupted` or `done`; `quarantined` are the images that it has left out so far.
    """

    label: str
    kind: str
    state: str
    total: int
    done: int
    damaged: int
    quarantined: int
    seconds: float

    @property
    def redo(self) -> int:
        """Results that the next run would make."""
        return self.total - self.done


@dataclass(frozen=True)
class RunStatus:
    """A run: its state, who works on it, on what, and how far each stage is."""

    name: str
    state: str
    holder: str | None
    in_hand: str | None
    stages: tuple[StageStatus, ...]


def read_status(path: Path) -> RunStatus:
    """The status of a run folder; every file it names in the store is checked. BadPlan if it is no run
    folder.
    """
    folder = RunFolder(path)
    log = folder.read_log()
    if log is None:
        raise BadPlan((f"{path}: expected a run folder with a sound {LOG}, found none",))
    store = open_store(log.store, look_only=True)
    busy = _is_locked(folder.path)
    state = log.state if busy or log.state != "running" else "interrupted"
    stages = tuple(
        _stage(store, stage, folder.read_keys(number) or [], busy=busy)
        for number, stage in enumerate(log.stages)
    )
    return RunStatus(
        log.name,
        state,
        folder.holder() if busy else None,
        _in_hand(folder.path) if busy else None,
        stages,
    )


def _stage(store: Store, log: StageLog, keys: Sequence[str], *, busy: bool) -> StageStatus:
    """How far a stage is."""
    if log.state == "waiting":
        keys = ()  # those of an earlier run
    before = len(store.damaged)
    found = store.has_unit if log.kind == "map" else lambda key: store.find_artifact(key) is not None
    done = sum(map(found, keys))
    return StageStatus(
        label=log.label,
        kind=log.kind,
        state=log.state if busy or log.state != "running" else "interrupted",
        total=max(len(keys), log.units),  # of a stage at work not all keys are known yet
        done=done,
        damaged=len(store.damaged) - before,
        quarantined=log.quarantined,
        seconds=log.seconds,
    )


def find_results(path: Path, stage: str, *, part: str | None = None) -> dict[str, Path]:
    """The artifact folders (or a part of them) that a run's jobs of one stage left, by label.

    BadPlan if it is no run folder.
    """
    folder = RunFolder(path)
    log = folder.read_log()
    if log is None:
        raise BadPlan((f"{path}: expected a run folder with a sound {LOG}, found none",))
    store = open_store(log.store, look_only=True)
    found = {}
    for number, entry in enumerate(log.stages):
        for key in folder.read_keys(number) or []:
            artifact = store.find_artifact(key) if entry.label.split(":")[0] == stage else None
            if artifact is not None:
                found[entry.label] = artifact.part(part).folder if part else artifact.folder
    return found


def _is_locked(path: Path) -> bool:
    try:
        with (path / LOCK).open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _in_hand(path: Path) -> str | None:
    try:
        beat = json.loads((path / HEARTBEAT).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return f"{beat['about']}, images {beat['ids']}" if beat["ids"] else str(beat["about"])
