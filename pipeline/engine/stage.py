"""What a stage is. A stage says what is done; an engine decides when and where, and only it writes a run's files.

`MapStage`: one record in, one record out; the engine cuts the data into units and may run them anywhere, in
any order. `JobStage`: all records in (lazily), one artifact folder out. Both are built in the worker from
(name, config), so nothing but text crosses a process border, and `Config` is checked before any work starts.
What the engine lends to a stage (`WorkerContext`, `TrainContext`, `Records`) is in context.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from pipeline.data.records import Record, Role
from pipeline.engine.context import Metrics as Metrics
from pipeline.engine.context import Records as Records
from pipeline.engine.context import RunFacts as RunFacts
from pipeline.engine.context import Stopped as Stopped
from pipeline.engine.context import TrainContext as TrainContext
from pipeline.engine.context import WorkerContext as WorkerContext
from pipeline.engine.resources import Resources as Resources

Loaded = TypeVar("Loaded")


class StageConfig(BaseModel):
    """Base of every stage's settings: unknown keys are refused.

    All of it enters the stage's keys but `not_in_key`: dotted paths of what changes no result.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    not_in_key: ClassVar[frozenset[str]] = frozenset()


class MapConfig(StageConfig):
    """Settings of every map stage: images per unit (aim at 30-60 s of work) and images per call."""

    unit_size: int = Field(64, ge=1)
    batch_size: int = Field(4, ge=1)


class Stage(ABC):
    """Common to both kinds. `uses` must exist before it, `may_use` is lent if it does; `name.*` stands for all."""

    name: ClassVar[str]
    version: ClassVar[int]
    Config: ClassVar[type[StageConfig]]
    uses: tuple[str, ...] = ()
    may_use: tuple[str, ...] = ()
    roles: frozenset[Role] = frozenset(Role)

    @abstractmethod
    def __init__(self, config: StageConfig) -> None:
        """Keep the settings; no file is read and no weight loaded here."""


class MapStage(Stage, Generic[Loaded]):
    """One record in, one record out; records of other `roles` pass untouched. `needs`/`adds`: fields of
    `Record`.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    adds: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def setup(self, context: WorkerContext) -> None:
        """Load weights, once per worker."""

    @abstractmethod
    def load(self, record: Record) -> Loaded:
        """Read what one image needs; runs in the engine's threads; `BadInput` quarantines that image alone."""

    @abstractmethod
    def blank(self, record: Record) -> Loaded:
        """A stand-in of the same shape for an image that is not to be read, so its neighbours' results don't
        change.
        """

    @abstractmethod
    def __call__(self, batch: Sequence[Loaded]) -> list[Record]:
        """The work: records of the same length and order; rejection is `dropped="reason"`."""


class JobStage(Stage):
    """All records of `roles` in, one artifact folder named `produces` out.

    `parts`: subfolders of the artifact that later stages use by their own names, in place of the whole.
    `publishes`: files or folders of the artifact -> their place in the run folder. `reads_timings`, `reads_run`: it is
    lent `context.timings`, `context.run`, and its key tells which results, which config those are of.
    """

    produces: str
    parts: tuple[str, ...] = ()
    publishes: Mapping[str, str] = {}
    reads_timings: ClassVar[bool] = False
    reads_run: ClassVar[bool] = False

    def identity(self, data_root: Path) -> str:  # noqa: ARG002
        """Digest of what the job reads from outside the store (a user's files); part of its key."""
        return ""

    def unshareable(self, world: int) -> str:
        """Why `world` processes cannot do it together; empty if they can."""
        return "" if world == 1 else f"works in one process, found {world} in resources: workers"

    @abstractmethod
    def run(self, data: Records, context: TrainContext) -> Metrics:
        """Write files into `context.out`; the returned numbers go into `artifact.json`."""
