"""What the weights that settings name are, by content: the digests of their files. Imports no torch.

Every problem is a line that starts with the key of the setting it is about.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

from pipeline.data.errors import BadInput
from teachers.settings import ClassAwareSettings, SamSettings
from teachers.tiny import listing

GROUNDING_DINO_FILE = "model.safetensors"  # in the folder that transformers saves
OFFICIAL_SHA256 = {  # of sam_vit_*.pth as published with segment-anything
    "vit_b": "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    "vit_l": "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    "vit_h": "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
}
SAM_PICKLES = (".pth", ".pt")
TEXT_PICKLES = (".pt", ".pth", ".bin")


class ModelIdentity(BaseModel):
    """What tuned heads fit onto: no other SAM, text tower or zoom can take them. Digests are of the weights' files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sam: str
    sam_sha256: str
    text: str | None = None  # None without the class-aware branch
    text_sha256: str | None = None
    class_aware: Literal["no_box"] | bool
    zoom: float  # as in the settings


def identity_of(settings: SamSettings) -> ModelIdentity:
    """What settings ask for, by content: reads the files' bytes, not their paths.

    BadInput, one line a problem, for an unknown text tower and for files that `weights_digest` refuses.
    """
    problems: list[str] = []
    sam = _noted(partial(sam_digest, settings), problems)
    if not isinstance(settings, ClassAwareSettings) or not settings.class_aware:
        found = ModelIdentity(sam=settings.sam, sam_sha256=sam, class_aware=False, zoom=settings.zoom)
    else:
        found = ModelIdentity(
            sam=settings.sam,
            sam_sha256=sam,
            text=settings.text,
            text_sha256=_noted(partial(_text_digest, settings), problems),
            class_aware=settings.class_aware,
            zoom=settings.zoom,
        )
    if problems:
        raise BadInput("\n".join(problems))
    return found


class SamWeights(Protocol):
    """Settings that name a SAM and its file."""

    @property
    def sam(self) -> str: ...
    @property
    def checkpoint(self) -> Path | None: ...
    @property
    def sha256(self) -> str | None: ...


def sam_digest(settings: SamWeights) -> str:
    """sha256 of the SAM's weights that settings name; BadInput for a file that is not as it should be."""
    path = settings.checkpoint
    if path is None and settings.sam == "tiny":
        return embedded_digest("sam", listing.SAM)
    if path is None:
        raise BadInput(f"checkpoint: {settings.sam} needs the path of its weights, .pth or .safetensors")
    expected = settings.sha256 or official_sha256(settings.sam, path)
    return weights_digest(path, pickles=SAM_PICKLES, expected=expected)


def mask_digest(identity: ModelIdentity, head: str | None) -> str:
    """What stands for all weights behind a mask; `head`: digest of the tuned head that answered, None for plain SAM."""
    known = (
        f"{identity.sam} {identity.sam_sha256}" if head is None else f"{identity.model_dump_json()} {head}"
    )
    return hashlib.sha256(known.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_digest(
    path: Path, *, pickles: Sequence[str], expected: str | None, key: str = "checkpoint"
) -> str:
    """Hex sha256 of a weights file, which the setting `key` names.

    BadInput unless it is there, is .safetensors or has one of the suffixes `pickles`, and has the `expected` digest;
    a pickle without an expected one is refused.
    """
    if not path.is_file():
        raise BadInput(f"{key} {path}: no such file")
    pickled = path.suffix in pickles
    if not pickled and path.suffix != ".safetensors":
        *names, last = (".safetensors", *pickles)
        raise BadInput(f"{key} {path}: expected a {', '.join(names)} or {last} file")
    if pickled and expected is None:
        raise BadInput(
            f"{key} {path}: a pickle is read with a known sha256 only, so it needs its sha256 in the settings; "
            "safetensors do not"
        )
    found = file_sha256(path)
    if expected is not None and found != expected.lower():
        raise BadInput(f"{key} {path}: its sha256 is {found}, expected {expected}")
    return found


def embedded_digest(key: str, name: str) -> str:
    """Hex sha256 of an embedded file, whose use the setting `key` asks for; BadInput unless it is there as listed."""
    try:
        path, expected = listing.path_of(name), listing.digest_of(name)
    except BadInput as error:
        raise BadInput(f"{key}: {error}") from None
    found = file_sha256(path) if path.is_file() else "nothing"
    if found != expected:
        raise BadInput(
            f"{key}: {path}: expected sha256 {expected}, as {listing.LISTING} lists, found {found}"
        )
    return found


def grounder_digests() -> dict[str, str]:
    """Digests of the embedded proposer's files, by role; BadInput, one line a problem."""
    problems: list[str] = []
    found = {
        role: _noted(partial(embedded_digest, "use", name), problems)
        for role, name in (("tiny_grounder", listing.GROUNDER), ("text", listing.TEXT))
    }
    if problems:
        raise BadInput("\n".join(problems))
    return found


def official_sha256(sam: str, path: Path) -> str | None:
    """The published digest of a SAM's checkpoint; None for .safetensors, which nobody published."""
    return OFFICIAL_SHA256.get(sam) if path.suffix in SAM_PICKLES else None


def _noted(digest: Callable[[], str], problems: list[str]) -> str:
    try:
        return digest()
    except BadInput as error:
        problems.append(str(error))
        return ""


def _text_digest(settings: ClassAwareSettings) -> str:
    if settings.text == "tiny" and settings.text_checkpoint is None:
        return embedded_digest("text", listing.TEXT)
    if problem := _text_problem(settings.text):
        raise BadInput(problem)
    if settings.text_checkpoint is None:
        raise BadInput(f"text_checkpoint: {settings.text} needs the path of its open_clip weights")
    return weights_digest(
        settings.text_checkpoint,
        pickles=TEXT_PICKLES,
        expected=settings.text_sha256,
        key="text_checkpoint",
    )


def _text_problem(name: str) -> str | None:
    """Why a text tower cannot be used, from the descriptions that open_clip brings along, without importing it."""
    package = find_spec("open_clip")
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(package.submodule_search_locations[0]) / "model_configs"
    known = sorted(path.stem for path in folder.glob("*.json"))
    if name == "tiny":
        return "text_checkpoint: the tiny text tower has its own weights; expected none"
    if name not in known:
        near = get_close_matches(name, known, n=2, cutoff=0.5) or known
        return f"text: {name!r} is no open_clip model; nearest: {', '.join(near)}"
    tower = json.loads((folder / f"{name}.json").read_text())["text_cfg"]
    foreign = tower.get("hf_model_name") or tower.get("hf_tokenizer_name")
    if foreign is None:
        return None
    return f"text: {name}: its tokenizer {foreign} would be downloaded; use a model with CLIP's own"
