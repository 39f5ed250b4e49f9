"""A handful of little pictures with masks, and what a small AM-SAM is made of."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from small_models import build_small_sam
from torch import Tensor

from pipeline.data.masks import encode, tight_box
from pipeline.data.records import Category, Instance, Ontology, Record, Role, Source
from pipeline.engine.context import Metrics, TrainContext
from teachers.am_sam import AmSam, assembled
from teachers.am_sam_settings import AmSamSettings
from teachers.fitted_detector import WEIGHTS
from teachers.protocols import Sample
from teachers.sam.predictor import SamPredictor

ONTOLOGY = Ontology((Category(3, "disc"), Category(8, "bar")))
DISC = Ontology((Category(3, "disc"),))
SETTINGS = {"mode": "blo_sam", "epochs": 3, "rank": 2, "checkpoint_every": 2}


def shot(
    image_id: int,
    root: Path,
    *,
    classes: Sequence[int] = (3, 8),
    size: tuple[int, int] = (48, 64),
    role: Role = Role.HUMAN_MASKED,
) -> Record:
    """A red disc and a blue bar on grey, of those that are asked for; drawn from the id, saved as a PNG."""
    rng = np.random.default_rng(image_id)
    height, width = size
    y, x = np.mgrid[:height, :width]
    centre = rng.uniform(0.35, 0.65, 2) * (height, width)
    radius = 0.22 * min(size)
    disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
    bar = (abs(y - 0.9 * height) < 0.08 * height) & (abs(x - centre[1]) < 0.3 * width)
    pixels = np.full((height, width, 3), 110, np.uint8)
    things = [(3, disc, (220, 40, 40)), (8, bar, (40, 60, 220))]
    found = []
    for class_id, mask, colour in things:
        if class_id in classes:
            pixels[mask] = colour
            found.append(
                Instance(Source.HUMAN, class_id, rle=encode(mask), human_id=10 * image_id + class_id)
            )
    photo = root / f"{image_id}.png"
    Image.fromarray(pixels).save(photo)
    digest = hashlib.sha256(photo.read_bytes()).hexdigest()
    return Record(image_id, photo.name, digest, width, height, "train", role, instances=tuple(found))


def sample_of(record: Record, root: Path, **known: object) -> Sample:
    """The picture with no label, or with what is `known`."""
    bare = Record(
        record.image_id,
        record.uri,
        record.sha256,
        record.width,
        record.height,
        "train",
        Role.WEAK,
        **known,  # type: ignore[arg-type]
    )
    return Sample(bare, np.asarray(Image.open(root / record.uri)))


def write_boxes(path: Path, records: Sequence[Record]) -> Path:
    """The tight boxes of all masks as a box file."""
    listed = []
    for record in records:
        for instance in record.instances:
            assert instance.rle is not None
            x0, y0, x1, y1 = tight_box(instance.rle) or (0, 0, 1, 1)
            box = [x0, y0, x1 - x0, y1 - y0]
            listed.append({"file_name": record.uri, "category_id": instance.class_id, "bbox": box})
    path.write_text(json.dumps(listed))
    return path


@dataclass(frozen=True)
class Listed:
    """Records as a job sees them."""

    records: Sequence[Record]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


@dataclass
class Attempts:
    """Attempts of one job in `folder`, each with an `out` of its own."""

    folder: Path
    root: Path
    ontology: Ontology = ONTOLOGY
    seed: int = 0
    steps: list[int] = field(default_factory=list)

    def context(self, out: str = "out", *, stop_after: int | None = None) -> TrainContext:
        """`stop_after` so many steps of this attempt it asks to stop."""
        for name in ("work", out):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        done: list[int] = []
        return TrainContext(
            device="cpu",
            ontology=self.ontology,
            images_root=self.root,
            artifacts={},
            seed=self.seed,
            workdir=self.folder / "work",
            out=self.folder / out,
            progress=lambda step, _, note: done.append(step) if note.startswith("loss") else None,
            should_stop=lambda: stop_after is not None and len(done) >= stop_after,
        )


def new_teacher(ontology: Ontology = ONTOLOGY, artifact: Path | None = None, **settings: object) -> AmSam:
    """On a SAM of 64 px with random weights."""
    own = AmSamSettings.model_validate({**SETTINGS, **settings})
    return assembled(own, SamPredictor(build_small_sam()), ontology=ontology, artifact=artifact)


def few(root: Path, count: int = 4, **more: object) -> list[Record]:
    """Pictures from 1 on; `more` as of `shot`."""
    return [shot(i, root, **more) for i in range(1, count + 1)]  # type: ignore[arg-type]


def fit(
    records: Sequence[Record], folder: Path, root: Path, *, ontology: Ontology = ONTOLOGY, **settings: object
) -> tuple[Metrics, dict[str, Tensor]]:
    """What a new teacher's fit tells, and the weights that it leaves in `folder`."""
    context = Attempts(folder, root, ontology).context()
    metrics = new_teacher(ontology, **settings).fit(Listed(records), context)
    return metrics, load_file(context.out / WEIGHTS)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
