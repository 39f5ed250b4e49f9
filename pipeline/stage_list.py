"""The `stages:` of a config: each checked with its settings, all of them in their order.

A stage with wrong settings stands in its place all the same: what is wrong with the order is told with the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from pydantic import JsonValue, ValidationError

from pipeline.coherence import incoherences
from pipeline.engine.plan import PlannedStage, label_stages, prove
from pipeline.engine.stage import Resources, Stage, StageConfig
from pipeline.models import Models, model_fields
from pipeline.problems import did_you_mean, explain
from pipeline.stages.calibrate import Calibrate
from pipeline.stages.finetune_teacher import FinetuneTeacher
from pipeline.stages.gate import Gate
from pipeline.stages.ingest import Ingest, IngestConfig
from pipeline.stages.propose import Propose, ProposeConfig
from pipeline.stages.table import STAGES
from teachers.catalog import ModelSpec

NO_MORE = Resources.model_validate({})
KNOWN = tuple(name for name in STAGES if name != Ingest.name)
# They label as the run does, or are tuned with what it labels with.
REHEARSING = (Gate.name, Calibrate.name, FinetuneTeacher.name)


@dataclass(frozen=True)
class _Entry:
    """One stage of the list; `sound`: its settings are valid, else they are a stand-in that only says what it makes."""

    stage: type[Stage]
    config: StageConfig
    sound: bool
    resources: Resources = NO_MORE
    weights: Mapping[str, str] = field(default_factory=dict)
    not_in_key: frozenset[str] = frozenset()


class StageList:
    """The stages of a run, ingest first; `problems` tells what is wrong with each of them."""

    def __init__(self, raw: Sequence[JsonValue], models: Models, ingest: IngestConfig | None) -> None:
        """`ingest` None: its settings are not valid, or not known."""
        self.problems: list[str] = []
        self._models = models
        first = _Entry(Ingest, ingest or IngestConfig.model_construct(), ingest is not None)
        whole = _rehearsed(raw, models)
        entries = [self._read(entry, f"stages.{number}") for number, entry in enumerate(whole)]
        # A stage of an unknown name may be whatever the others need, so nothing can be said of their order.
        self._ordered = None not in entries
        self._entries = [first, *(entry for entry in entries if entry is not None)]

    def planned(self) -> list[PlannedStage]:
        """The stages as a plan takes them."""
        labels = label_stages([(entry.stage, entry.config) for entry in self._entries])
        return [
            PlannedStage(label, e.stage, e.config, e.resources, e.weights, e.not_in_key)
            for label, e in zip(labels, self._entries, strict=True)
        ]

    def order_problems(self, weak: JsonValue, lent: Mapping[str, object], sought: Sequence[str]) -> list[str]:
        """Why the stages cannot follow each other, or make no sense together, whatever `weak` is.

        `sought`: names of the classes to be found in weak images.
        """
        if not self._ordered:
            return []
        planned = self.planned()
        sound = [stage for stage, entry in zip(planned, self._entries, strict=True) if entry.sound]
        return [*incoherences(weak, planned, sound, list(lent), sought=sought), *prove(planned, list(lent))]

    def _read(self, entry: JsonValue, where: str) -> _Entry | None:
        if not isinstance(entry, dict) or len(entry) != 1:
            found = sorted(map(str, entry)) if isinstance(entry, dict) else repr(entry)
            self.problems.append(f"{where}: expected one stage name with its settings, found {found}")
            return self._stand_in(STAGES[entry]) if isinstance(entry, str) and entry in KNOWN else None
        ((name, settings),) = entry.items()
        where = f"{where}.{name}"
        if name not in KNOWN:
            self.problems.append(f"{where}: unknown stage, {did_you_mean(str(name), KNOWN)}")
            near = get_close_matches(str(name), KNOWN, n=1)
            return self._stand_in(STAGES[near[0]]) if near else None
        if settings is not None and not isinstance(settings, dict):
            self.problems.append(f"{where}: expected a mapping of settings, found {settings!r}")
            return self._stand_in(STAGES[name])
        return self._stage(STAGES[name], dict(settings or {}), where)

    def _stage(self, stage: type[Stage], settings: dict[str, JsonValue], where: str) -> _Entry:
        before = len(self.problems), len(self._models.problems)
        resources = NO_MORE
        try:
            resources = Resources.model_validate(settings.pop("resources", {}))
        except ValidationError as error:
            self.problems += explain(error, Resources, f"{where}.resources")
        unkeyed: set[str] = set()
        specs: dict[str, ModelSpec] = {}
        for name in model_fields(stage.Config):
            named = settings.get(name)
            if isinstance(named, str):
                specs[name] = self._models.spec(named, stage.name, name, f"{where}.{name}")
                settings[name] = specs[name].model_dump(mode="json")
                unkeyed |= {f"{name}.{path}" for path in self._models.not_in_key(named)}
            elif named is not None:
                self.problems.append(f"{where}.{name}: expected the name of a model, found {named!r}")
                settings[name] = ModelSpec(name="", use="").model_dump(mode="json")
        sound = before == (len(self.problems), len(self._models.problems))
        weights = {
            f"{name}.{role}": digest
            for name, spec in specs.items()
            for role, digest in self._models.weights(spec.name).items()
        }
        try:
            config = stage.Config.model_validate(settings)
        except ValidationError as error:
            self.problems += explain(error, stage.Config, where)
            return self._stand_in(stage, specs)
        sound &= all(self._models.knows(spec.name) for spec in specs.values())
        return _Entry(stage, config, sound, resources, weights, frozenset(unkeyed))

    def _stand_in(self, stage: type[Stage], specs: Mapping[str, ModelSpec] | None = None) -> _Entry:
        """The stage with its defaults, and with the models that it names as far as they are known."""
        named = {name: ModelSpec(name="", use="") for name in model_fields(stage.Config)} | dict(specs or {})
        return _Entry(stage, stage.Config.model_construct(None, **named), sound=False)


def _rehearsed(raw: Sequence[JsonValue], models: Models) -> list[JsonValue]:
    """The list with `propose`'s proposer and score in stages that label as the run does, where they say none."""
    settings = next((own for own in (_settings_in(entry, Propose.name) for entry in raw) if own), {})
    filled = _proposing(settings, models)
    found: list[JsonValue] = []
    for entry in raw:
        name = next((name for name in REHEARSING if _settings_in(entry, name)), None)
        own = {} if name is None else _settings_in(entry, name)
        if name == FinetuneTeacher.name and not models.wants_proposals(own.get("model")):
            name = None
        same = own.get("proposer", settings.get("model")) == settings.get("model")
        found.append({name: {**filled, **own}} if name and same else entry)
    return found


def _proposing(settings: Mapping[str, JsonValue], models: Models) -> dict[str, JsonValue]:
    """What `propose` says of its proposals, in the words of stages that have them too; nothing if it is wrong."""
    name = settings.get("model")
    if not models.proposes(name):
        return {}
    own = {key: value for key, value in settings.items() if key != "resources"}
    try:
        config = ProposeConfig.model_validate({**own, "model": ModelSpec(name=str(name), use="")})
    except ValidationError:
        return {}
    return {"proposer": name, "score": config.score}


def _settings_in(entry: JsonValue, name: str) -> dict[str, JsonValue]:
    """A stage's settings, if the entry is that stage and has any."""
    own = entry.get(name) if isinstance(entry, dict) and len(entry) == 1 else None
    return own if isinstance(own, dict) else {}
