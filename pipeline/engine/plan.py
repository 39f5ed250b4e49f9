"""A run before any work: its stages in order, and the proof that each finds what it needs."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from pydantic import JsonValue

from pipeline.data.paths import Place
from pipeline.data.records import Record
from pipeline.engine.stage import JobStage, MapStage, Resources, Stage, StageConfig

TRUTH = "truth"
READS_TRUTH = "evaluate"
DATASET = "dataset"
LATER_FIELDS = frozenset({"proposals"})  # empty after ingest, until a stage adds them


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a run; `label` is its name, with what it produces where a name comes more than once.

    `weights`: digests of the model weights that its config names, by role; they enter its keys. `not_in_key`: dotted
    paths in its config that do not: what those digests stand for, and what changes no result.
    """

    label: str
    stage: type[Stage]
    config: StageConfig
    resources: Resources
    weights: Mapping[str, str] = field(default_factory=dict)
    not_in_key: frozenset[str] = frozenset()

    @property
    def world(self) -> int:
        """How many processes do it together, on a cluster; the workers of a map stage know nothing of each other."""
        return self.resources.workers[1] if issubclass(self.stage, JobStage) else 1

    def build(self) -> Stage:
        """The stage; light, as nothing is read before `setup` or `run`."""
        return self.stage(self.config)


@dataclass(frozen=True)
class RunPlan:
    """All that a run is. `images`: root of the records' uris; None: `images` in the dataset artifact.

    `resolved` is the config with every default filled in: two runs with equal ones do the same. `lent`: artifacts that
    are there before the first stage (a teacher tuned elsewhere), name -> folder.
    """

    name: str
    seed: int
    device: str
    torch_threads: int
    max_bad: float
    stall_timeout: float
    image_timeout: float
    stages: tuple[PlannedStage, ...]
    data_root: Path
    images: Place | None
    resolved: dict[str, JsonValue]
    lent: Mapping[str, Path] = field(default_factory=dict)

    @property
    def device_type(self) -> str:
        return self.device.split(":")[0]


def label_stages(stages: Sequence[tuple[type[Stage], StageConfig]]) -> list[str]:
    """A label for each stage, unique within the run."""
    names = [stage.name for stage, _ in stages]
    labels: list[str] = []
    for number, (stage, config) in enumerate(stages):
        label = stage.name
        if names.count(label) > 1:
            built = stage(config)
            made = built.produces.rsplit(".", 1)[-1] if isinstance(built, JobStage) else ""
            label = f"{label}:{made or names[:number].count(label) + 1}"
        while label in labels:
            label += "+"
        labels.append(label)
    return labels


def made_by(stage: Stage) -> tuple[str, ...]:
    """Names of the artifacts a stage leaves."""
    return (stage.parts or (stage.produces,)) if isinstance(stage, JobStage) else ()


def matching(pattern: str, names: Sequence[str]) -> list[str]:
    """The names a `uses` entry stands for: itself, or with `.*` all that start so."""
    if pattern.endswith(".*"):
        return [name for name in names if name.startswith(pattern[:-1])]
    return [name for name in names if name == pattern]


def prove(stages: Sequence[PlannedStage], lent: Collection[str] = ()) -> list[str]:
    """Every reason why these stages cannot run in this order; empty if they can. `lent`: artifacts there before."""
    problems: list[str] = []
    made: list[str] = list(lent)
    known = {known.name for known in fields(Record)} - LATER_FIELDS
    for planned in stages:
        stage = planned.build()
        where = planned.label
        problems += [f"{where}: {problem}" for problem in _artifact_problems(stage, made)]
        if isinstance(stage, MapStage):
            missing = sorted(stage.needs - known)
            problems += [f"{where}: needs `{name}`, which no earlier stage adds" for name in missing]
            known |= stage.adds
        elif isinstance(stage, JobStage) and (reason := stage.unshareable(planned.world)):
            problems.append(f"{where}: {reason}")
        made += made_by(stage)
    if not stages or DATASET not in made_by(stages[0].build()):
        problems.append(f"stages: the first one must make `{DATASET}`")
    return problems


def _artifact_problems(stage: Stage, made: Sequence[str]) -> Iterator[str]:
    for pattern in stage.uses:
        if not matching(pattern, made):
            yield f"uses `{pattern}`, which no earlier stage makes; made so far: {', '.join(made) or 'nothing'}"
    for pattern in (*stage.uses, *stage.may_use):
        if TRUTH in matching(pattern, (*made, TRUTH)) and stage.name != READS_TRUTH:
            yield f"asks for `{TRUTH}`, which only `{READS_TRUTH}` may read"
    for name in made_by(stage):
        if name in made:
            yield f"makes `{name}`, which an earlier stage makes already"
