"""Where images and human labels come from: `data:` of a run, checked before any work, and the COCO files behind it."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, field_validator

from pipeline.data.errors import BadInput
from pipeline.data.paths import Place, place_of
from pipeline.data.urls import UrlPath, is_url
from pipeline.stages.fetched import fetched
from pipeline.toyworld.dataset import write_dataset

THREADS = 4  # readers of image files; hashing and decoding release the interpreter lock


def _writable(text: str) -> str:
    """A path that a config file can hold and the file system takes."""
    if "\0" in text or any(
        "\ud800" <= c <= "\udfff" for c in text
    ):  # halves of pairs: bytes that are not UTF-8
        raise ValueError("expected a path in UTF-8, without NUL")
    if is_url(text):
        UrlPath(text)
    return text


PathText = Annotated[str, AfterValidator(_writable)]
Verify = Literal["bytes", "stat"]


class ToyworldData(BaseModel):
    """The synthetic data set: number of scenes, and which world with which seed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["toyworld"]
    train: int = Field(240, ge=1)
    val: int = Field(60, ge=0)
    world: Literal["demo", "pretrain"] = "demo"
    seed: int = Field(0, ge=0)


class CocoData(BaseModel):
    """COCO files; paths are absolute, relative to the data root, or URLs. `val_images` defaults to `images`.

    `masks: semantic`: the masks are whole classes, not objects, so no instance AP is computed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    source: Literal["coco"]
    json_file: PathText = Field(alias="json")
    images: PathText
    val_json: PathText | None = None
    val_images: PathText | None = None
    masks: Literal["instances", "semantic"] = "instances"


class FolderData(BaseModel):
    """A folder of images of which nothing is known; `classes`: the names to look for, with their ids."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["folder"]
    images: PathText
    classes: dict[str, NonNegativeInt] = Field(min_length=1)

    @field_validator("classes")
    @classmethod
    def _differ(cls, classes: dict[str, int]) -> dict[str, int]:
        if len(set(classes.values())) < len(classes):
            raise ValueError("expected an id of its own for each class")
        return classes


@dataclass(frozen=True)
class Split:
    """One COCO file with its image folder; `prefix` leads from the run's images root to that folder.

    `refused`: photos that the file could not list, by name, and why.
    """

    name: str
    json_file: Path
    images: Place
    prefix: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)


def coco_splits(data: CocoData, root: Path) -> list[Split]:
    """The train split and, if given, the val split."""
    images = place_of(root, data.images)
    start = images_root(data, root)
    train = fetched(place_of(root, data.json_file))
    splits = [Split("train", train, images, _way(start, images))]
    if data.val_json is not None:
        val_images = images if data.val_images is None else place_of(root, data.val_images)
        val = fetched(place_of(root, data.val_json))
        splits.append(Split("val", val, val_images, _way(start, val_images)))
    return splits


def images_root(data: CocoData | FolderData, root: Path) -> Place:
    """Where the records' uris start: the image folder or, where val has another one, the folder that holds both.

    BadInput if there is none, as of one by path and one by URL.
    """
    images = place_of(root, data.images)
    if isinstance(data, FolderData) or data.val_json is None or data.val_images is None:
        return images
    val_images = place_of(root, data.val_images)
    if isinstance(images, Path) and isinstance(val_images, Path):
        folders = (os.path.abspath(images), os.path.abspath(val_images))
        return images if folders[0] == folders[1] else Path(os.path.commonpath(folders))
    if isinstance(images, UrlPath) and isinstance(val_images, UrlPath):
        shared = images.shared_with(val_images)
        if shared is not None:
            return shared
    raise BadInput(f"expected images and val_images in one place, found {images} and {val_images}")


def _way(start: Place, folder: Place) -> str:
    if isinstance(start, UrlPath) and isinstance(folder, UrlPath):
        return "/".join(folder.parts[len(start.parts) :])
    way = Path(os.path.relpath(str(folder), str(start))).as_posix()
    return "" if way == "." else way


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
