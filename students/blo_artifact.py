"""What a BLO-Inst student leaves: `model.safetensors` (the detector and what was trained of SAM) and `student.json`.

SAM itself is not in it: the weights' header names the digest of the SAM they belong to. Nor is where its file lies, so
that equal trainings leave equal bytes; that stands among the metrics, in the `artifact.json` beside them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.data.errors import BadInput
from pipeline.data.records import Ontology
from pipeline.engine.artifact import MANIFEST, parse_manifest
from students.blo_pair import Pair
from students.blo_settings import BLO_INST, BloInstSettings
from students.card import CARD, Card, read_card, write_card
from teachers.fitted_detector import FACTS, PREFIX, WEIGHTS, DetectorFacts, read_facts
from teachers.identity import SAM_PICKLES, file_sha256, sam_digest

SAM_FILE = "sam_file"  # among the metrics: where SAM's weights were
_FETCHED = Path("weights")  # where `pipeline models fetch` puts them


@dataclass(frozen=True)
class Saved:
    """What an artifact holds; the settings name SAM's file where it is now."""

    settings: BloInstSettings
    ontology: Ontology
    state: dict[str, Tensor]


def learned(pair: Pair) -> dict[str, Tensor]:
    """What training changes, by name: the whole detector, and of SAM the trained parameters."""
    detector = {f"{PREFIX}{name}": value for name, value in pair.detector.state_dict().items()}
    return detector | {f"sam.{name}": value.detach() for name, value in pair.sam.trained().items()}


def fill(pair: Pair, state: Mapping[str, Tensor]) -> None:
    """Put what was learned back; ValueError unless names and shapes are the same."""
    expected = {name: value.shape for name, value in learned(pair).items()}
    found = {name: value.shape for name, value in state.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()))[:3]
        raise ValueError(f"weights do not fit the settings: {wrong}")
    with torch.no_grad():
        for name, value in learned(pair).items():
            value.copy_(state[name])


def save(pair: Pair, settings: BloInstSettings, ontology: Ontology, out: Path) -> None:
    """Write both files."""
    state = {name: tensor.cpu().contiguous() for name, tensor in learned(pair).items()}
    facts = DetectorFacts(
        detector=settings.detector,
        side=pair.sam.side,
        categories=ontology.categories,
        sam_sha256=sam_digest(settings),
    )
    save_file(state, out / WEIGHTS, {FACTS: facts.model_dump_json()})
    told = settings.model_dump(mode="json", exclude=set(settings.not_in_key))
    write_card(Card(use=BLO_INST, settings=told, categories=ontology.categories), out)


def read(artifact: Path, *, device: str) -> Saved:
    """Both files of an artifact's folder; `BadInput` if they are broken, or SAM's file is nowhere to be found."""
    card = read_card(artifact)
    made_for = read_facts(artifact).sam_sha256
    try:
        settings = BloInstSettings.model_validate(card.settings)
    except ValidationError as error:
        raise BadInput(f"{artifact / CARD}: not the settings of a BLO-Inst student: {error}") from error
    settings = _with_sam(settings, artifact, made_for)
    try:
        return Saved(settings, card.ontology, load_file(artifact / WEIGHTS, device=device))
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{artifact / WEIGHTS}: not readable as weights: {error}") from error


def _with_sam(settings: BloInstSettings, artifact: Path, made_for: str) -> BloInstSettings:
    """The settings with SAM's file where it is now; as they are for the embedded SAM."""
    if settings.sam == "tiny" and sam_digest(settings) == made_for:
        return settings
    places = list(_places(artifact, settings.sam))
    for place in places:
        if place.is_file() and file_sha256(place) == made_for:
            return settings.model_copy(update={"checkpoint": place, "sha256": made_for})
    looked = ", ".join(map(str, places)) or "none there"
    raise BadInput(
        f"{artifact}: trained with a SAM of sha256 {made_for}, found no file of it where it was, beside the student or "
        f"in {_FETCHED}/; looked at: {looked}"
    )


def _places(artifact: Path, sam: str) -> Iterator[Path]:
    """Where SAM's file may be: where the metrics say it was, in the artifact's folder, where `fetch` puts it."""
    was = _where_sam_was(artifact)
    if was is not None:
        yield was
    for folder, pattern in ((artifact, "*"), (_FETCHED, f"*{sam}*")):
        files = (path for path in sorted(folder.glob(pattern)) if path.name != WEIGHTS)
        yield from (path for path in files if path.suffix in (*SAM_PICKLES, ".safetensors"))


def _where_sam_was(artifact: Path) -> Path | None:
    try:
        made = parse_manifest((artifact / MANIFEST).read_bytes(), None)
    except OSError:
        return None
    said = None if made is None else made.metrics.get(SAM_FILE)
    return None if said is None else Path(str(said))
