"""Every student by name: one explicit table. Imports no torch until a student is built or opened.

spec = ModelSpec(name="student", use="mask2former", settings={"variant": "tiny"})
student = load(spec, ontology=ontology, device="cpu")
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ValidationError

from pipeline.data.errors import BadInput
from pipeline.data.records import Ontology
from students.blo_settings import BLO_INST, BloInstSettings
from students.card import CARD, read_card
from students.protocols import Student
from students.settings import MASK2FORMER, Mask2FormerSettings
from teachers import detectors
from teachers.catalog import ModelSpec
from teachers.identity import embedded_digest, file_sha256, sam_digest
from teachers.tiny.listing import STUDENT


@dataclass(frozen=True)
class Entry:
    """One kind of student: `build` a new one for the classes and device, `open` the fitted one in a folder.

    `what` says it in a line, `licence` is its code's. `batch_size`: how many images a step of its training takes.
    `identity` tells what the first weights that settings name are, by content; `inspect` has, for each part that has
    weights of its own, what raises BadInput unless they fit.
    """

    what: str
    Settings: type[BaseModel]
    batch_size: Callable[[BaseModel], int]
    build: Callable[[BaseModel, Ontology, str], Student]
    open: Callable[[Path, str], Student]
    identity: Callable[[BaseModel], Mapping[str, str]]
    inspect: Mapping[str, Callable[[BaseModel], None]]
    licence: str = "Apache-2.0"


def names() -> tuple[str, ...]:
    """The catalog's names in its order."""
    return tuple(ENTRIES)


def check(spec: ModelSpec) -> BaseModel:
    """The entry's settings, validated; BadInput lists every wrong key and, for an unknown entry, the nearest names."""
    try:
        return _entry(spec.use, where=f"models.{spec.name}.use").Settings.model_validate(spec.settings)
    except ValidationError as error:
        where = f"models.{spec.name}"
        told = [e for e in error.errors() if e["type"] != "default_factory_not_called"]
        found = [f"{'.'.join([where, *map(str, e['loc'])])}: {e['msg']}" for e in told]
        raise BadInput("; ".join(found)) from error


def load(spec: ModelSpec, *, ontology: Ontology, device: str, artifact: Path | None = None) -> Student:
    """The student `spec` describes: a new one to fit, or the fitted one in `artifact`.

    BadInput for an unknown name, bad settings, or an artifact of another kind of student or of other classes.
    """
    settings, entry = check(spec), ENTRIES[spec.use]
    if artifact is None:
        return entry.build(settings, ontology, device)
    card = read_card(artifact)
    if card.use != spec.use:
        raise BadInput(f"{artifact / CARD}: expected a student of kind {spec.use!r}, found {card.use!r}")
    if card.ontology != ontology:
        raise BadInput(
            f"{artifact / CARD}: the student knows the classes {_brief(card.ontology)}, "
            f"the data set has {_brief(ontology)}"
        )
    return entry.open(artifact, device)


def load_artifact(artifact: Path, *, device: str) -> Student:
    """The fitted student in an artifact's folder, which knows its own classes; BadInput if there is none."""
    return _entry(read_card(artifact).use, where=str(artifact / CARD)).open(artifact, device)


def identity(spec: ModelSpec) -> Mapping[str, str]:
    """Digests of the files a spec's settings name; what a key must hold besides their paths."""
    return _entry(spec.use, where=f"models.{spec.name}.use").identity(check(spec))


def batch_size(spec: ModelSpec) -> int:
    """How many images a step of its training takes, all processes together."""
    return _entry(spec.use, where=f"models.{spec.name}.use").batch_size(check(spec))


def inspect(spec: ModelSpec, part: str | None = None) -> None:
    """BadInput unless the first weights that a spec names, or those of one part, open safely and fit."""
    parts, settings = _entry(spec.use, where=f"models.{spec.name}.use").inspect, check(spec)
    for name in parts if part is None else (part,):
        parts[name](settings)


def _entry(use: str, *, where: str) -> Entry:
    if use not in ENTRIES:
        near = get_close_matches(use, ENTRIES) or list(ENTRIES)
        raise BadInput(f"{where}: no student {use!r}; nearest: {', '.join(near)}")
    return ENTRIES[use]


def _brief(ontology: Ontology) -> str:
    shown = ", ".join(f"{c.id} {c.name}" for c in ontology.categories[:5])
    return f"[{shown}{', ...' if len(ontology.categories) > 5 else ''}]"


def _build_mask2former(settings: BaseModel, ontology: Ontology, device: str) -> Student:
    from students.mask2former import Mask2Former

    assert isinstance(settings, Mask2FormerSettings)
    return Mask2Former(settings, ontology=ontology, device=device)


def _open_mask2former(artifact: Path, device: str) -> Student:
    from students.mask2former import open_artifact

    return open_artifact(artifact, device=device)


def _mask2former_identity(settings: BaseModel) -> Mapping[str, str]:
    assert isinstance(settings, Mask2FormerSettings)
    if settings.embedded:
        return {"weights": embedded_digest("variant", STUDENT)}
    if settings.weights is None:
        return {}
    if not settings.weights.is_file():
        raise BadInput(f"weights: {settings.weights}: no such file; expected a local safetensors file")
    return {"weights": file_sha256(settings.weights)}


def _mask2former_batch(settings: BaseModel) -> int:
    assert isinstance(settings, Mask2FormerSettings)
    return settings.recipe().batch


def _inspect_mask2former(settings: BaseModel) -> None:
    from students.architecture import build
    from students.weights import load_embedded, load_weights

    assert isinstance(settings, Mask2FormerSettings)
    if settings.embedded:
        load_embedded(build(settings.variant, 1))
    elif settings.weights is not None:
        load_weights(build(settings.variant, 1), settings.weights)


def _build_blo_inst(settings: BaseModel, ontology: Ontology, device: str) -> Student:
    from students.blo_inst import BloInst

    assert isinstance(settings, BloInstSettings)
    return BloInst(settings, ontology=ontology, device=device)


def _open_blo_inst(artifact: Path, device: str) -> Student:
    from students.blo_inst import open_artifact

    return open_artifact(artifact, device=device)


def _blo_inst_identity(settings: BaseModel) -> Mapping[str, str]:
    assert isinstance(settings, BloInstSettings)
    weights = settings.detector, settings.detector_weights, settings.detector_sha256
    asked: dict[str, Callable[[], str | None]] = {
        "sam": partial(sam_digest, settings),
        "detector_weights": partial(detectors.first_weights, *weights),
    }
    found: dict[str, str] = {}
    problems: list[str] = []
    for role, digest in asked.items():
        try:
            value = digest()
        except BadInput as error:
            problems.append(str(error))
        else:
            found |= {} if value is None else {role: value}
    if problems:
        raise BadInput("\n".join(problems))
    return found


def _blo_inst_batch(settings: BaseModel) -> int:
    assert isinstance(settings, BloInstSettings)
    return settings.batch_size


def _inspect_blo_sam(settings: BaseModel) -> None:
    from teachers.sam.load import inspect_sam

    assert isinstance(settings, BloInstSettings)
    inspect_sam(settings.sam, settings.checkpoint, sha256=settings.sha256)


def _inspect_blo_detector(settings: BaseModel) -> None:
    from teachers.detector_weights import new_detector

    assert isinstance(settings, BloInstSettings)
    new_detector(
        settings.detector,
        1,
        focal=settings.focal,
        weights=settings.detector_weights,
        sha256=settings.detector_sha256,
    )


ENTRIES: dict[str, Entry] = {
    MASK2FORMER: Entry(
        "Mask2Former: R-50, Swin-T, or tiny for CPUs",
        Mask2FormerSettings,
        _mask2former_batch,
        _build_mask2former,
        _open_mask2former,
        _mask2former_identity,
        {"weights": _inspect_mask2former},
    ),
    BLO_INST: Entry(
        "BLO-Inst: a detector and SAM's decoder, aligned; FCOS, or YOLO with an extra (AGPL-3.0)",
        BloInstSettings,
        _blo_inst_batch,
        _build_blo_inst,
        _open_blo_inst,
        _blo_inst_identity,
        {"sam": _inspect_blo_sam, "detector": _inspect_blo_detector},
    ),
}
