"""stages.yaml: checked as a whole before any work, resolved to the last default, turned into a plan.

Every problem is found and told at once: its path, what was found, what is allowed.
"""

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from pipeline.coherence import incoherences
from pipeline.data.errors import BadInput
from pipeline.engine.faults import BadPlan
from pipeline.engine.plan import PlannedStage, RunPlan, label_stages, prove
from pipeline.engine.stage import Resources, Stage, StageConfig
from pipeline.inputs import input_problems
from pipeline.models import Models, model_fields
from pipeline.overrides import apply_overrides, read_config
from pipeline.problems import did_you_mean, explain
from pipeline.stages.ingest import Ingest, IngestConfig
from pipeline.stages.sources import ToyworldData, images_root
from pipeline.stages.table import STAGES

SHARED = ("data", "weak", "masks", "shots", "seed")  # keys of the file that are ingest's settings
SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"


class RunFile(BaseModel):
    """The keys of stages.yaml. `masks` or `shots`, not both; `models` and `stages` are checked one by one."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=SAFE_NAME)
    seed: int = Field(0, ge=0)
    data: dict[str, JsonValue]
    weak: str = "point+class"
    masks: str | None = None
    shots: int | None = None
    models: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    stages: list[dict[str, dict[str, JsonValue] | None]] = Field(min_length=1)
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    torch_threads: int = Field(2, ge=1)
    max_bad: float = Field(0.05, ge=0, le=1)
    stall_timeout: float = Field(600.0, gt=0)


@dataclass(frozen=True)
class Request:
    """What the command line adds to a config file; None leaves the file's value."""

    file: Path
    weak: str | None = None
    masks: str | None = None
    shots: int | None = None
    settings: tuple[str, ...] = ()
    data_root: Path = Path()
    device: str | None = None


def load_plan(request: Request) -> RunPlan:
    """The plan of a run; BadPlan with all problems at once: of the config, and of the files and weights it names."""
    try:
        raw = read_config(request.file)
    except BadInput as error:
        raise BadPlan((str(error),)) from error
    return make_plan(raw, request)


def make_plan(
    raw: dict[str, JsonValue], request: Request, *, lent: Mapping[str, Path] | None = None
) -> RunPlan:
    """As load_plan, from the content of a config file. `lent`: artifacts that are there before the run."""
    lent = lent or {}
    _lay_flags(raw, request)
    problems = apply_overrides(raw, request.settings)
    file = _read(raw, problems)
    models = Models(file.models)
    stages = _stages(file, models, request.data_root.resolve(), problems)
    problems += models.problems
    if not problems:
        problems += [*incoherences(file.weak, stages), *prove(stages, lent)]
    if problems:
        raise BadPlan(tuple(problems))
    plan = _plan(file, models, stages, request)
    return replace(plan, lent=lent, resolved=plan.resolved | _named(lent)) if lent else plan


def _read(raw: dict[str, JsonValue], problems: list[str]) -> RunFile:
    """The file's keys. Wrong ones are noted and left out, so that the others are looked at all the same."""
    try:
        return RunFile.model_validate(raw)
    except ValidationError as error:
        problems += explain(error, RunFile, "")
        wrong = {item["loc"][0] for item in error.errors()}
    if "models" in wrong:
        wrong.add("stages")  # every stage would be told that it names no model
    right = {key: value for key, value in raw.items() if key in RunFile.model_fields and key not in wrong}
    return RunFile.model_construct(set(right), **{"data": {}, "stages": [], **right})


def _named(lent: Mapping[str, Path]) -> dict[str, JsonValue]:
    return {"lent": {name: str(folder) for name, folder in lent.items()}}


class _Found(NamedTuple):
    """A stage whose settings are valid."""

    stage: type[Stage]
    config: StageConfig
    resources: Resources
    weights: Mapping[str, str]
    not_in_key: frozenset[str] = frozenset()


def _lay_flags(raw: dict[str, JsonValue], request: Request) -> None:
    """Lay the named options over the file; `--shots` takes the place of the file's `masks`, and the other way
    round.
    """
    if request.masks is not None:
        raw.pop("shots", None)
    if request.shots is not None:
        raw.pop("masks", None)
    flags: dict[str, JsonValue] = {
        "weak": request.weak,
        "masks": request.masks,
        "shots": request.shots,
        "device": request.device,
    }
    raw.update({key: value for key, value in flags.items() if value is not None})


def _stages(file: RunFile, models: Models, root: Path, problems: list[str]) -> list[PlannedStage]:
    found: list[_Found] = []
    shared = {key: getattr(file, key) for key in SHARED}
    if "data" in file.model_fields_set:
        try:
            ingest = IngestConfig.model_validate(shared)
            found.append(_Found(Ingest, ingest, Resources.model_validate({}), {}))
            problems += input_problems(ingest, root)
        except ValidationError as error:
            problems += explain(error, Ingest.Config, "")
    for number, entry in enumerate(file.stages):
        if len(entry) != 1:
            problems.append(
                f"stages.{number}: expected one stage name with its settings, found {sorted(entry)}"
            )
            continue
        ((name, settings),) = entry.items()
        stage = _stage(name, dict(settings or {}), f"stages.{number}.{name}", models, problems)
        if stage is not None:
            found.append(stage)
    if problems or models.problems:
        return []
    labels = label_stages([(stage.stage, stage.config) for stage in found])
    return [PlannedStage(label, *stage) for label, stage in zip(labels, found, strict=True)]


def _stage(
    name: str, settings: dict[str, JsonValue], where: str, models: Models, problems: list[str]
) -> _Found | None:
    stage = STAGES.get(name)
    if stage is None or stage is Ingest:
        problems.append(
            f"{where}: unknown stage, {did_you_mean(name, [n for n in STAGES if n != Ingest.name])}"
        )
        return None
    try:
        resources = Resources.model_validate(settings.pop("resources", {}))
    except ValidationError as error:
        problems += explain(error, Resources, f"{where}.resources")
        return None
    weights: dict[str, str] = {}
    unkeyed: set[str] = set()
    for field in model_fields(stage.Config):
        if isinstance(name_of := settings.get(field), str):
            settings[field] = models.spec(name_of, stage.name, f"{where}.{field}")
            weights |= {f"{field}.{role}": digest for role, digest in models.weights(name_of).items()}
            unkeyed |= {f"{field}.{path}" for path in models.not_in_key(name_of)}
    try:
        return _Found(stage, stage.Config.model_validate(settings), resources, weights, frozenset(unkeyed))
    except ValidationError as error:
        problems += explain(error, stage.Config, where)
        return None


def _plan(file: RunFile, models: Models, stages: list[PlannedStage], request: Request) -> RunPlan:
    ingest = stages[0].config
    assert isinstance(ingest, IngestConfig)
    device = resolve_device(file.device)
    root = request.data_root.resolve()
    resolved: dict[str, JsonValue] = {
        **file.model_dump(mode="json", exclude={"models", "stages"}, exclude_none=True),
        "data": ingest.data.model_dump(mode="json", by_alias=True),
        "device": device,
        "models": models.resolved(),
        "stages": [{planned.stage.name: _settings(planned)} for planned in stages[1:]],
    }
    return RunPlan(
        name=file.name,
        seed=file.seed,
        device=device,
        torch_threads=file.torch_threads,
        max_bad=file.max_bad,
        stall_timeout=file.stall_timeout,
        stages=tuple(stages),
        data_root=root,
        images=None if isinstance(ingest.data, ToyworldData) else images_root(ingest.data, root),
        resolved=resolved,
    )


def _settings(planned: PlannedStage) -> dict[str, JsonValue]:
    """A stage's settings with all defaults, models by name again, so that the text can be run as it is."""
    settings = planned.config.model_dump(mode="json", by_alias=True)
    for field in model_fields(planned.stage.Config):
        if settings[field] is not None:
            settings[field] = settings[field]["name"]
    return {**settings, "resources": planned.resources.model_dump(mode="json")}


def resolve_device(device: str) -> str:
    """`auto` becomes `cuda` where there is one, else `cpu`; BadPlan for a device that is not there."""
    if device == "cpu" or (device == "auto" and not _has_driver()):
        return "cpu"
    import torch  # seconds; a run on the CPU needs it in its worker only

    available = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if available else "cpu"
    if not available:
        raise BadPlan((f"device: {device} was asked for, but torch sees no GPU here; expected auto or cpu",))
    return device


def _has_driver() -> bool:
    """Whether the GPU driver's library is there, without which torch finds no GPU; unknown outside Linux."""
    if sys.platform != "linux":
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True
