"""The embedded weights that there are: names, folder and `weights.json`, which lists them. Imports no torch."""

import json
from pathlib import Path

from pipeline.data.errors import BadInput

FOLDER = Path(__file__).parent / "weights"
LISTING = "weights.json"
SAM = "tiny_sam"
TEXT = "tiny_text"
GROUNDER = "tiny_grounder"
STUDENT = "tiny_mask2former"


def digest_of(name: str, folder: Path = FOLDER) -> str:
    """The listed sha256 of an embedded file. Raises BadInput if it is not listed."""
    listing = read_listing(folder)
    if f"{name}.safetensors" not in listing:
        raise BadInput(f"{folder / LISTING}: no {name}.safetensors in it; it lists {sorted(listing)}")
    return str(listing[f"{name}.safetensors"]["sha256"])


def read_listing(folder: Path = FOLDER) -> dict[str, dict[str, object]]:
    """The facts of each file by its name. Raises BadInput if the folder has no listing."""
    path = folder / LISTING
    if not path.is_file():
        raise BadInput(f"{path}: no such file; it lists the embedded weights")
    listing: dict[str, dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))
    return listing
