"""Every teacher and proposer by name: one explicit table. Imports no torch until a model is loaded.

spec = ModelSpec(name="teacher", use="class_aware_sam", settings={"sam": "tiny"})
teacher = load(spec, ontology=ontology, device="cpu", artifact=folder)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from pipeline.data.errors import BadInput
from pipeline.data.records import Category, Ontology
from teachers.identity import GROUNDING_DINO_FILE, file_sha256, grounder_digests, identity_of, weights_digest
from teachers.protocols import Proposer, Teacher
from teachers.settings import (
    ClassAwareSettings,
    FakeSettings,
    GroundingDinoSettings,
    SamSettings,
    TinyGrounderSettings,
)
from teachers.tiny import listing

Kind = Literal["teacher", "proposer"]


class ModelSpec(BaseModel):
    """A model of a run: the name the config gives it, the catalog entry it uses, and that entry's settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    use: str
    settings: dict[str, JsonValue] = Field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a model is to live: the classes it serves, its device, and the folder it was tuned into, if any."""

    ontology: Ontology
    device: str
    artifact: Path | None = None


@dataclass(frozen=True)
class Entry:
    """One kind of model; `what` says so in a line, `licence` is its code's.

    `identity` tells what the weights that settings name are, by content; `inspect` has, for each part of the model that
    has weights of its own, what raises BadInput unless they fit. `tunable`: whether `finetune_teacher` and `gate` can
    work on it. `finds`: the only names, normalised, that a proposer can find, None for any.
    """

    kind: Kind
    what: str
    Settings: type[BaseModel]
    build: Callable[[BaseModel, Place], Teacher | Proposer]
    identity: Callable[[BaseModel], Mapping[str, str]]
    inspect: Mapping[str, Callable[[BaseModel], None]]
    tunable: bool = False
    finds: frozenset[str] | None = None
    licence: str = "Apache-2.0"


def names(kind: Kind) -> tuple[str, ...]:
    """The entries of a kind."""
    return tuple(name for name, entry in ENTRIES.items() if entry.kind == kind)


def check(spec: ModelSpec, kind: Kind | None = None) -> BaseModel:
    """The entry's settings, validated; BadInput lists every wrong key and, for an unknown entry, the nearest names."""
    entry = _entry(spec, kind)
    try:
        return entry.Settings.model_validate(spec.settings)
    except ValidationError as error:
        where = f"models.{spec.name}"
        found = [f"{'.'.join([where, *map(str, e['loc'])])}: {e['msg']}" for e in error.errors()]
        raise BadInput("; ".join(found)) from error


def load(
    spec: ModelSpec, *, ontology: Ontology, device: str, artifact: Path | None = None
) -> Teacher | Proposer:
    """The model on `device`, tuned if there is an `artifact`; BadInput for an unknown entry, bad settings or files."""
    return _entry(spec, None).build(check(spec), Place(ontology, device, artifact))


def load_teacher(
    spec: ModelSpec, *, ontology: Ontology, device: str, artifact: Path | None = None
) -> Teacher:
    """As `load`; BadInput for an entry that is no teacher."""
    check(spec, "teacher")
    return cast(Teacher, load(spec, ontology=ontology, device=device, artifact=artifact))


def load_proposer(
    spec: ModelSpec, *, ontology: Ontology, device: str, artifact: Path | None = None
) -> Proposer:
    """As `load`; BadInput for an entry that is no proposer."""
    check(spec, "proposer")
    return cast(Proposer, load(spec, ontology=ontology, device=device, artifact=artifact))


def identity(spec: ModelSpec) -> Mapping[str, str]:
    """Digests of the weights a spec stands for, by role: what a key holds in place of the settings' `not_in_key`.

    BadInput, one line a problem, each starting with the key it is about.
    """
    return _entry(spec, None).identity(check(spec))


def batch_size(spec: ModelSpec) -> int:
    """How many instances a step of its tuning takes, all processes together; BadInput if it cannot be tuned."""
    settings = check(spec, "teacher")
    if not isinstance(settings, ClassAwareSettings):
        raise BadInput(f"models.{spec.name}.use: {spec.use!r} has nothing to tune")
    return settings.batch_size


def inspect(spec: ModelSpec, part: str | None = None) -> None:
    """BadInput unless the weights that a spec names, or those of one part, open safely and fit; nothing is computed."""
    parts, settings = _entry(spec, None).inspect, check(spec)
    for name in parts if part is None else (part,):
        parts[name](settings)


def _entry(spec: ModelSpec, kind: Kind | None) -> Entry:
    entry = ENTRIES.get(spec.use)
    if entry is None:
        known = names(kind) if kind else tuple(ENTRIES)
        near = get_close_matches(spec.use, known, n=2) or known
        raise BadInput(f"models.{spec.name}.use: no model {spec.use!r}; nearest: {', '.join(near)}")
    if kind and entry.kind != kind:
        raise BadInput(
            f"models.{spec.name}.use: expected a {kind} ({', '.join(names(kind))}), found {entry.kind} {spec.use!r}"
        )
    return entry


def _build_sam(settings: BaseModel, place: Place) -> Teacher:
    from teachers.sam_models import build_sam

    assert isinstance(settings, SamSettings)
    return build_sam(settings, device=place.device)


def _build_class_aware_sam(settings: BaseModel, place: Place) -> Teacher:
    from teachers.sam_models import build_class_aware_sam

    assert isinstance(settings, ClassAwareSettings)
    return build_class_aware_sam(
        settings, ontology=place.ontology, device=place.device, artifact=place.artifact
    )


def _sam_identity(settings: BaseModel) -> Mapping[str, str]:
    assert isinstance(settings, SamSettings)
    digests = identity_of(settings)
    return {
        name: value
        for name, value in (("sam", digests.sam_sha256), ("text", digests.text_sha256))
        if value is not None
    }


def _inspect_sam(settings: BaseModel) -> None:
    from teachers.sam.load import inspect_sam

    assert isinstance(settings, SamSettings)
    inspect_sam(settings.sam, settings.checkpoint, sha256=settings.sha256)


def _inspect_text(settings: BaseModel) -> None:
    from teachers.text import inspect_text

    assert isinstance(settings, ClassAwareSettings)
    if settings.class_aware:
        inspect_text(settings.text, checkpoint=settings.text_checkpoint, sha256=settings.text_sha256)


def _build_grounding_dino(settings: BaseModel, place: Place) -> Proposer:
    from teachers.grounding import load_grounding_dino

    assert isinstance(settings, GroundingDinoSettings)
    return load_grounding_dino(
        settings.checkpoint, ontology=place.ontology, sha256=settings.sha256, device=place.device
    )


def _grounding_dino_identity(settings: BaseModel) -> Mapping[str, str]:
    assert isinstance(settings, GroundingDinoSettings)
    weights = settings.checkpoint / GROUNDING_DINO_FILE
    found = {"grounding_dino": weights_digest(weights, pickles=(), expected=settings.sha256)}
    texts = (path for path in settings.checkpoint.iterdir() if path.suffix in (".json", ".txt"))
    # Configuration, tokenizer and image processor decide the boxes as much as the weights do.
    return found | {f"grounding_dino/{path.name}": file_sha256(path) for path in sorted(texts)}


def _inspect_grounding_dino(settings: BaseModel) -> None:
    _build_grounding_dino(settings, _SOMEWHERE)


def _build_tiny_grounder(settings: BaseModel, place: Place) -> Proposer:
    from teachers.tiny.proposer import load_tiny_grounder

    assert isinstance(settings, TinyGrounderSettings)
    return load_tiny_grounder(ontology=place.ontology, device=place.device)


def _tiny_grounder_identity(_: BaseModel) -> Mapping[str, str]:
    return grounder_digests()


def _inspect_tiny_grounder(_: BaseModel) -> None:
    from teachers.tiny.grounder import TinyGrounder
    from teachers.tiny.weights import load_weights

    TinyGrounder().load_state_dict(load_weights(listing.GROUNDER))


def _inspect_tiny_text(_: BaseModel) -> None:
    from teachers.text import inspect_text

    inspect_text()


def _build_fake_teacher(settings: BaseModel, _: Place) -> Teacher:
    from teachers.fake import FakeTeacher

    assert isinstance(settings, FakeSettings)
    return FakeTeacher(settings)


def _build_fake_proposer(settings: BaseModel, _: Place) -> Proposer:
    from teachers.fake import FakeProposer

    assert isinstance(settings, FakeSettings)
    return FakeProposer(settings)


def _no_weights(_: BaseModel) -> Mapping[str, str]:
    return {}


_SOMEWHERE = Place(Ontology((Category(1, "thing"),)), "cpu")  # to see whether a proposer can be built at all

ENTRIES: dict[str, Entry] = {
    "class_aware_sam": Entry(
        "teacher",
        "SAM with the class-aware branch, tuned on human masks",
        ClassAwareSettings,
        _build_class_aware_sam,
        _sam_identity,
        {"sam": _inspect_sam, "text": _inspect_text},
        tunable=True,
    ),
    "sam": Entry("teacher", "SAM as it is", SamSettings, _build_sam, _sam_identity, {"sam": _inspect_sam}),
    "grounding_dino": Entry(
        "proposer",
        "Grounding DINO: boxes of named classes",
        GroundingDinoSettings,
        _build_grounding_dino,
        _grounding_dino_identity,
        {"grounding_dino": _inspect_grounding_dino},
    ),
    "tiny_grounder": Entry(
        "proposer",
        "the embedded proposer; knows the synthetic world's names only",
        TinyGrounderSettings,
        _build_tiny_grounder,
        _tiny_grounder_identity,
        {"tiny_grounder": _inspect_tiny_grounder, "text": _inspect_tiny_text},
        finds=listing.GROUNDED,
    ),
    "fake_teacher": Entry(
        "teacher",
        "no model: masks that follow from the pixels, for trying out a cluster",
        FakeSettings,
        _build_fake_teacher,
        _no_weights,
        {},
    ),
    "fake_proposer": Entry(
        "proposer",
        "no model: boxes that follow from the pixels, for trying out a cluster",
        FakeSettings,
        _build_fake_proposer,
        _no_weights,
        {},
    ),
}
