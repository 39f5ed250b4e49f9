"""What the catalog's entry `am_sam` is made of; imports no torch until one is built or looked into."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from pydantic import BaseModel

from pipeline.data.errors import BadInput
from teachers import detectors
from teachers.am_sam_settings import AmSamSettings
from teachers.entry import Place
from teachers.identity import file_sha256, sam_digest
from teachers.protocols import Teacher


def build(settings: BaseModel, place: Place) -> Teacher:
    from teachers.am_sam import build_am_sam

    assert isinstance(settings, AmSamSettings)
    return build_am_sam(settings, ontology=place.ontology, device=place.device, artifact=place.artifact)


def identity(settings: BaseModel) -> Mapping[str, str]:
    """SAM's digest, and those of a detector's first weights and of a box file, where such are used."""
    assert isinstance(settings, AmSamSettings)
    digests: dict[str, Callable[[], str]] = {"sam": partial(sam_digest, settings)}
    if settings.boxes == "detector":
        digests["detector"] = partial(_first_weights, settings)
    if settings.box_file is not None:
        digests["boxes"] = partial(_box_file_digest, settings.box_file)
    found, problems = dict[str, str](), list[str]()
    for role, digest in digests.items():
        try:
            found[role] = digest()
        except BadInput as error:
            problems.append(str(error))
    if problems:
        raise BadInput("\n".join(problems))
    return found


def _first_weights(settings: AmSamSettings) -> str:
    weights = settings.detector_weights, settings.detector_sha256
    return detectors.first_weights(settings.detector, *weights) or "new"


def _box_file_digest(path: Path) -> str:
    if not path.is_file():
        raise BadInput(f"box_file {path}: no such file")
    return file_sha256(path)


def inspect_detector(settings: BaseModel) -> None:
    from teachers.detector_weights import new_detector

    assert isinstance(settings, AmSamSettings)
    if settings.boxes == "detector":
        focal = detectors.find(settings.detector).focal
        weights, sha256 = settings.detector_weights, settings.detector_sha256
        new_detector(settings.detector, 1, focal=focal, weights=weights, sha256=sha256)


def finds(settings: BaseModel) -> bool:
    assert isinstance(settings, AmSamSettings)
    return settings.finds
