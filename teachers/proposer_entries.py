"""What the catalog's proposers are made of: how each is built, which weights it is, whether they fit, what it knows.

Imports no torch until a proposer is built.
"""

from collections.abc import Mapping

from pydantic import BaseModel

from pipeline.data.errors import show
from pipeline.data.records import Category, Ontology
from teachers.detectors import require
from teachers.entry import Known, Place
from teachers.fitted_detector import WEIGHTS, open_detector, read_facts
from teachers.grounding_names import normalise
from teachers.identity import GROUNDING_DINO_FILE, file_sha256, grounder_digests, weights_digest
from teachers.protocols import Proposer
from teachers.settings import (
    AlignedDetectorSettings,
    FakeSettings,
    GroundingDinoSettings,
    TinyGrounderSettings,
)
from teachers.tiny import listing

SOMEWHERE = Place(Ontology((Category(1, "thing"),)), "cpu")  # to see whether a proposer can be built at all
TOLD = 3  # of several names in a message


def build_grounding_dino(settings: BaseModel, place: Place) -> Proposer:
    from teachers.grounding import load_grounding_dino

    assert isinstance(settings, GroundingDinoSettings)
    return load_grounding_dino(
        settings.checkpoint, ontology=place.ontology, sha256=settings.sha256, device=place.device
    )


def grounding_dino_identity(settings: BaseModel) -> Mapping[str, str]:
    assert isinstance(settings, GroundingDinoSettings)
    weights = settings.checkpoint / GROUNDING_DINO_FILE
    found = {"grounding_dino": weights_digest(weights, pickles=(), expected=settings.sha256)}
    texts = (path for path in settings.checkpoint.iterdir() if path.suffix in (".json", ".txt"))
    # Configuration, tokenizer and image processor decide the boxes as much as the weights do.
    return found | {f"grounding_dino/{path.name}": file_sha256(path) for path in sorted(texts)}


def inspect_grounding_dino(settings: BaseModel) -> None:
    build_grounding_dino(settings, SOMEWHERE)


def build_tiny_grounder(settings: BaseModel, place: Place) -> Proposer:
    from teachers.tiny.proposer import load_tiny_grounder

    assert isinstance(settings, TinyGrounderSettings)
    return load_tiny_grounder(ontology=place.ontology, device=place.device)


def tiny_grounder_identity(_: BaseModel) -> Mapping[str, str]:
    return grounder_digests()


def inspect_tiny_grounder(_: BaseModel) -> None:
    from teachers.tiny.grounder import TinyGrounder
    from teachers.tiny.weights import load_weights

    TinyGrounder().load_state_dict(load_weights(listing.GROUNDER))


def inspect_tiny_text(_: BaseModel) -> None:
    from teachers.text import inspect_text

    inspect_text()


def known_to_the_tiny_grounder(_: BaseModel) -> Known:
    return Known(listing.GROUNDED, "the embedded proposer knows the names of toyworld")


def build_aligned_detector(settings: BaseModel, place: Place) -> Proposer:
    from teachers.aligned_detector import load_aligned_detector

    assert isinstance(settings, AlignedDetectorSettings)
    return load_aligned_detector(settings.artifact, ontology=place.ontology, device=place.device)


def aligned_detector_identity(settings: BaseModel) -> Mapping[str, str]:
    assert isinstance(settings, AlignedDetectorSettings)
    name = read_facts(settings.artifact).detector
    require(name)
    return {"aligned_detector": file_sha256(settings.artifact / WEIGHTS)}


def inspect_aligned_detector(settings: BaseModel) -> None:
    assert isinstance(settings, AlignedDetectorSettings)
    open_detector(settings.artifact)


def known_to_an_aligned_detector(settings: BaseModel) -> Known:
    assert isinstance(settings, AlignedDetectorSettings)
    names = [category.name for category in read_facts(settings.artifact).categories]
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    told = ", ".join(map(show, names[:TOLD]))
    return Known(frozenset(map(normalise, names)), f"the detector knows {told}{more}")


def build_fake_proposer(settings: BaseModel, _: Place) -> Proposer:
    from teachers.fake import FakeProposer

    assert isinstance(settings, FakeSettings)
    return FakeProposer(settings)
