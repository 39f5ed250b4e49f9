"""Small doubles for the stages' tests: records, folders, contexts, models that answer without weights."""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data import masks
from pipeline.data.records import (
    RLE,
    Category,
    Instance,
    Ontology,
    Origin,
    Point,
    Prompt,
    Record,
    Role,
    Source,
    WeakKind,
)
from pipeline.engine.context import TrainContext
from teachers.protocols import Sample

SIZE = (24, 32)
ONTOLOGY = Ontology((Category(3, "car"), Category(7, "wheel"), Category(9, "tree")))


@dataclass
class Stream:
    """A `Records` in memory that counts how often it was read."""

    records: Sequence[Record]
    reads: int = 0

    def __iter__(self) -> Iterator[Record]:
        self.reads += 1
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


def box_rle(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = SIZE) -> RLE:
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return masks.encode(mask)


def png(value: int = 0, size: tuple[int, int] = SIZE) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def human(rle: RLE | None, class_id: int = 3, human_id: int = 1, **more: object) -> Instance:
    return Instance(Source.HUMAN, class_id=class_id, rle=rle, human_id=human_id, **more)


def teacher(rle: RLE | None, class_id: int = 3, **more: object) -> Instance:
    prompt = Prompt(Origin.SAM, box_xyxy=(1, 1, 9, 9), class_id=class_id)
    return Instance(Source.TEACHER, class_id=class_id, rle=rle, **({"prompt": prompt, "score": 0.9} | more))


def record(image_id: int = 1, role: Role = Role.WEAK, **more: object) -> Record:
    data = png(image_id % 200)
    base = Record(
        image_id=image_id,
        uri=f"{image_id}.png",
        sha256=hashlib.sha256(data).hexdigest(),
        width=SIZE[1],
        height=SIZE[0],
        split="val" if role is Role.VAL else "train",
        role=role,
    )
    return replace(base, **more)


def write_images(folder: Path, records: Sequence[Record]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for item in records:
        (folder / item.uri).write_bytes(png(item.image_id % 200))
    return folder


def context(folder: Path, **more: object) -> TrainContext:
    for name in ("work", "out"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    defaults: dict[str, object] = {
        "device": "cpu",
        "ontology": ONTOLOGY,
        "images_root": folder / "images",
        "artifacts": {},
        "seed": 0,
        "workdir": folder / "work",
        "out": folder / "out",
        "progress": lambda _done, _total, _note: None,
        "should_stop": lambda: False,
        "data_root": folder,
    }
    return TrainContext(**(defaults | more))


def write_coco(
    folder: Path, name: str, images: Sequence[dict[str, object]], annotations: Sequence[object]
) -> Path:
    """`images` need id and file_name; every missing photo is written."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries = [{"width": SIZE[1], "height": SIZE[0]} | image for image in images]
    for image in images:
        path = folder / "images" / str(image["file_name"])
        if not path.exists():
            path.write_bytes(png(int(image["id"]) % 200))
    categories = [{"id": c.id, "name": c.name} for c in ONTOLOGY.categories]
    content = {"images": entries, "annotations": list(annotations), "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / f"{name}.json"


def annotation(number: int, image_id: int, rle: RLE, class_id: int = 3) -> dict[str, object]:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": class_id,
        "iscrowd": 0,
        "segmentation": {"size": list(rle.size), "counts": rle.counts},
    }


@dataclass
class FakeTeacher:
    """Answers every weak label with a fixed mask; remembers what it was told."""

    chosen: dict[str, str] = field(default_factory=dict)
    fitted: list[int] = field(default_factory=list)
    variants: tuple[str, ...] = ("box", "point", "point_box")
    tuned_variants: tuple[str, ...] = ("box", "point")

    def select(self, choices: dict[str, str]) -> None:
        self.chosen = dict(choices)

    def fit(self, data: Sequence[Record], context: TrainContext) -> dict[str, int]:
        self.fitted = [item.image_id for item in data]
        (context.out / "box.safetensors").write_bytes(b"x")
        return {"images": len(self.fitted)}

    def label(self, batch: Sequence[Sample]) -> list[list[Instance]]:
        return [
            [
                replace(i, source=Source.TEACHER, rle=box_rle(2, 2, 10, 10), score=0.5)
                for i in sample.record.instances
                if i.rle is None
            ]
            for sample in batch
        ]


@dataclass
class FakeProposer:
    """Proposes one box a named class, with the scores given by class; remembers the names it was asked for."""

    scores: dict[int, float]
    asked: list[list[int]] = field(default_factory=list)

    def propose(self, batch: Sequence[Sample], names: Sequence[Sequence[int]]) -> list[list[Prompt]]:  # noqa: ARG002
        self.asked += [list(classes) for classes in names]
        return [
            [
                Prompt(Origin.DINO, box_xyxy=(0, 0, 5, 5), class_id=c, score=self.scores.get(c, 0.5))
                for c in classes
            ]
            for classes in names
        ]


@dataclass
class FakeStudent:
    """Finds what it was told to find, by image id."""

    found: dict[int, list[Instance]]

    def predict(self, batch: Sequence[Sample]) -> list[list[Instance]]:
        return [self.found.get(sample.record.image_id, []) for sample in batch]


def point(x: float, y: float, class_id: int = 3, human_id: int = 1) -> Instance:
    return human(None, class_id, human_id, points=(Point(x, y),), weak_kind=WeakKind.POINT)


def boxed(box: tuple[float, float, float, float], class_id: int = 3, human_id: int = 1) -> Instance:
    return human(None, class_id, human_id, box_xyxy=box, weak_kind=WeakKind.BOX)
