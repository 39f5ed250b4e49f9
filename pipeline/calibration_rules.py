"""What `calibrate`, `gate` and the limits that rest on a quality need of the other stages: told before any work."""

from collections.abc import Collection, Iterator, Sequence
from typing import TypeVar

from pydantic import JsonValue

from pipeline.data.errors import BadInput
from pipeline.data.records import WeakKind
from pipeline.data.weak import parse_masks
from pipeline.engine.plan import PlannedStage
from pipeline.engine.stage import StageConfig
from pipeline.stages.calibrate import Calibrate, CalibrateConfig
from pipeline.stages.filter import FilterConfig
from pipeline.stages.gate import GateConfig
from pipeline.stages.ingest import IngestConfig
from pipeline.stages.models import with_settings
from pipeline.stages.propose import Propose, ProposeConfig
from pipeline.stages.pseudo_label import PseudoLabelConfig
from pipeline.stages.sources import CocoData

Config = TypeVar("Config", bound=StageConfig)
LABELLING = ("alpha", "beta", "tau", "score", "nms")  # what pseudo_label may set besides the model


def calibration_problems(
    weak: JsonValue,
    stages: Sequence[PlannedStage],
    sound: Sequence[PlannedStage],
    lent: Collection[str],
) -> list[str]:
    """A line for each thing that leaves a quality unknown, or the promise of a precision without ground.

    As in `coherence`, `sound` are the stages whose settings are valid, `lent` the artifacts that are there before.
    """
    is_lent = Calibrate.produces in lent
    found = [] if is_lent else [*_uncalibrated(stages, sound), *_unmasked(sound)]
    return [*found, *_unpromised(weak, sound), *_semantic(sound), *_apart(stages, sound)]


def _of(stages: Sequence[PlannedStage], config: type[Config]) -> Iterator[tuple[PlannedStage, Config]]:
    for planned in stages:
        if isinstance(planned.config, config):
            yield planned, planned.config


def _limits(config: FilterConfig) -> list[str]:
    limits = (("min_quality", config.min_quality), ("precision", config.precision))
    return [key for key, limit in limits if limit is not None]


def _uncalibrated(stages: Sequence[PlannedStage], sound: Sequence[PlannedStage]) -> list[str]:
    """Limits of `filter` on a quality that nothing before it calibrates."""
    labels, names = [planned.label for planned in stages], [planned.stage.name for planned in stages]
    return [
        f"{planned.label}.{key}: expected a stage `calibrate` before it, found none"
        for planned, config in _of(sound, FilterConfig)
        for key in _limits(config)
        if Calibrate.name not in names[: labels.index(planned.label)]
    ]


def _unmasked(sound: Sequence[PlannedStage]) -> list[str]:
    """Limits on a quality where there is no human mask to learn it from."""
    ingest = next((config for _, config in _of(sound, IngestConfig)), None)
    if ingest is None or not (ingest.shots == 0 or _share(ingest.masks) == 0):
        return []
    return [
        f"{planned.label}.{key}: expected human masks to calibrate on, found none: masks are 0"
        for planned, config in _of(sound, FilterConfig)
        for key in _limits(config)
    ]


def _share(masks: str | None) -> float | None:
    try:
        return None if masks is None else parse_masks(masks)
    except BadInput:
        return None  # `all`, or wrong, which is told in its own place


def _unpromised(weak: JsonValue, sound: Sequence[PlannedStage]) -> list[str]:
    """Images without any object are never human-masked, so masks on them, which are all wrong, were not calibrated."""
    if weak != WeakKind.NONE:
        return []
    return [
        f"{planned.label}.precision: cannot be promised with weak: none, where images without an object get masks too; "
        "min_quality can be used"
        for planned, config in _of(sound, FilterConfig)
        if config.precision is not None
    ]


def _semantic(sound: Sequence[PlannedStage]) -> list[str]:
    data = next((config.data for _, config in _of(sound, IngestConfig)), None)
    if not isinstance(data, CocoData) or data.masks != "semantic":
        return []
    return [
        f"{planned.label}: expected masks of instances, found data.masks: semantic"
        for planned, _ in _of(sound, CalibrateConfig)
    ]


def _apart(stages: Sequence[PlannedStage], sound: Sequence[PlannedStage]) -> list[str]:
    """Where `calibrate` or `gate` would not label as the stages do whose masks they judge."""
    problems: list[str] = []
    propose = next((config for _, config in _of(sound, ProposeConfig)), None)
    told = propose is not None or all(planned.stage.name != Propose.name for planned in stages)
    label = next((config for _, config in _of(sound, PseudoLabelConfig)), None)
    for planned in sound:
        config = planned.config
        if isinstance(config, GateConfig | CalibrateConfig):
            problems += [] if label is None else _other_teacher(config, label, planned.label)
            problems += _other_proposer(config, propose, planned.label) if told else []
    return problems


def _other_proposer(
    config: CalibrateConfig | GateConfig, propose: ProposeConfig | None, where: str
) -> list[str]:
    wanted, own = None if propose is None else propose.model, config.proposer
    if wanted != own:
        names = [repr(spec.name) if spec else "none" for spec in (wanted, own)]
        return [f"{where}.proposer: expected {names[0]}, as in propose, found {names[1]}"]
    if propose is None:
        given = config.score != type(config).model_fields["score"].default
        return [f"{where}.score: is of proposals, found no proposer"] if given else []
    if config.score == propose.score:
        return []
    return [f"{where}.score: expected {propose.score:g}, as in propose, found {config.score:g}"]


def _other_teacher(config: CalibrateConfig | GateConfig, label: PseudoLabelConfig, where: str) -> list[str]:
    if config.model.name != label.model.name:
        if isinstance(config, GateConfig):
            return []  # one of them is not the tuned one, which is told
        return [
            f"{where}.model: expected {label.model.name!r}, as in pseudo_label, found {config.model.name!r}"
        ]
    own = with_settings(label.model, **{key: getattr(label, key) for key in LABELLING}).settings
    return [
        f"{where}.model: pseudo_label sets {key} to {own[key]} for itself, the model has "
        f"{label.model.settings.get(key)}; set it in models.{label.model.name}"
        for key in LABELLING
        if own.get(key) != label.model.settings.get(key)
    ]
