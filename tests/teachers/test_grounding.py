"""Grounding DINO from a folder: the official class gives the same numbers, classes come from token spans."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import small_dino_config
from transformers import BertTokenizer, GroundingDinoForObjectDetection, GroundingDinoImageProcessor

from pipeline.data.errors import BadInput
from pipeline.data.records import Category, Ontology, Origin, Record, Role
from teachers.grounding import GroundingDino, load_grounding_dino
from teachers.grounding_names import token_spans
from teachers.protocols import Sample

WORDS = ("glass", "wine", "car", "##s", "tree", "old", "big")
ONTOLOGY = Ontology(
    (Category(3, "glass"), Category(5, "wine_glass"), Category(7, "cars"), Category(9, "big old tree"))
)
ALL = [3, 5, 7, 9]
# "glass. wine glass. cars. big old tree." with [CLS] first: positions of each name's tokens.
SPANS = {3: [1], 5: [3, 4], 7: [6, 7], 9: [9, 10, 11]}


def vocabulary() -> dict[str, int]:
    """Trap: the model knows [CLS], [SEP], "." and "?" by BERT's own numbers."""
    words = {number: f"[unused{number}]" for number in range(1030)}
    words |= {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
    words |= {200 + i: word for i, word in enumerate(WORDS)}
    return {word: number for number, word in words.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grounding_dino")
    torch.manual_seed(1)
    GroundingDinoForObjectDetection(small_dino_config()).save_pretrained(path)
    BertTokenizer(vocab=vocabulary()).save_pretrained(path)
    GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def proposer(folder: Path) -> GroundingDino:
    return load_grounding_dino(folder, ontology=ONTOLOGY)


def sample(seed: int, height: int, width: int) -> Sample:
    record = Record(seed, f"{seed}.png", "0" * 64, width, height, "train", Role.WEAK)
    return Sample(record, np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def official(folder: Path, image: np.ndarray, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Chances (20, 256) and relative boxes (20, 4), cxcywh, straight from the official classes."""
    model = GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    pixels = GroundingDinoImageProcessor.from_pretrained(folder)(images=[image], return_tensors="pt")
    with torch.no_grad():
        out = model(**pixels, **BertTokenizer.from_pretrained(folder)(text, return_tensors="pt"))
    return out.logits[0].sigmoid().numpy(), out.pred_boxes[0].numpy()


def test_the_same_numbers_as_the_official_class(folder: Path, proposer: GroundingDino) -> None:
    asked = sample(0, 50, 70)
    (prompts,) = proposer.propose([asked], [ALL])
    chances, boxes = official(folder, asked.image, "glass. wine glass. cars. big old tree.")
    scores = np.stack([chances[:, tokens].mean(1) for tokens in SPANS.values()], 1)
    order = np.argsort(-scores.max(1), kind="stable")
    np.testing.assert_allclose([p.score for p in prompts], scores.max(1)[order], atol=1e-6)
    assert [p.class_id for p in prompts] == [list(SPANS)[k] for k in scores.argmax(1)[order]]
    centre, half = boxes[order, :2], boxes[order, 2:] / 2
    corners = np.concatenate([centre - half, centre + half], 1).clip(0, 1) * [70, 50, 70, 50]
    np.testing.assert_allclose([p.box_xyxy for p in prompts], corners, atol=1e-3)
    assert {p.origin for p in prompts} == {Origin.DINO}


def test_a_tokenizer_reads_the_spans_where_the_names_are(proposer: GroundingDino) -> None:
    (caption,) = proposer.captions(proposer._vocabulary.phrases(ALL, None))
    text = proposer._tokenizer(caption.text, return_offsets_mapping=True)
    assert token_spans(caption, text["offset_mapping"]) == list(SPANS.values())


def test_names_beyond_the_limit_go_into_further_captions(folder: Path, proposer: GroundingDino) -> None:
    narrow = load_grounding_dino(folder, ontology=ONTOLOGY)
    narrow._limit = 7
    asked = sample(0, 50, 70)
    (prompts,) = narrow.propose([asked], [ALL])
    texts = [caption.text for caption in narrow.captions(narrow._vocabulary.phrases(ALL, None))]
    assert texts == ["glass. wine glass.", "cars.", "big old tree."]
    assert len(prompts) == 3 * 20
    (alone,) = proposer.propose([asked], [[7]])
    assert [p.score for p in prompts if p.class_id == 7] == [p.score for p in alone]
    assert [p.score for p in prompts] == sorted((p.score for p in prompts), reverse=True)


def test_a_sample_depends_neither_on_its_neighbours_nor_on_what_they_ask(proposer: GroundingDino) -> None:
    first, second = sample(0, 50, 70), sample(1, 64, 40)
    together = proposer.propose([first, second], [[3, 9], ALL])
    assert together == [proposer.propose([first], [[3, 9]])[0], proposer.propose([second], [ALL])[0]]
    assert proposer.propose([first, second], [[], [3]])[0] == []


def test_half_weights_are_computed_in_float32(folder: Path, tmp_path: Path, proposer: GroundingDino) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    half = GroundingDinoForObjectDetection.from_pretrained(folder, dtype=torch.float16)
    half.save_pretrained(tmp_path)
    asked = sample(0, 50, 70)
    (whole,), (found,) = (
        p.propose([asked], [ALL]) for p in (proposer, load_grounding_dino(tmp_path, ontology=ONTOLOGY))
    )
    np.testing.assert_allclose([p.score for p in found], [p.score for p in whole], atol=1e-2)


def test_the_digest_is_checked(folder: Path) -> None:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    load_grounding_dino(folder, ontology=ONTOLOGY, sha256=digest)
    with pytest.raises(BadInput, match=f"sha256 is {digest}, expected 0000"):
        load_grounding_dino(folder, ontology=ONTOLOGY, sha256="0" * 64)


def cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])


def widen(folder: Path) -> None:
    """The configuration of another model."""
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"decoder_ffn_dim": 96}))


def lose_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.text_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


DAMAGE = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors"),
    "cut weights": (cut, "not readable as Grounding DINO"),
    "a tensor less": (lose_a_tensor, "1 tensors are missing, the first model.text_projection.weight"),
    "another config": (widen, "not readable as Grounding DINO: .*(mismatch|shape|size)"),
    "no config": (lambda f: (f / "config.json").unlink(), "not readable as Grounding DINO"),
    "no image processor": (
        lambda f: (f / "preprocessor_config.json").unlink(),
        "not readable as Grounding DINO",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "the model expects .*1012"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder(folder: Path, tmp_path: Path, damage, message: str) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path)
    with pytest.raises(BadInput, match=message):
        load_grounding_dino(tmp_path, ontology=ONTOLOGY)
