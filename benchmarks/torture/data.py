"""The inputs of a trial: 200 small photos of coloured noise and their COCO file, the same bytes each time."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 64, 48
IMAGES = 200
CLASSES = ("circle", "square", "star")


def make_data(folder: Path, *, images: int = IMAGES, poison: Mapping[int, str] | None = None) -> None:
    """Write `coco.json` and `images/`; `poison`: what images, by id, spell in their first row (teachers/fake.py)."""
    (folder / "images").mkdir(parents=True)
    entries: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for image_id in range(1, images + 1):
        draw = np.random.default_rng(image_id)
        pixels = draw.integers(1, 256, (HEIGHT, WIDTH, 3), np.uint8)
        if spelled := (poison or {}).get(image_id):
            pixels[0, :, 0] = 0
            pixels[0, : len(spelled), 0] = np.frombuffer(spelled.encode(), np.uint8)
        name = f"{image_id:03d}.png"
        write_photo(folder / "images" / name, pixels)
        entries.append({"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for _ in range(int(draw.integers(1, 4))):
            annotations.append(_annotation(len(annotations) + 1, image_id, draw))
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    content = {"images": entries, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(content))


def write_photo(path: Path, pixels: np.ndarray) -> None:
    """A PNG that is not compressed: photos of one size have as many bytes, whatever is on them."""
    Image.fromarray(pixels).save(path, compress_level=0)


def _annotation(number: int, image_id: int, draw: np.random.Generator) -> dict[str, object]:
    x, y = int(draw.integers(0, WIDTH - 20)), int(draw.integers(0, HEIGHT - 20))
    w, h = (int(side) for side in draw.integers(8, 20, 2))
    return {
        "id": number,
        "image_id": image_id,
        "category_id": int(draw.integers(1, len(CLASSES) + 1)),
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        "bbox": [x, y, w, h],
        "area": w * h,
        "iscrowd": 0,
    }
