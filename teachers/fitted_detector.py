"""A detector that was aligned with SAM (Liao et al. 2026), on its own: as its student's artifact holds it.

The artifact's `model.safetensors` has the detector's tensors under `detector.`. Its header says, under `detector`,
which detector it is, of which classes, and the side S of the square that it sees. Imports no torch until one is opened.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from pipeline.data.errors import BadInput
from pipeline.data.records import Category
from teachers.detectors import find

if TYPE_CHECKING:
    from torch import Tensor

    from teachers.detector import DetectorNetwork

WEIGHTS = "model.safetensors"
PREFIX = "detector."
FACTS = "detector"  # in the header


class DetectorFacts(BaseModel):
    """What a fitted detector is: its name in the table, the side S in pixels, its classes in its labels' order.

    `sam_sha256`: the digest of the SAM that it was aligned with. All is one entry of the header, as safetensors writes
    several in any order, and equal artifacts should be equal files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    detector: str
    side: int = Field(ge=1)
    categories: tuple[Category, ...] = Field(min_length=1)
    sam_sha256: str


def read_facts(artifact: Path) -> DetectorFacts:
    """Of an artifact's folder; BadInput if it holds no fitted detector."""
    path = artifact / WEIGHTS
    if not path.is_file():
        raise BadInput(
            f"artifact {artifact}: expected the folder of a blo_inst student, found no {WEIGHTS} in it"
        )
    try:
        with safe_open(path, "np") as file:
            told = (file.metadata() or {}).get(FACTS)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"artifact {path}: not readable as safetensors: {error}") from error
    if told is None:
        raise BadInput(f"artifact {path}: expected a detector that blo_inst fitted, found other weights")
    try:
        facts = DetectorFacts.model_validate_json(told)
        find(facts.detector)
    except (ValidationError, BadInput) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise BadInput(f"artifact {path}: what it says of its detector is wrong: {why}") from error
    return facts


def open_detector(artifact: Path) -> "tuple[DetectorNetwork, DetectorFacts]":
    """The network on the CPU, in eval mode, and its facts; BadInput if the tensors are not those of such a detector."""
    import torch

    facts = read_facts(artifact)
    entry, path = find(facts.detector), artifact / WEIGHTS
    detector = entry.build(len(facts.categories), focal=entry.focal)
    wanted = {name: value.shape for name, value in detector.state_dict().items()}
    given = _tensors(path)
    found = {name: value.shape for name, value in given.items()}
    if wanted != found:
        wrong = sorted(name for name, _ in set(wanted.items()) ^ set(found.items()))
        raise BadInput(f"artifact {path}: {wrong[0]}: missing, or not as a {facts.detector} has it")
    with torch.no_grad():
        for name, value in detector.state_dict().items():
            value.copy_(given[name])
    return detector.requires_grad_(False).eval(), facts


def _tensors(path: Path) -> "dict[str, Tensor]":
    with safe_open(path, "pt") as file:
        names = [name for name in file.keys() if name.startswith(PREFIX)]  # noqa: SIM118
        return {name.removeprefix(PREFIX): file.get_tensor(name) for name in names}
