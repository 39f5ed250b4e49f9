"""Little pictures of a disc and a bar on grey, drawn from a number, with their records."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.coco import CocoWriter
from pipeline.data.masks import encode
from pipeline.data.records import Category, Instance, Ontology, Record, Role, Source
from pipeline.engine.files import file_digest
from pipeline.engine.stage import TrainContext

ONTOLOGY = Ontology((Category(3, "disc"), Category(7, "bar")))
HEIGHT, WIDTH = 96, 128
MakeContext = Callable[..., TrainContext]


def draw(index: int, folder: Path) -> Record:
    """A red disc and a blue bar on grey, their places drawn from `index`; saved as a PNG."""
    rng = np.random.default_rng(index)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    y, x = rng.integers(20, 76), rng.integers(20, 44)
    disc = (rows - y) ** 2 + (columns - x) ** 2 < 16**2
    top, left = rng.integers(5, 60), rng.integers(70, 90)
    bar = (rows >= top) & (rows < top + 30) & (columns >= left) & (columns < left + 14)
    image = np.full((HEIGHT, WIDTH, 3), 110, np.uint8)
    image[disc] = (220, 40, 40)
    image[bar] = (40, 60, 220)
    Image.fromarray(image).save(folder / f"{index}.png")
    instances = tuple(
        Instance(source=Source.HUMAN, class_id=class_id, rle=encode(mask), human_id=n)
        for n, (class_id, mask) in enumerate([(3, disc), (7, bar)], start=1)
    )
    return Record(
        image_id=index,
        uri=f"{index}.png",
        sha256=file_digest(folder / f"{index}.png"),
        width=WIDTH,
        height=HEIGHT,
        split="train",
        role=Role.HUMAN_MASKED,
        instances=instances,
    )


def write_coco(path: Path, records: Iterable[Record]) -> Path:
    """A COCO file of some pictures, by ascending id."""
    with CocoWriter(path, ONTOLOGY, info={}) as file:
        for record in records:
            file.add(record)
    return path
