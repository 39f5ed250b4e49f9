"""What a tuned AM-SAM leaves: `teacher.json`, and `model.safetensors` with what was trained of SAM and the detector.

SAM itself is not in it: `teacher.json` names the digest of the weights it belongs to. A detector lies there as
`fitted_detector.py` reads it, so that the entry `aligned_detector` can be asked for its boxes too.
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.data.errors import BadInput
from pipeline.data.records import Category, Ontology
from teachers.am_sam_network import AmSamNetwork
from teachers.am_sam_settings import AM_SAM, AmSamSettings
from teachers.detector import DetectorNetwork
from teachers.fitted_detector import FACTS, PREFIX, WEIGHTS, DetectorFacts
from teachers.heads import TEACHER_JSON, fill
from teachers.sam import lora

_NETWORK = "network."
# What decides the network, or what it was shown: as tuned, so asked.
FIXED = ("sam", "mode", "prompt", "rank", "learn_corners", "calibration", "calibration_alpha")


class AmSamFile(BaseModel):
    """`teacher.json`; with `zero_shot` nothing was tuned, and `reason` says why.

    `settings` are without the paths of files. `taught`: the ids of the classes that there were masks of. `lower` and
    `upper`: the image ids of D1 and D2. `dice`: on D2, at the epoch that was kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    use: Literal["am_sam"] = "am_sam"
    settings: dict[str, JsonValue]
    categories: tuple[Category, ...]
    sam_sha256: str
    zero_shot: bool = False
    reason: str | None = None
    taught: tuple[int, ...] = ()
    lower: tuple[int, ...] = ()
    upper: tuple[int, ...] = ()
    best_epoch: int | None = None
    dice: float | None = None

    def save(self, folder: Path) -> None:
        """Write it into an artifact's folder."""
        (folder / TEACHER_JSON).write_text(self.model_dump_json(indent=2) + "\n")


def told(settings: AmSamSettings) -> dict[str, JsonValue]:
    """Settings as an artifact has them: all but paths of files, their digests, and what changes time alone."""
    return settings.model_dump(mode="json", exclude=set(settings.not_in_key))


def is_am_sam(folder: Path) -> bool:
    """Whether an artifact's card says that it is one of these; one that cannot be read says nothing."""
    try:
        card = json.loads((folder / TEACHER_JSON).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(card, dict) and card.get("use") == AM_SAM


def read_am_sam(folder: Path) -> AmSamFile:
    """An artifact's `teacher.json`; BadInput naming it when it is missing, damaged or another teacher's."""
    path = folder / TEACHER_JSON
    try:
        return AmSamFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise BadInput(f"teacher {path}: not a tuned am_sam: {error}") from error


def check(
    found: AmSamFile, folder: Path, settings: AmSamSettings, *, ontology: Ontology, sam_sha256: str
) -> None:
    """BadInput unless an artifact fits a SAM, the settings it is asked with, and the classes."""
    where = f"teacher {folder / TEACHER_JSON}: tuned with"
    if found.sam_sha256 != sam_sha256:
        raise BadInput(f"{where} a SAM of sha256 {found.sam_sha256}, expected {sam_sha256}")
    asked = told(settings)
    for key in FIXED:
        if found.settings.get(key) != asked[key]:
            raise BadInput(f"{where} {key} {found.settings.get(key)}, expected {asked[key]}")
    if (found.settings.get("boxes") == "none") != (settings.boxes == "none"):
        raise BadInput(f"{where} boxes {found.settings.get('boxes')}, expected {settings.boxes}")
    own, wanted = ([(c.id, c.name) for c in some] for some in (found.categories, ontology.categories))
    if own != wanted:
        raise BadInput(f"{where} the classes {own[:5]}, the data set has {wanted[:5]}")


def save_weights(
    folder: Path, network: AmSamNetwork, detector: DetectorNetwork | None, facts: DetectorFacts | None
) -> None:
    """Write `model.safetensors`."""
    state: dict[str, Tensor] = {f"{_NETWORK}{name}": value for name, value in network.trained().items()}
    if detector is not None:
        state |= {f"{PREFIX}{name}": value for name, value in detector.state_dict().items()}
    whole = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(whole, folder / WEIGHTS, {FACTS: facts.model_dump_json()} if facts is not None else None)


def load_weights(folder: Path, network: AmSamNetwork) -> AmSamNetwork:
    """A new network with an artifact's weights, its deltas merged; BadInput naming the file otherwise."""
    path = folder / WEIGHTS
    try:
        given = load_file(path)
        own = {n.removeprefix(_NETWORK): value for n, value in given.items() if n.startswith(_NETWORK)}
        fill(network.trained(), own)
    except (OSError, SafetensorError, ValueError) as error:
        raise BadInput(f"teacher {path}: not weights of this model: {error}") from error
    lora.merge(network.decoder)
    return network
