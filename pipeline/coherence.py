"""Stages that could run one after the other but make no sense together: told before any work."""

from collections.abc import Collection, Sequence

from pydantic import JsonValue

from pipeline.calibration_rules import LABELLING, calibration_problems
from pipeline.data.errors import BadInput, show
from pipeline.data.records import WeakKind
from pipeline.engine.plan import PlannedStage
from pipeline.stages.calibrate import CalibrateConfig
from pipeline.stages.finetune_teacher import FinetuneTeacherConfig
from pipeline.stages.gate import GateConfig
from pipeline.stages.propose import Propose, ProposeConfig
from pipeline.stages.pseudo_label import PseudoLabel, PseudoLabelConfig
from teachers.catalog import ENTRIES, ModelSpec, finds, knows, wants_proposals
from teachers.grounding_names import normalise

# A stage and those that use what it makes, which the planner cannot know: they also run without it. After the last of
# them it works for nobody.
USERS = {
    "finetune_teacher": ("pseudo_label", "calibrate"),
    "gate": ("pseudo_label", "calibrate"),
    "propose": ("pseudo_label",),
    "pseudo_label": ("filter", "export", "evaluate"),
    "calibrate": ("filter",),
    "filter": ("export",),
    "train_student": ("evaluate",),
    "evaluate": ("report",),
    "cost": ("report",),
}
ONCE = (Propose.name, PseudoLabel.name)  # a second one replaces what the first one found, or labels it again
PLACELESS = (WeakKind.NONE, WeakKind.CLASS)
NAMED = 3  # of several names in a message


def incoherences(
    weak: JsonValue,
    stages: Sequence[PlannedStage],
    sound: Sequence[PlannedStage],
    lent: Collection[str] = (),
    *,
    sought: Sequence[str] = (),
) -> list[str]:
    """A line for each stage that cannot do what its settings say, beside these other stages and `--weak`.

    `sound` are those of the stages whose settings are valid; of the others the names count. `lent` are the artifacts
    that are there before the first stage, `sought` the names of the classes to be found in weak images.
    """
    return [
        *_placeless(weak, stages, sound),
        *_beyond(weak, sound, sought),
        *_nothing_to_learn(weak, sound),
        *_in_vain(stages),
        *_repeated(stages),
        *_deaf(sound),
        *_at_odds(sound),
        *_unjudged(sound),
        *_of_whole_classes(weak, sound),
        *_unprompted(sound),
        *_unread(sound),
        *calibration_problems(weak, stages, sound, lent),
    ]


def _placeless(weak: JsonValue, stages: Sequence[PlannedStage], sound: Sequence[PlannedStage]) -> list[str]:
    """Labels without a place prompt nothing: a proposer must have found boxes first, or the teacher finds them."""
    names = [planned.stage.name for planned in stages]
    if weak not in PLACELESS or PseudoLabel.name not in names:
        return []
    if any(isinstance(p.config, PseudoLabelConfig) and finds(p.config.model) for p in sound):
        return []
    if Propose.name in names[: names.index(PseudoLabel.name)]:
        return []
    return [
        f"weak: {weak} labels have no place: expected a stage `propose` before `pseudo_label`, found none"
    ]


def _beyond(weak: JsonValue, sound: Sequence[PlannedStage], sought: Sequence[str]) -> list[str]:
    """Proposers that know some names alone, where they should find others."""
    problems: list[str] = []
    for planned in sound:
        config = planned.config
        if not isinstance(config, ProposeConfig) or (known := knows(config.model)) is None:
            continue
        if lost := [name for name in sought if not _is_among(name, known.names)]:
            more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
            problems.append(
                f"{planned.label}.model: with weak: {weak}, {', '.join(map(show, lost[:NAMED]))}{more} should be found "
                f"by {config.model.name!r}, but {known.told} only; use grounding_dino, or label points or boxes"
            )
    return problems


def _is_among(name: str, known: Collection[str]) -> bool:
    try:
        return normalise(name) in known
    except BadInput:
        return False


def _nothing_to_learn(weak: JsonValue, sound: Sequence[PlannedStage]) -> list[str]:
    """A second round of tuning on weak images, where none of their labels has a place."""
    if weak not in PLACELESS:
        return []
    return [
        f"models.{config.model.name}.self_training: expected weak: {WeakKind.POINT} or {WeakKind.BOX}, found {weak}: "
        "there is no localised weak label to learn from"
        for config in (planned.config for planned in sound)
        if isinstance(config, FinetuneTeacherConfig)
        and config.model.settings.get("self_training")
        and not ENTRIES[config.model.use].whole_classes
    ]


def _in_vain(stages: Sequence[PlannedStage]) -> list[str]:
    """Stages behind the last one that could use what they make."""
    names = [planned.stage.name for planned in stages]
    last = {name: index for index, name in enumerate(names)}
    return [
        f"{stages[index].label}: expected before `{user}`, which works with what it makes; found after it"
        for index, name in enumerate(names)
        for user in USERS.get(name, ())
        if last.get(user, index) < index
    ]


def _repeated(stages: Sequence[PlannedStage]) -> list[str]:
    names = [planned.stage.name for planned in stages]
    return [
        f"{name}: expected once, found {names.count(name)} times" for name in ONCE if names.count(name) > 1
    ]


def _deaf(stages: Sequence[PlannedStage]) -> list[str]:
    """Thresholds of `pseudo_label` below that of the `propose` before it, which therefore do nothing."""
    problems: list[str] = []
    floor = 0.0
    for planned in stages:
        config = planned.config
        if isinstance(config, ProposeConfig):
            floor = config.score
        elif isinstance(config, PseudoLabelConfig):
            for key, own in (("score", config.score), ("tau", config.tau)):
                limit = config.model.settings.get(key) if own is None else own
                if isinstance(limit, float) and limit < floor:
                    problems.append(
                        f"{planned.label}.{key}: {limit:g} has no effect below propose.score {floor:g}; lower that too"
                    )
    return problems


def _at_odds(stages: Sequence[PlannedStage]) -> list[str]:
    """Teachers that cannot be tuned, and stages behind the tuning that name another teacher than the tuned one."""
    problems: list[str] = []
    tuned: ModelSpec | None = None
    for planned in stages:
        where, config = f"{planned.label}.model", planned.config
        if isinstance(config, FinetuneTeacherConfig | GateConfig) and not ENTRIES[config.model.use].tunable:
            known = ", ".join(name for name, entry in ENTRIES.items() if entry.tunable)
            problems.append(f"{where}: `{config.model.use}` cannot be tuned; expected one of {known}")
        elif isinstance(config, GateConfig) and not ENTRIES[config.model.use].gated:
            known = ", ".join(name for name, entry in ENTRIES.items() if entry.gated)
            problems.append(
                f"{where}: `{config.model.use}` has nothing to choose from; expected one of {known}"
            )
        if isinstance(config, FinetuneTeacherConfig):
            tuned = config.model
        elif (
            isinstance(config, GateConfig | PseudoLabelConfig | CalibrateConfig)
            and tuned is not None
            and config.model != tuned
        ):
            problems.append(f"{where}: expected {tuned.name!r}, the tuned one, found {config.model.name!r}")
    return problems


def _unjudged(sound: Sequence[PlannedStage]) -> list[str]:
    """Stages that try a teacher on what it has not learned from, where it may have learned from everything."""
    return [
        f"models.{config.model.name}.cross_fit: expected true, found false: where masks are too few to reserve some, "
        f"`{planned.label}` has nothing to try the teacher on"
        for planned, config in ((planned, planned.config) for planned in sound)
        if isinstance(config, GateConfig | CalibrateConfig)
        and config.model.settings.get("cross_fit") is False
    ]


def _of_whole_classes(weak: JsonValue, sound: Sequence[PlannedStage]) -> list[str]:
    """Teachers that label whole classes, where labels are of objects."""
    problems: list[str] = []
    for planned in sound:
        config = planned.config
        if not isinstance(config, PseudoLabelConfig | CalibrateConfig):
            continue
        use = config.model.use
        if not ENTRIES[use].whole_classes:
            continue
        if isinstance(config, CalibrateConfig):
            problems.append(
                f"{planned.label}.model: expected a teacher of objects, `{use}` labels whole classes"
            )
        elif weak not in PLACELESS:
            problems.append(
                f"weak: expected {' or '.join(PLACELESS)}, as `{use}` labels whole classes and reads no more than "
                f"tags; found {weak}"
            )
    return problems


def _unprompted(sound: Sequence[PlannedStage]) -> list[str]:
    """Tunings that want a proposer's boxes and have none or others, or that have them for nothing."""
    problems: list[str] = []
    propose = next((p.config.model for p in sound if isinstance(p.config, ProposeConfig)), None)
    for planned in sound:
        config = planned.config
        if not isinstance(config, FinetuneTeacherConfig):
            continue
        where, own = f"{planned.label}.proposer", config.proposer
        if not wants_proposals(config.model):
            if own is not None:
                problems.append(
                    f"{where}: {config.model.name!r} is tuned without boxes of others; expected none"
                )
        elif own is None:
            problems.append(f"{where}: expected a proposer, or a stage `propose`, found neither")
        elif propose is not None and propose != own:
            problems.append(f"{where}: expected {propose.name!r}, as in propose, found {own.name!r}")
    return problems


def _unread(sound: Sequence[PlannedStage]) -> list[str]:
    """Numbers of `pseudo_label` that its model does not have."""
    return [
        f"{planned.label}.{key}: `{config.model.use}` has no such setting"
        for planned, config in ((planned, planned.config) for planned in sound)
        if isinstance(config, PseudoLabelConfig)
        for key in LABELLING
        if getattr(config, key) is not None and key not in ENTRIES[config.model.use].Settings.model_fields
    ]
