"""Where images and human labels come from: `data:` of a run, checked before any work, and the COCO files behind it."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, field_validator

from pipeline.data.coco import CocoFile
from pipeline.data.errors import BadInput
from pipeline.data.images import read_bytes, read_header
from pipeline.toyworld.dataset import write_dataset

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
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


class FolderData(BaseModel):
    """A folder of images of which nothing is known; `classes`: the names to look for, with their ids."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["folder"]
    images: str
    classes: dict[str, NonNegativeInt] = Field(min_length=1)

    @field_validator("classes")
    @classmethod
    def _differ(cls, classes: dict[str, int]) -> dict[str, int]:
        if len(set(classes.values())) < len(classes):
            raise ValueError("expected an id of its own for each class")
        return classes


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
    start = images_root(data, root)
    splits = [Split("train", root / data.json_file, images, _way(start, images))]
    if data.val_json is not None:
        val_images = images if data.val_images is None else root / data.val_images
        splits.append(Split("val", root / data.val_json, val_images, _way(start, val_images)))
    return splits


def images_root(data: CocoData | FolderData, root: Path) -> Path:
    """Where the records' uris start: the image folder or, where val has another one, the folder that holds both."""
    images = root / data.images
    if isinstance(data, FolderData) or data.val_json is None or data.val_images is None:
        return images
    folders = (os.path.abspath(images), os.path.abspath(root / data.val_images))
    return images if folders[0] == folders[1] else Path(os.path.commonpath(folders))


def _way(start: Path, folder: Path) -> str:
    way = Path(os.path.relpath(folder, start)).as_posix()
    return "" if way == "." else way


def find_photos(folder: Path) -> list[Path]:
    """Every image file in a folder and its subfolders, by name; BadInput if there is none."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: expected a folder of images, found none")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise BadInput(f"{folder}: expected images ({', '.join(sorted(SUFFIXES))}), found none")
    return found


def list_folder(data: FolderData, root: Path, *, scratch: Path) -> Split:
    """The folder's images, numbered from 1 by name, as a COCO file in `scratch` that says nothing else of them."""
    folder = root / data.images
    photos = find_photos(folder)
    with ThreadPoolExecutor(THREADS) as threads:
        sizes = threads.map(_upright_size, photos)
        images = [
            {"id": n, "file_name": path.relative_to(folder).as_posix(), "height": size[0], "width": size[1]}
            for n, (path, size) in enumerate(zip(photos, sizes, strict=True), start=1)
        ]
    categories = [{"id": number, "name": name} for name, number in data.classes.items()]
    content = {"images": images, "categories": categories, "annotations": []}
    path = scratch / "folder.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return Split("train", path, folder)


def _upright_size(path: Path) -> tuple[int, int]:
    """(height, width); (1, 1) for a file that is no image, whose own reason is told when it is decoded."""
    try:
        return read_header(read_bytes(path), path.name).upright_size
    except BadInput:
        return (1, 1)


def folder_digest(folder: Path) -> str:
    """sha256 over the names and bytes of a folder's images."""
    total = hashlib.sha256()
    _add_images(total, folder, [path.relative_to(folder).as_posix() for path in find_photos(folder)])
    return total.hexdigest()


def render_toyworld(
    data: ToyworldData, *, scratch: Path, images: Path, told: Callable[[], None]
) -> list[Split]:
    """Render the scenes into `scratch` and move the pictures alone to `images`.

    The rest (exact masks, depth, relations) stays in `scratch`, which does not outlive the job: beside the pictures it
    would be hidden truth within everyone's reach. `told` is called between scenes and may end the work.
    """
    sizes = {"train": data.train} | ({"val": data.val} if data.val else {})
    shutil.rmtree(scratch, ignore_errors=True)
    write_dataset(scratch, world=data.world, seed=data.seed, splits=sizes, told=told)
    images.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(scratch / "images", images)
    return [Split(name, scratch / f"{name}.json", images) for name in sizes]


def source_digest(splits: Sequence[Split]) -> str:
    """sha256 over the JSON files' bytes and every listed image's bytes; a missing image counts as such."""
    total = hashlib.sha256()
    for split in splits:
        total.update(f"{split.name} {split.prefix}\n{_file_digest(split.json_file)}\n".encode())
        with CocoFile(split.json_file) as file:
            _add_images(total, split.images, [image.file_name for image in file.images])
    return total.hexdigest()


def _add_images(total: "hashlib._Hash", folder: Path, names: Sequence[str]) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        for name, digest in zip(names, threads.map(partial(_image_digest, folder), names), strict=True):
            total.update(f"{name!r} {digest}\n".encode())


def inside(folder: Path, file_name: str) -> Path:
    """The path of a listed image; BadInput when it leads out of the image folder, through links too."""
    path = folder / file_name
    try:
        target = path.resolve()
        within = target.is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:  # before Python 3.13 a loop of links is a RuntimeError
        raise BadInput(f"image {file_name}: cannot be read: {error}") from None
    if not within:
        raise BadInput(f"image {file_name}: expected a file inside {folder}, found {target}")
    return path


def _image_digest(folder: Path, file_name: str) -> str:
    try:
        return _file_digest(inside(folder, file_name))
    except BadInput:
        return "unusable"


def _file_digest(path: Path) -> str:
    try:
        if not path.is_file():  # before open: opening a FIFO would wait for ever
            found = "something else" if path.exists() else "nothing"
            raise BadInput(f"{path}: expected a file, found {found}")
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}") from error
