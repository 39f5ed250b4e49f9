"""Stand-ins for what no benchmark may download: official models with random weights, in their files, and photos."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pydantic import JsonValue
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
)

from benchmarks.shapes import Shapes
from pipeline.data.records import Category, Instance, Ontology, Origin, Point, Prompt, Record, Role, Source
from pipeline.toyworld.scene import render
from pipeline.toyworld.world import classes
from teachers.grounding import SPECIAL_TOKENS
from teachers.sam.load import BUILDERS

ONTOLOGY = Ontology(tuple(Category(c.id, c.name) for c in classes("demo")))


def sam_settings(variant: str, folder: Path) -> dict[str, JsonValue]:
    """A catalog entry's settings for a SAM of that variant, whose random weights are written to `folder`."""
    settings: dict[str, JsonValue] = {"sam": variant, "zoom": 0.0}
    if variant == "tiny":  # comes with its weights
        return settings
    torch.manual_seed(0)
    path = folder / f"{variant}.safetensors"
    save_file(BUILDERS[variant]().state_dict(), path)
    return settings | {"checkpoint": str(path)}


def grounding_dino(folder: Path, config: GroundingDinoConfig | None = None, *, shortest: int = 800) -> Path:
    """A folder of a Grounding DINO (by default the tiny one as published), its tokenizer made for `ONTOLOGY`."""
    torch.manual_seed(0)
    words = sorted({word for category in ONTOLOGY.categories for word in category.name.lower().split()})
    known = {**SPECIAL_TOKENS, "[PAD]": 0, "[UNK]": 100, "[MASK]": 103}
    known |= {word: 200 + place for place, word in enumerate(words)}
    taken = set(known.values())
    known |= {f"[unused{number}]": number for number in range(1030) if number not in taken}
    config = config or GroundingDinoConfig(text_config=BertConfig(), disable_custom_kernels=True)
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    BertTokenizer(vocab=known).save_pretrained(folder)
    size = {"shortest_edge": shortest, "longest_edge": shortest * 5 // 3}  # 800 and 1333 as published
    GroundingDinoImageProcessor(size=size).save_pretrained(folder)
    return folder


def photos(folder: Path, count: int, size: tuple[int, int]) -> list[Record]:
    """`count` scenes of toyworld as JPEGs of `size` (height, width) in `folder`, and their records without labels."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(1, count + 1):
        scene = Image.open(io.BytesIO(render("demo", 0, number).jpeg))
        path = folder / f"{number}.jpg"
        scene.resize((size[1], size[0]), Image.Resampling.BICUBIC).save(path, quality=92)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        records.append(Record(number, path.name, digest, size[1], size[0], "train", Role.WEAK))
    return records


def masked(record: Record) -> Record:
    """The record with one human mask."""
    rle = Shapes((record.height, record.width), seed=record.image_id).new().rle()
    truth = Instance(Source.HUMAN, ONTOLOGY.ids[0], rle=rle, human_id=1)
    return replace(record, role=Role.HUMAN_MASKED, instances=(truth,))


def boxed(record: Record, count: int) -> Record:
    """The record with so many boxes with classes, as a human gives them."""
    random = np.random.default_rng((record.image_id, count))
    instances = tuple(
        Instance(Source.HUMAN, _class(random), box_xyxy=_box(random, record), human_id=number)
        for number in range(1, count + 1)
    )
    return replace(record, instances=instances)


def clicked(record: Record, count: int) -> Record:
    """The record with so many points with classes, and twice as many proposals."""
    random = np.random.default_rng((record.image_id, count, 1))
    instances = []
    for number in range(1, count + 1):
        x, y = (random.uniform(0.1, 0.9, 2) * (record.width, record.height)).tolist()
        instances.append(Instance(Source.HUMAN, _class(random), points=(Point(x, y),), human_id=number))
    proposals = tuple(
        Prompt(
            Origin.DINO, _box(random, record), class_id=_class(random), score=float(random.uniform(0.1, 1))
        )
        for _ in range(2 * count)
    )
    return replace(record, instances=tuple(instances), proposals=proposals)


def _class(random: np.random.Generator) -> int:
    return int(random.choice(ONTOLOGY.ids))


def _box(random: np.random.Generator, record: Record) -> tuple[float, float, float, float]:
    """A box of a tenth to a third of each side."""
    sides = np.array([record.width, record.height])
    extent = random.uniform(0.1, 0.33, 2) * sides
    corner = random.uniform(0, 1, 2) * (sides - extent)
    x0, y0, x1, y1 = np.concatenate([corner, corner + extent]).round(2).tolist()
    return x0, y0, x1, y1
