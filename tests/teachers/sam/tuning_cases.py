"""Scenes to tune on, and one attempt of a job."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.masks import encode
from pipeline.data.records import (
    Category,
    Instance,
    Ontology,
    Record,
    Role,
    Source,
    WeakKind,
)
from pipeline.data.weak import simulate
from pipeline.engine.context import Metrics, TrainContext
from teachers.identity import ModelIdentity
from teachers.sam.zoom import Zoom
from teachers.settings import ClassAwareSettings

ONTOLOGY = Ontology((Category(3, "disc"), Category(8, "bar")))

SETTINGS = ClassAwareSettings(steps=8, lr=1e-3, batch_size=3, points=64, checkpoint_every=3)

NO_ZOOM = Zoom(0.0, 64)

IDENTITY = ModelIdentity(sam="tiny", sam_sha256="0" * 64, class_aware=True, zoom=0.0)


class TwoNames:
    """A text tower of four numbers a name."""

    def encode(self, names: list[str]) -> np.ndarray:
        return np.array([[len(name), name.count("a"), 1.0, -1.0] for name in names], np.float32) / 4


@dataclass(frozen=True)
class Listed:
    """Records as a job sees them."""

    records: tuple[Record, ...]

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)


def scene(image_id: int, root: Path, *, role: Role = Role.HUMAN_MASKED) -> Record:
    """A bright disc and a dark bar on grey, 48 x 64."""
    rng = np.random.default_rng(image_id)
    y, x = np.mgrid[:48, :64]
    cx, cy = rng.integers(15, 50), rng.integers(15, 30)
    disc = (x - cx) ** 2 + (y - cy) ** 2 < 80
    bar = (abs(y - 40) < 4) & (abs(x - cx) < 12)
    pixels = np.full((48, 64, 3), 120, np.uint8)
    pixels[disc], pixels[bar] = 220, 30
    photo = root / f"{image_id}.png"
    Image.fromarray(pixels).save(photo)
    digest = hashlib.sha256(photo.read_bytes()).hexdigest()
    things = [(3, disc), (8, bar)]
    instances = [
        Instance(Source.HUMAN, class_id, rle=encode(mask), human_id=i)
        for i, (class_id, mask) in enumerate(things)
    ]
    return Record(image_id, photo.name, digest, 64, 48, "train", role, instances=tuple(instances))


@dataclass
class Run:
    """One attempt of a job: its folders, and when it is told to stop."""

    folder: Path
    stop_after: int | None = None
    asked: int = 0

    def should_stop(self) -> bool:
        self.asked += 1
        return self.stop_after is not None and self.asked > self.stop_after

    def context(self, out: str, *, seed: int = 0, root: Path | None = None) -> TrainContext:
        (self.folder / out).mkdir(parents=True)
        (self.folder / "work").mkdir(exist_ok=True)
        return TrainContext(
            device="cpu",
            ontology=ONTOLOGY,
            images_root=root or self.folder,
            artifacts={},
            seed=seed,
            workdir=self.folder / "work",
            out=self.folder / out,
            progress=lambda done, total, note: (
                None if 0 <= done <= total and note else pytest.fail("progress")
            ),
            should_stop=self.should_stop,
        )


Tuned = tuple[Metrics, dict[str, dict[str, torch.Tensor]]]


def equal(a: Mapping[str, Mapping[str, torch.Tensor]], b: Mapping[str, Mapping[str, torch.Tensor]]) -> bool:
    same_keys = a.keys() == b.keys() and all(a[v].keys() == b[v].keys() for v in a)
    return same_keys and all(torch.equal(a[v][name], b[v][name]) for v in a for name in a[v])


def reserved_after(count: int, root: Path) -> list[Record]:
    """`count` training images and one reserved image, so that no fold is made."""
    return [scene(i, root) for i in range(count)] + [scene(count, root, role=Role.RESERVED)]


def weakly(image_id: int, root: Path, kind: WeakKind = WeakKind.BOX) -> Record:
    """A scene of which no more is known than the kind says."""
    return simulate(scene(image_id, root), kind, 0)
