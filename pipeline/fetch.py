"""`pipeline models fetch`: the only place that downloads. Files are checked by sha256 and what came is written down.

SAM's checkpoints have published digests. Hub models are pinned by the commit that the first fetch found: its id and the
digests of its files are recorded in `fetched.json`, and a later fetch takes that commit and compares.
"""

import json
import shutil
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.errors import BadInput
from pipeline.engine.files import commit_file, commit_text, file_digest
from pipeline.problems import did_you_mean
from teachers.identity import OFFICIAL_SHA256

SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything"
RECORD = "fetched.json"
SAFE_FILES = ("*.safetensors", "*.json", "*.txt")  # no pickles
OPEN_CLIP = (
    "open_clip_model.safetensors"  # open_clip's own names; model.safetensors beside it has transformers'
)
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Download:
    """A file with a published digest."""

    url: str
    sha256: str


@dataclass(frozen=True)
class Repository:
    """A model on the Hugging Face hub: its one `file` that a config names or, without it, all safetensors and texts."""

    id: str
    file: str | None = None


SOURCES: dict[str, Download | Repository] = {
    "sam_vit_b": Download(f"{SAM_URL}/sam_vit_b_01ec64.pth", OFFICIAL_SHA256["vit_b"]),
    "sam_vit_l": Download(f"{SAM_URL}/sam_vit_l_0b3195.pth", OFFICIAL_SHA256["vit_l"]),
    "sam_vit_h": Download(f"{SAM_URL}/sam_vit_h_4b8939.pth", OFFICIAL_SHA256["vit_h"]),
    "clip_vit_b_32": Repository("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", OPEN_CLIP),  # text: ViT-B-32
    "clip_vit_b_16": Repository("laion/CLIP-ViT-B-16-laion2B-s34B-b88K", OPEN_CLIP),  # text: ViT-B-16
    "grounding_dino_tiny": Repository("IDEA-Research/grounding-dino-tiny"),
    "grounding_dino_base": Repository("IDEA-Research/grounding-dino-base"),
    "resnet_50": Repository("microsoft/resnet-50", WEIGHTS),
    "swin_tiny": Repository("microsoft/swin-tiny-patch4-window7-224", WEIGHTS),
}


def fetch(name: str, folder: Path) -> Path:
    """Download a model into `folder`, unless it is there; the file or folder to name in a config.

    BadInput for an unknown name, and for bytes with another digest than the published or recorded one.
    """
    if name not in SOURCES:
        raise BadInput(f"model {name!r}: nothing to fetch, {did_you_mean(name, SOURCES)}")
    source = SOURCES[name]
    return (
        _fetch_file(source, folder)
        if isinstance(source, Download)
        else _fetch_repository(name, source, folder)
    )


def _fetch_file(source: Download, folder: Path) -> Path:
    target = folder / source.url.rsplit("/", 1)[-1]

    def write(temp: Path) -> None:
        with urllib.request.urlopen(source.url) as answer, temp.open("wb") as file:
            shutil.copyfileobj(answer, file)
        _compare(source.url, file_digest(temp), source.sha256)

    if target.exists():
        _compare(str(target), file_digest(target), source.sha256)
    else:
        commit_file(target, write)
    return target


def _fetch_repository(name: str, source: Repository, folder: Path) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    target = folder / name
    record = target / RECORD
    known = json.loads(record.read_text()) if record.exists() else None
    commit = known["commit"] if known else HfApi().model_info(source.id).sha
    wanted = list(SAFE_FILES) if source.file is None else [source.file]
    snapshot_download(source.id, revision=commit, local_dir=target, allow_patterns=wanted)
    digests = {
        path.relative_to(target).as_posix(): file_digest(path)
        for path in sorted(target.rglob("*"))
        if path.is_file() and path != record and ".cache" not in path.parts
    }
    if source.file is not None and source.file not in digests:
        raise BadInput(f"{source.id}: expected a file {source.file}, found {sorted(digests) or 'none'}")
    if known is None:
        commit_text(
            record, json.dumps({"id": source.id, "commit": commit, "files": digests}, indent=1) + "\n"
        )
    else:
        for path, digest in known["files"].items():
            _compare(str(target / path), digests.get(path, "nothing"), digest)
    return target if source.file is None else target / source.file


def _compare(what: str, found: str, expected: str) -> None:
    if found != expected:
        raise BadInput(f"{what}: expected sha256 {expected}, found {found}")
