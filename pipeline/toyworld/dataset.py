"""A toy world on disk: images, COCO instances, and side files with all that is no class of the world.

folder/images/<image_id>.jpg
folder/<split>.json                COCO instances, ids and areas as pycocotools expects them
folder/extras/<image_id>.json      objects (names, parents, depth, colours, sizes, annotation ids) and relations
folder/extras/<image_id>.npz       bit-packed masks: objects (n, 256, 32), shadow and defocus (256, 32), uint8
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from pipeline.toyworld.scene import Mask, Scene, ToyObject, render
from pipeline.toyworld.world import SIZE, classes

MIN_VISIBLE = 16
SPLIT_SPAN = 1_000_000
_KNOWN_SPLITS = ("train", "val", "test")
_OTHER_SPLITS = 900

Json = dict[str, object]


@dataclass(frozen=True)
class Extras:
    """The side files of one image, read back: objects, cast shadows, the defocused region, relations."""

    objects: tuple[ToyObject, ...]
    annotation_ids: tuple[int | None, ...]
    shadow: Mask
    defocus: Mask
    relations: tuple[tuple[int, str, int], ...]


def write_dataset(
    folder: Path,
    *,
    world: str = "demo",
    seed: int = 0,
    splits: Mapping[str, int],
    told: Callable[[], None] = lambda: None,
) -> None:
    """Write `splits[name]` scenes of each split; a larger split begins with the scenes of a smaller one.

    Only objects with a class and at least 16 visible pixels are annotated. Every file is written whole or not at all.
    `told` is called before each scene and may end the work by an exception.
    Raises ValueError for an unknown world, a negative seed, or a split with a bad name or size.
    """
    categories: list[Json] = [
        {"id": c.id, "name": c.name, "synonyms": list(c.synonyms)} for c in classes(world)
    ]
    ranges = split_ranges(splits)
    for name in ("images", "extras"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for split, indices in ranges.items():
        images: list[Json] = []
        annotations: list[Json] = []
        for index in indices:
            told()
            scene = render(world, seed, index)
            image_id = index + 1
            first = len(annotations) + 1
            rows = list(_annotations(scene, image_id=image_id, first_id=first))
            ids = {object_id: first + i for i, (object_id, _) in enumerate(rows)}
            annotations += [row for _, row in rows]
            name = f"{scene.image_id}.jpg"
            images.append({"id": image_id, "file_name": name, "width": SIZE, "height": SIZE})
            _write(folder / "images" / name, scene.jpeg)
            _write_extras(folder / "extras", scene, ids)
        coco: Json = {"images": images, "annotations": annotations, "categories": categories}
        _write(folder / f"{split}.json", json.dumps(coco).encode())


def split_ranges(splits: Mapping[str, int]) -> dict[str, range]:
    """The scene indices of each split: disjoint, and independent of the other splits and their sizes.

    Raises ValueError for a name that is no plain file name, a size out of 0..1000000, or two names that collide.
    """
    out: dict[str, range] = {}
    for name, size in splits.items():
        if not name or not name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"toyworld: bad split name {name!r}, expected letters, digits, '-' and '_'")
        if not 0 <= size <= SPLIT_SPAN:
            raise ValueError(f"toyworld: split {name!r} has {size} scenes, expected 0 to {SPLIT_SPAN}")
        start = _slot(name) * SPLIT_SPAN
        if any(start == other.start for other in out.values()):
            raise ValueError(
                f"toyworld: split {name!r} falls on the scenes of another split, give it another name"
            )
        out[name] = range(start, start + size)
    return out


def _slot(name: str) -> int:
    if name in _KNOWN_SPLITS:
        return _KNOWN_SPLITS.index(name)
    digest = hashlib.sha256(name.encode()).digest()
    return len(_KNOWN_SPLITS) + int.from_bytes(digest[:4], "big") % _OTHER_SPLITS


def annotated(scene: Scene) -> tuple[ToyObject, ...]:
    """The objects that are instances of a class with at least 16 visible pixels, in scene order."""
    return tuple(
        o for o in scene.objects if o.class_id is not None and np.count_nonzero(o.mask) >= MIN_VISIBLE
    )


def _annotations(scene: Scene, *, image_id: int, first_id: int) -> Iterator[tuple[int, Json]]:
    """(object id, COCO annotation) of the annotated objects."""
    for i, o in enumerate(annotated(scene)):
        rle = coco_mask.encode(np.asfortranarray(o.mask, dtype=np.uint8))
        x0, y0, x1, y1 = o.box_xyxy
        yield (
            o.object_id,
            {
                "id": first_id + i,
                "image_id": image_id,
                "category_id": o.class_id,
                "segmentation": {"size": [SIZE, SIZE], "counts": rle["counts"].decode()},
                "area": int(np.count_nonzero(o.mask)),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "iscrowd": 0,
            },
        )


def _write_extras(folder: Path, scene: Scene, annotation_ids: Mapping[int, int]) -> None:
    objects = [
        {
            "object_id": o.object_id,
            "annotation_id": annotation_ids.get(o.object_id),
            "class_id": o.class_id,
            "name": o.name,
            "level": o.level,
            "parent_id": o.parent_id,
            "box_xyxy": o.box_xyxy,
            "depth": o.depth,
            "color": o.color,
            "size": o.size,
        }
        for o in scene.objects
    ]
    side: Json = {"image_id": scene.image_id, "objects": objects, "relations": scene.relations}
    masks = np.zeros((len(scene.objects), SIZE, SIZE), dtype=np.bool_)
    for i, o in enumerate(scene.objects):
        masks[i] = o.mask
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, masks=_packed(masks), shadow=_packed(scene.shadow), defocus=_packed(scene.defocus)
    )
    _write(folder / f"{scene.image_id}.npz", buffer.getvalue())
    _write(folder / f"{scene.image_id}.json", json.dumps(side).encode())


def _packed(masks: Mask) -> npt.NDArray[np.uint8]:
    return np.packbits(masks, axis=-1)


def read_extras(folder: Path, image_id: str) -> Extras:
    """The side files of an image of the data set in `folder`. Raises FileNotFoundError if it has none."""
    side = json.loads((folder / "extras" / f"{image_id}.json").read_text())
    with np.load(folder / "extras" / f"{image_id}.npz") as arrays:
        masks, shadow, defocus = (
            np.unpackbits(arrays[name], axis=-1).view(np.bool_) for name in ("masks", "shadow", "defocus")
        )
    objects, ids = [], []
    for row, mask in zip(side["objects"], masks, strict=True):
        ids.append(row.pop("annotation_id"))
        x0, y0, x1, y1 = row.pop("box_xyxy")
        objects.append(ToyObject(**row, box_xyxy=(x0, y0, x1, y1), mask=mask))
    links = tuple((a, verb, b) for a, verb, b in side["relations"])
    return Extras(tuple(objects), tuple(ids), shadow, defocus, links)


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(content)
    os.replace(partial, path)
