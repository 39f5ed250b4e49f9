"""Where images and human labels come from: `data:` of a run, checked before any work, and the COCO files behind it."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.data.coco import CocoFile
from pipeline.data.errors import BadInput
from pipeline.toyworld.dataset import write_dataset

THREADS = 4  # readers of image files; hashing and decoding release the interpreter lock


class ToyworldData(BaseModel):
    """The synthetic data set: number of scenes, and which world with which seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["toyworld"]
    train: int = Field(240, ge=1)
    val: int = Field(60, ge=0)
    world: Literal["demo", "pretrain"] = "demo"
    seed: int = Field(0, ge=0)


class CocoData(BaseModel):
    """COCO files; paths are absolute or relative to the data root. `val_images` defaults to `images`.

    `masks: semantic`: the masks are whole classes, not objects, so no instance AP is computed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    source: Literal["coco"]
    json_file: str = Field(alias="json")
    images: str
    val_json: str | None = None
    val_images: str | None = None
    masks: Literal["instances", "semantic"] = "instances"


@dataclass(frozen=True)
class Split:
    """One COCO file with its image folder; `prefix` leads from the run's images root to that folder."""

    name: str
    json_file: Path
    images: Path
    prefix: str = ""


def coco_splits(data: CocoData, root: Path) -> list[Split]:
    """The train split and, if given, the val split."""
    images = root / data.images
    splits = [Split("train", root / data.json_file, images)]
    if data.val_json is not None:
        val_images = images if data.val_images is None else root / data.val_images
        prefix = os.path.relpath(val_images, images)
        splits.append(Split("val", root / data.val_json, val_images, "" if prefix == "." else prefix))
    return splits


def render_toyworld(data: ToyworldData, *, scratch: Path, images: Path) -> list[Split]:
    """Render the scenes into `scratch` and move the pictures alone to `images`.

    The rest (exact masks, depth, relations) stays in `scratch`, which does not outlive the job: beside the pictures it
    would be hidden truth within everyone's reach.
    """
    sizes = {"train": data.train} | ({"val": data.val} if data.val else {})
    shutil.rmtree(scratch, ignore_errors=True)
    write_dataset(scratch, world=data.world, seed=data.seed, splits=sizes)
    images.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(scratch / "images", images)
    return [Split(name, scratch / f"{name}.json", images) for name in sizes]


def source_digest(splits: Sequence[Split]) -> str:
    """sha256 over the JSON files' bytes and every listed image's bytes; a missing image counts as such."""
    total = hashlib.sha256()
    for split in splits:
        total.update(f"{split.name} {split.prefix}\n{_file_digest(split.json_file)}\n".encode())
        with CocoFile(split.json_file) as file:
            names = [image.file_name for image in file.images]
        with ThreadPoolExecutor(THREADS) as threads:
            for name, digest in zip(names, threads.map(partial(_image_digest, split), names), strict=True):
                total.update(f"{name!r} {digest}\n".encode())
    return total.hexdigest()


def inside(split: Split, file_name: str) -> Path:
    """The path of a listed image; BadInput when it leads out of the image folder, through links too."""
    path = split.images / file_name
    if not path.resolve().is_relative_to(split.images.resolve()):
        raise BadInput(f"image {file_name!r}: expected a file inside {split.images}, found {path.resolve()}")
    return path


def _image_digest(split: Split, file_name: str) -> str:
    try:
        return _file_digest(inside(split, file_name))
    except BadInput:
        return "unusable"


def _file_digest(path: Path) -> str:
    if not path.is_file():  # before open: opening a FIFO would wait for ever
        raise BadInput(f"{path}: expected a file, found {'something else' if path.exists() else 'nothing'}")
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}") from error
