"""The `models:` of a config: each checked against its catalog entry, its settings filled in with defaults."""

from collections.abc import Mapping
from typing import get_args

from pydantic import BaseModel, JsonValue, ValidationError

from pipeline.data.errors import BadInput
from pipeline.problems import did_you_mean, explain
from students import catalog as students
from teachers import catalog as teachers
from teachers.catalog import ModelSpec

STUDENT = "student"
KINDS = {
    "propose": "proposer",
    "train_student": STUDENT,
}  # of a stage's model; every other stage takes a teacher
PROPOSER = "proposer"  # the field of a stage that takes one besides its model


def model_fields(config: type[BaseModel]) -> list[str]:
    """The names of a stage config's fields that hold a model."""
    return [
        name
        for name, info in config.model_fields.items()
        if info.annotation is ModelSpec or ModelSpec in get_args(info.annotation)
    ]


class Models:
    """The named models of a run; `problems` tells what is wrong with them."""

    def __init__(self, raw: Mapping[str, JsonValue] | None) -> None:
        """`raw` None: nobody knows which models there are."""
        self.problems: list[str] = []
        self._names = None if raw is None else list(raw)
        self._specs: dict[str, ModelSpec] = {}
        self._kinds: dict[str, str] = {}
        self._weights: dict[str, Mapping[str, str]] = {}
        for name, entry in (raw or {}).items():
            if isinstance(entry, dict):
                self._add(name, dict(entry))
            else:
                self.problems.append(f"models.{name}: expected a mapping with `use`, found {entry!r}")

    def knows(self, name: str) -> bool:
        """Whether there is such a model, with valid settings."""
        return name in self._specs

    def proposes(self, name: JsonValue) -> bool:
        """Whether there is such a model, with valid settings, and it is a proposer."""
        return isinstance(name, str) and self.knows(name) and self._kinds[name] == PROPOSER

    def wants_proposals(self, name: JsonValue) -> bool:
        """Whether there is such a model, with valid settings, and it is tuned with the boxes of a proposer."""
        return isinstance(name, str) and self.knows(name) and teachers.wants_proposals(self._specs[name])

    def spec(self, name: str, stage: str, field: str, where: str) -> ModelSpec:
        """A model as a field of a stage's config takes it; with a problem noted, a stand-in if there is none."""
        if self._names is not None and name not in self._names:
            hint = did_you_mean(name, self._names) if self._names else "nothing stands under `models`"
            self.problems.append(f"{where}: unknown model {name!r}, {hint}")
        wanted = PROPOSER if field == PROPOSER else KINDS.get(stage, "teacher")
        if self._kinds.get(name, wanted) != wanted:
            self.problems.append(f"{where}: expected a {wanted}, found {name!r}, a {self._kinds[name]}")
        return self._specs.get(name, ModelSpec(name=name, use=""))

    def weights(self, name: str) -> Mapping[str, str]:
        """Digests of the weights a model starts from, by role; read once, as a file may have gigabytes."""
        if name not in self._specs:
            return {}
        if name not in self._weights:
            try:
                self._weights[name] = self._identity(self._specs[name])
            except BadInput as error:
                self.problems += [f"models.{name}.{line}" for line in str(error).splitlines()]
                self._weights[name] = {}
        return self._weights[name]

    def not_in_key(self, name: str) -> frozenset[str]:
        """The paths within a stage config's model that no key holds: its name, and the settings that say so."""
        spec = self._specs.get(name)
        settings: frozenset[str] = frozenset()
        if spec is not None:
            settings = getattr(_settings(spec.use), "not_in_key", settings)
        return frozenset({"name", *(f"settings.{key}" for key in settings)})

    def _identity(self, spec: ModelSpec) -> Mapping[str, str]:
        return teachers.identity(spec) if spec.use in teachers.ENTRIES else students.identity(spec)

    def resolved(self) -> dict[str, JsonValue]:
        """All models with all their settings, as they stand in a config file."""
        return {name: {"use": spec.use, **spec.settings} for name, spec in self._specs.items()}

    def _add(self, name: str, entry: dict[str, JsonValue]) -> None:
        where = f"models.{name}"
        use = entry.pop("use", None)
        known = [*teachers.ENTRIES, *students.ENTRIES]
        if not isinstance(use, str) or use not in known:
            what = "is missing" if use is None else f"unknown catalog entry {use!r}"
            self.problems.append(f"{where}.use: {what}, {did_you_mean(str(use), known)}")
            return
        settings = _settings(use)
        self._kinds[name] = teachers.ENTRIES[use].kind if use in teachers.ENTRIES else STUDENT
        try:
            full = settings.model_validate(entry).model_dump(mode="json")
        except ValidationError as error:
            self.problems += explain(error, settings, where)
            return
        self._specs[name] = ModelSpec(name=name, use=use, settings=full)


def _settings(use: str) -> type[BaseModel]:
    """The settings class of a catalog entry, teacher, proposer or student."""
    return teachers.ENTRIES[use].Settings if use in teachers.ENTRIES else students.ENTRIES[use].Settings
