"""What the engine lends to a stage while it works: device, folders, records, progress and the wish to stop."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pipeline.data.paths import Place
from pipeline.data.records import Ontology, Record
from pipeline.engine.machine import Name
from pipeline.engine.team import ALONE, Team

Metrics = Mapping[str, float | int | str | None]
SCRATCH = "scratch"


class Records(Protocol):
    """All records a job may see (its `roles`), lazy and re-iterable, in image_id order."""

    def __iter__(self) -> Iterator[Record]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class WorkerContext:
    """What the engine lends to every stage: `artifacts` maps each used name to its committed folder."""

    device: str
    ontology: Ontology
    images_root: Place
    artifacts: Mapping[str, Path]


def _untold(names: Iterable[Name]) -> None:
    """Nobody asks what is in hand."""


@dataclass(frozen=True)
class InHand:
    """How a job names the images that it has in hand, so that a crash can be traced to them.

    After a crash `suspects` are to be taken one at a time, with nothing else in hand, and `poison` not at all but
    quarantined, each for its reason.
    """

    take: Callable[[Iterable[Name]], None] = _untold
    drop: Callable[[Iterable[Name]], None] = _untold
    suspects: frozenset[Name] = frozenset()
    poison: Mapping[Name, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFacts:
    """A run as people know it: its name, the day of the work (ISO, UTC), the resolved config as YAML, versions.

    `config` is without what changes no result (resources, limits).
    """

    name: str
    day: str
    config: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class TrainContext(WorkerContext):
    """What a job gets besides.

    `workdir` survives a kill of the same job and is removed after its commit: checkpoints go there. `out` is
    the artifact's folder, empty at the start of every attempt. `progress(done, total, note)` feeds the
    display and the heartbeat. Once `should_stop()` is true: save a checkpoint, then raise `Stopped`.
    `key` is the job's own. `data_root` is the folder that relative paths of the user's files start from; only the stage
    that makes the data set is lent it, and the `identity` that its key holds. `timings` maps the label of every stage
    before this one to the machine seconds its results took when they were made; for a stage with `reads_timings`, else
    empty. `run`: what the run is; for a stage with `reads_run`, else None. `in_hand`: for who reads images that nobody
    has read before.
    """

    seed: int
    workdir: Path
    out: Path
    progress: Callable[[int, int, str], None]
    should_stop: Callable[[], bool]
    key: str = ""
    data_root: Path = Path()
    identity: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)
    run: RunFacts | None = None
    team: Team = ALONE
    in_hand: InHand = field(default_factory=InHand)

    @property
    def rank(self) -> int:
        """Which of the team's processes this is."""
        return self.team.rank

    @property
    def world(self) -> int:
        """How many processes the team has."""
        return self.team.world

    @property
    def scratch(self) -> Path:
        """A folder in `workdir` for what is large and quickly made anew: it stays on this machine."""
        folder = self.workdir / SCRATCH
        folder.mkdir(exist_ok=True)
        return folder


class Stopped(Exception):
    """A job saw `should_stop()`, saved its state and ended; the next run goes on from there."""
