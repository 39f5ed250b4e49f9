"""What the weights that settings name are, by content: the digests of their files. Imports no torch."""

import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline.data.errors import BadInput
from teachers.settings import ClassAwareSettings, SamSettings
from teachers.tiny import listing

GROUNDING_DINO_FILE = "model.safetensors"  # in the folder that transformers saves


class ModelIdentity(BaseModel):
    """What tuned heads fit onto: no other SAM or text tower can take them. Digests are of the weights' files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sam: str
    sam_sha256: str
    text: str | None = None  # None without the class-aware branch
    text_sha256: str | None = None
    class_aware: Literal["no_box"] | bool


def identity_of(settings: SamSettings) -> ModelIdentity:
    """What settings ask for, by content: reads the files' bytes, not their paths. BadInput for a missing file."""
    sam = _digest(settings.sam, settings.checkpoint, listing.SAM)
    if not isinstance(settings, ClassAwareSettings) or not settings.class_aware:
        return ModelIdentity(sam=settings.sam, sam_sha256=sam, class_aware=False)
    return ModelIdentity(
        sam=settings.sam,
        sam_sha256=sam,
        text=settings.text,
        text_sha256=_digest(settings.text, settings.text_checkpoint, listing.TEXT),
        class_aware=settings.class_aware,
    )


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(name: str, checkpoint: Path | None, embedded: str) -> str:
    if checkpoint is None and name == "tiny":
        return listing.digest_of(embedded)
    if checkpoint is None or not checkpoint.is_file():
        raise BadInput(f"{name}: checkpoint {checkpoint}: no such file")
    return file_sha256(checkpoint)
