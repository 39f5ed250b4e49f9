"""The embedded weights that there are: names, folder, `weights.json`, which lists them, and what the proposer can find.

Imports no torch.
"""

import json
from pathlib import Path

from pipeline.data.errors import BadInput
from pipeline.toyworld.world import classes

FOLDER = Path(__file__).parent / "weights"
LISTING = "weights.json"
SAM = "tiny_sam"
TEXT = "tiny_text"
GROUNDER = "tiny_grounder"
STUDENT = "tiny_mask2former"
DETECTOR = "tiny_fcos"
# What GROUNDER was trained to find.
GROUNDED = frozenset(name for c in classes("demo") for name in (c.name, *c.synonyms))


def path_of(name: str, folder: Path | None = None) -> Path:
    """Where an embedded file lies, or should."""
    return (folder or FOLDER) / f"{name}.safetensors"


def digest_of(name: str, folder: Path | None = None) -> str:
    """The listed sha256 of an embedded file. Raises BadInput if it is not listed."""
    path, listing = path_of(name, folder), read_listing(folder)
    if path.name not in listing:
        raise BadInput(f"{path.parent / LISTING}: no {path.name} in it; it lists {sorted(listing)}")
    return str(listing[path.name]["sha256"])


def read_listing(folder: Path | None = None) -> dict[str, dict[str, object]]:
    """The facts of each file by its name. Raises BadInput if the folder has no listing."""
    path = (folder or FOLDER) / LISTING
    if not path.is_file():
        raise BadInput(f"{path}: no such file; it lists the embedded weights")
    listing: dict[str, dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))
    return listing
