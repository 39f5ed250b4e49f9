"""What the driver sends to a worker and gets back: texts, keys, paths and numbers, never pixels or masks."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from pipeline.engine.artifact import Artifact, is_replaced
from pipeline.engine.context import RunFacts, WorkerContext
from pipeline.engine.faults import StageFailed
from pipeline.engine.machine import Name
from pipeline.engine.stage import JobStage, MapStage, Stage
from pipeline.engine.store import Store
from pipeline.engine.streams import RecordStream
from pipeline.engine.units import Part, RecordSet, UnitInput

Move = Callable[[Sequence[Path]], list[Path]]


@dataclass(frozen=True)
class Limits:
    """When a worker is taken for lost.

    `image_seconds`: what one image may take, so a call of the model may take it `batch_size` times. `stall_seconds`
    without any image finished, and the run is at a standstill. `memory`: resident bytes that a worker may take; None:
    most of what the machine has.
    """

    image_seconds: float
    stall_seconds: float
    memory: int | None = None


@dataclass(frozen=True)
class StageTask:
    """A stage to build: its class (pickled by name), its config as JSON, where it works, and how far it may go.

    `digests`: of the content of its context's artifacts, by name, as its keys have them.
    """

    label: str
    stage: type[Stage]
    config: str
    context: WorkerContext
    torch_threads: int
    limits: Limits = Limits(math.inf, math.inf)
    digests: Mapping[str, str] = field(default_factory=dict)

    def check_artifacts(self) -> None:
        """After they were read: StageFailed if another run has put one of its own in the place of any."""
        for name, folder in self.context.artifacts.items():
            if name in self.digests and is_replaced(folder, self.digests[name]):
                raise StageFailed(
                    f"{self.label}: another run has made {name} anew meanwhile; the same command goes on with that one"
                )

    def moved(self, move: Move) -> "StageTask":
        """With other paths for those of artifacts and images."""
        context, root = self.context, self.context.images_root
        names = tuple(context.artifacts)
        if isinstance(root, Path):
            (root,) = move([root])
        folders = move(list(context.artifacts.values()))
        artifacts = dict(zip(names, folders, strict=True))
        return replace(self, context=replace(context, artifacts=artifacts, images_root=root))

    def build_map(self) -> MapStage[object]:
        """A new map stage, not set up yet."""
        stage = self.stage(self.stage.Config.model_validate_json(self.config))
        if not isinstance(stage, MapStage):
            raise TypeError(f"{self.label}: expected a MapStage, found {type(stage).__name__}")
        return stage

    def build_job(self) -> JobStage:
        """A new job stage."""
        stage = self.stage(self.stage.Config.model_validate_json(self.config))
        if not isinstance(stage, JobStage):
            raise TypeError(f"{self.label}: expected a JobStage, found {type(stage).__name__}")
        return stage


@dataclass(frozen=True)
class UnitTask:
    """One unit to make. `suspects` are run one at a time; `poison` are not run at all but quarantined, each for its
    reason. `redo`: even if the store has it.
    """

    stage: StageTask
    key: str
    source: UnitInput
    suspects: frozenset[Name] = frozenset()
    poison: Mapping[Name, str] = field(default_factory=dict)
    redo: bool = False

    def again(self, in_hand: frozenset[Name], blamed: Mapping[Name, str]) -> "UnitTask":
        """The same after the worker's death with these images in hand, some of which are to blame."""
        return replace(self, suspects=self.suspects | in_hand, poison={**self.poison, **blamed})

    def moved(self, move: Move) -> "UnitTask":
        """With other paths for its own."""
        source = replace(self.source, parts=_moved(self.source.parts, move))
        return replace(self, stage=self.stage.moved(move), source=source)


@dataclass(frozen=True)
class JobTask:
    """One job to do. `redo`: even if the store has its artifact, and without the checkpoints of earlier runs.

    `identity`: of what it reads from outside the store. `attempt`: 0, and more after deaths of the worker in this run,
    whose checkpoints stay good. `suspects`, `poison`: as `InHand` has them.
    """

    stage: StageTask
    key: str
    records: RecordStream
    seed: int
    data_root: Path
    timings: Mapping[str, float]
    identity: str = ""
    run: RunFacts | None = None
    redo: bool = False
    attempt: int = 0
    suspects: frozenset[Name] = frozenset()
    poison: Mapping[Name, str] = field(default_factory=dict)

    def again(self, in_hand: frozenset[Name], blamed: Mapping[Name, str]) -> "JobTask":
        """As `UnitTask.again`; it goes on from its checkpoints."""
        suspects, poison = self.suspects | in_hand, {**self.poison, **blamed}
        return replace(self, suspects=suspects, poison=poison, attempt=self.attempt + 1)

    def moved(self, move: Move) -> "JobTask":
        """With other paths for those in the store."""
        parts = _moved(self.records.records.parts, move)
        records = replace(self.records, records=RecordSet(parts, self.records.records.rows))
        return replace(self, stage=self.stage.moved(move), records=records)


def _moved(parts: tuple[Part, ...], move: Move) -> tuple[Part, ...]:
    paths = move([part.path for part in parts])
    return tuple(Part(part.bucket, path) for part, path in zip(parts, paths, strict=True))


@dataclass(frozen=True)
class Alive:
    """The work in hand goes on; there is nothing new to show. `saving`: from here on only what was done is put away."""

    saving: bool = False


@dataclass(frozen=True)
class Progress:
    """So much of the work in hand is done; `note` is for the display."""

    done: int
    total: int
    note: str = ""


@dataclass(frozen=True)
class UnitDone:
    """A unit is committed as `made`: its own `key`, or another if images had to be left out.

    `images` were worked on in `seconds`.
    """

    key: str
    made: str
    images: int
    seconds: float


@dataclass(frozen=True)
class JobDone:
    """A job's artifact is committed."""

    artifact: Artifact


@dataclass(frozen=True)
class WorkerFailed:
    """The work raised an error or came to a standstill; `text` says to the user what happened.

    `kind` is `bad_input`, `stopped`, `stalled`, `memory` (it was refused) or `error`.
    """

    kind: str
    text: str


Task = TypeVar("Task", UnitTask, JobTask)


def named(task: Task, store: Store) -> Task:
    """The task with names for all paths in the store, to be sent to another machine."""
    return task.moved(lambda paths: [store.name_of(path) for path in paths])


def placed(task: Task, store: Store) -> Task:
    """The task with paths of this machine for those names; what they name is here then."""
    return task.moved(store.here)


Report = Alive | Progress | UnitDone | JobDone | WorkerFailed
