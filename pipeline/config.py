"""stages.yaml: checked as a whole before any work, resolved to the last default, turned into a plan.

Every problem is found and told at once: its path, what was found, what is allowed.
"""

import ctypes
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from pipeline.data.errors import BadInput
from pipeline.data.records import WeakKind
from pipeline.engine.faults import BadPlan
from pipeline.engine.plan import PlannedStage, RunPlan
from pipeline.inputs import look_at
from pipeline.models import Models, model_fields
from pipeline.overrides import apply_overrides, read_config
from pipeline.problems import explain
from pipeline.stage_list import StageList
from pipeline.stages.ingest import IngestConfig
from pipeline.stages.sources import ToyworldData, images_root

SHARED = ("data", "weak", "masks", "shots", "seed", "verify")  # keys of the file that are ingest's settings
MAX_THREADS = 1024
SAFE_NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]*"
DEVICE = r"auto|cpu|cuda(:\d+)?"


def _matches(pattern: str, words: str) -> Callable[[str], str]:
    """A check of a text, which says what is expected in `words`."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(f"expected {words}")
        return text

    return check


class RunFile(BaseModel):
    """The keys of stages.yaml. `models` and `stages` are checked one by one, and SHARED as the settings of ingest."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, AfterValidator(_matches(SAFE_NAME, "letters, digits and . _ + -, no sign first"))]
    seed: JsonValue = 0
    data: JsonValue
    weak: JsonValue = WeakKind.POINT.value
    masks: JsonValue = None
    shots: JsonValue = None
    verify: JsonValue = "bytes"
    models: dict[str, JsonValue] = Field(default_factory=dict)
    stages: list[JsonValue] = Field(min_length=1)
    device: Annotated[str, AfterValidator(_matches(DEVICE, "auto, cpu, cuda or cuda:N"))] = "auto"
    torch_threads: int = Field(2, ge=1, le=MAX_THREADS)
    max_bad: float = Field(0.05, ge=0, le=1, allow_inf_nan=False)
    stall_timeout: float = Field(600.0, gt=0, allow_inf_nan=False)
    image_timeout: float = Field(120.0, gt=0, allow_inf_nan=False)


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
    file, wrong = _read(raw, problems)
    ingest, sought = _ingest(file, request.data_root.resolve(), problems)
    models = Models(None if "models" in wrong else file.models)
    stages = StageList(file.stages, models, ingest)
    problems += [*stages.problems, *models.problems]
    if "stages" not in wrong:
        problems += stages.order_problems(file.weak, lent, sought)
    if problems or ingest is None:
        raise BadPlan(tuple(problems))
    plan = _plan(file, models, stages.planned(), request)
    return replace(plan, lent=lent, resolved=plan.resolved | _named(lent)) if lent else plan


def _read(raw: dict[str, JsonValue], problems: list[str]) -> tuple[RunFile, set[str]]:
    """The file's keys, and which are wrong: noted and left out, so that the others are looked at all the same."""
    try:
        return RunFile.model_validate(raw), set()
    except ValidationError as error:
        problems += explain(error, RunFile, "")
        wrong = {str(item["loc"][0]) for item in error.errors()}
    right = {key: value for key, value in raw.items() if key in RunFile.model_fields and key not in wrong}
    return RunFile.model_construct(set(right), **{"stages": [], **right}), wrong


def _ingest(file: RunFile, root: Path, problems: list[str]) -> tuple[IngestConfig | None, tuple[str, ...]]:
    """The settings of ingest and the names of the classes to be found in its images.

    What is wrong with the settings, or with the files that they name, is noted.
    """
    given = (
        "data" in file.model_fields_set
    )  # that it lacks was told; the other keys are looked at all the same
    shared = {key: getattr(file, key) for key in SHARED if key != "data"}
    try:
        ingest = IngestConfig.model_validate(
            shared | {"data": file.data if given else {"source": "toyworld"}}
        )
    except ValidationError as error:
        problems += explain(error, IngestConfig, "")
        return None, ()
    inputs = look_at(ingest, root)
    problems += inputs.problems
    return (ingest, inputs.sought) if given else (None, ())


def _named(lent: Mapping[str, Path]) -> dict[str, JsonValue]:
    return {"lent": {name: str(folder) for name, folder in lent.items()}}


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


def _plan(file: RunFile, models: Models, stages: list[PlannedStage], request: Request) -> RunPlan:
    ingest = stages[0].config
    assert isinstance(ingest, IngestConfig)
    device = resolve_device(file.device)
    root = request.data_root.resolve()
    resolved: dict[str, JsonValue] = {
        **file.model_dump(mode="json", exclude={"models", "stages", *SHARED}),
        **ingest.model_dump(mode="json", include=set(SHARED), exclude_none=True),
        "data": ingest.data.model_dump(mode="json", by_alias=True),
        "device": device,
        "models": models.resolved(),
        "stages": [{planned.stage.name: _settings(planned)} for planned in stages[1:]],
    }
    return RunPlan(
        name=file.name,
        seed=ingest.seed,
        device=device,
        torch_threads=file.torch_threads,
        max_bad=file.max_bad,
        stall_timeout=file.stall_timeout,
        image_timeout=file.image_timeout,
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
