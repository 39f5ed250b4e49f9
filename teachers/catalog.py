"""Every teacher and proposer by name: one explicit table. Imports no torch until a model is loaded.

spec = ModelSpec(name="teacher", use="class_aware_sam", settings={"sam": "tiny"})
teacher = load(spec, ontology=ontology, device="cpu", artifact=folder)
"""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from pipeline.data.errors import BadInput
from pipeline.data.records import Ontology
from teachers import am_sam_entry
from teachers import proposer_entries as proposers
from teachers.am_sam_settings import AM_SAM, AmSamSettings
from teachers.entry import Entry, Kind, Known, Place
from teachers.identity import identity_of
from teachers.protocols import Proposer, Teacher
from teachers.settings import (
    AlignedDetectorSettings,
    ClassAwareSettings,
    FakeSettings,
    GroundingDinoSettings,
    SamSettings,
    TinyGrounderSettings,
)


class ModelSpec(BaseModel):
    """A model of a run: the name the config gives it, the catalog entry it uses, and that entry's settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    use: str
    settings: dict[str, JsonValue] = Field(default_factory=dict)


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


def knows(spec: ModelSpec) -> Known | None:
    """The only names that a proposer can find, None for any, or if its files do not say."""
    try:
        return _entry(spec, "proposer").knows(check(spec))
    except BadInput:
        return None  # told by `identity`


def batch_size(spec: ModelSpec) -> int:
    """How many instances a step of its tuning takes, all processes together; BadInput if it cannot be tuned."""
    settings = check(spec, "teacher")
    if not isinstance(settings, ClassAwareSettings | AmSamSettings):
        raise BadInput(f"models.{spec.name}.use: {spec.use!r} has nothing to tune")
    return settings.batch_size


def finds(spec: ModelSpec) -> bool:
    """Whether a teacher finds its boxes by itself; not if its settings are wrong, which is told elsewhere."""
    try:
        return _entry(spec, "teacher").finds(check(spec))
    except BadInput:
        return False


def wants_proposals(spec: ModelSpec) -> bool:
    """Whether a teacher is tuned with the boxes of a proposer."""
    return spec.use in ENTRIES and ENTRIES[spec.use].whole_classes and not finds(spec)


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

    assert isinstance(settings, SamSettings | AmSamSettings)
    inspect_sam(settings.sam, settings.checkpoint, sha256=settings.sha256)


def _inspect_text(settings: BaseModel) -> None:
    from teachers.text import inspect_text

    assert isinstance(settings, ClassAwareSettings)
    if settings.class_aware:
        inspect_text(settings.text, checkpoint=settings.text_checkpoint, sha256=settings.text_sha256)


def _build_fake_teacher(settings: BaseModel, _: Place) -> Teacher:
    from teachers.fake import FakeTeacher

    assert isinstance(settings, FakeSettings)
    return FakeTeacher(settings)


def _no_weights(_: BaseModel) -> Mapping[str, str]:
    return {}


ENTRIES: dict[str, Entry] = {
    "class_aware_sam": Entry(
        "teacher",
        "SAM with the class-aware branch, tuned on human masks",
        ClassAwareSettings,
        _build_class_aware_sam,
        _sam_identity,
        {"sam": _inspect_sam, "text": _inspect_text},
        tunable=True,
        gated=True,
    ),
    AM_SAM: Entry(
        "teacher",
        "SAM's decoder tuned on 4 to 16 masks: whole classes, prompted by the surest box of each",
        AmSamSettings,
        am_sam_entry.build,
        am_sam_entry.identity,
        {"sam": _inspect_sam, "detector": am_sam_entry.inspect_detector},
        tunable=True,
        whole_classes=True,
        finds=am_sam_entry.finds,
    ),
    "sam": Entry("teacher", "SAM as it is", SamSettings, _build_sam, _sam_identity, {"sam": _inspect_sam}),
    "grounding_dino": Entry(
        "proposer",
        "Grounding DINO: boxes of named classes",
        GroundingDinoSettings,
        proposers.build_grounding_dino,
        proposers.grounding_dino_identity,
        {"grounding_dino": proposers.inspect_grounding_dino},
    ),
    "tiny_grounder": Entry(
        "proposer",
        "the embedded proposer; knows the synthetic world's names only",
        TinyGrounderSettings,
        proposers.build_tiny_grounder,
        proposers.tiny_grounder_identity,
        {"tiny_grounder": proposers.inspect_tiny_grounder, "text": proposers.inspect_tiny_text},
        knows=proposers.known_to_the_tiny_grounder,
    ),
    "aligned_detector": Entry(
        "proposer",
        "the detector of a fitted blo_inst student; knows the classes it was trained on",
        AlignedDetectorSettings,
        proposers.build_aligned_detector,
        proposers.aligned_detector_identity,
        {"aligned_detector": proposers.inspect_aligned_detector},
        knows=proposers.known_to_an_aligned_detector,
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
        proposers.build_fake_proposer,
        _no_weights,
        {},
    ),
}
