"""Text towers: ours gives what open_clip gives, from a local file only, and says what is wrong with a file."""

import hashlib
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from pipeline.data.errors import BadInput
from teachers.text import TextEncoder, load_text

SMALL = "ViT-small-for-tests"
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> open_clip.CLIP:
    folder = tmp_path_factory.mktemp("configs")
    (folder / f"{SMALL}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder)
    torch.manual_seed(5)
    built: open_clip.CLIP = open_clip.create_model(SMALL).eval()
    return built


@pytest.fixture(scope="module")
def checkpoint(model: open_clip.CLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "open_clip_model.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    return path


def test_the_vectors_are_open_clips_own(model: open_clip.CLIP, checkpoint: Path) -> None:
    ours = load_text(SMALL, checkpoint=checkpoint).encode(["car", "traffic_light"])
    tokens = open_clip.get_tokenizer(SMALL)(["a photo of a car", "a photo of a traffic light"])
    with torch.no_grad():
        theirs = F.normalize(model.encode_text(tokens), dim=-1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


def test_a_pickle_needs_its_digest(model: open_clip.CLIP, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(model.state_dict(), path)
    with pytest.raises(BadInput, match="known sha256"):
        load_text(SMALL, checkpoint=path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_text(SMALL, checkpoint=path, sha256=digest).encode(["car"]).shape == (1, 24)


BAD = {
    "no checkpoint": ("ViT-B-16", None, None, "needs `checkpoint`"),
    "unknown": ("ViT-B-17", "x.safetensors", None, "not an open_clip model.*ViT-B-16"),
    "tokenizer elsewhere": ("ViT-B-16-SigLIP", "x.safetensors", None, "would be downloaded"),
    "missing": (SMALL, "x.safetensors", None, "x.safetensors: no such file"),
    "suffix": (SMALL, "notes.txt", None, "expected a .safetensors"),
    "digest": (SMALL, "cut.safetensors", "0" * 64, "expected 0000"),
    "cut short": (SMALL, "cut.safetensors", None, "cut.safetensors: not readable"),
    "of another model": (SMALL, "other.safetensors", None, "other.safetensors: not readable"),
}


@pytest.mark.parametrize(("name", "file", "sha256", "message"), BAD.values(), ids=BAD)
@pytest.mark.usefixtures("model")
def test_bad_input(
    checkpoint: Path, tmp_path: Path, name: str, file: str | None, sha256: str | None, message: str
) -> None:
    (tmp_path / "notes.txt").write_text("words")
    (tmp_path / "cut.safetensors").write_bytes(checkpoint.read_bytes()[:-100])
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match=message):
        load_text(name, checkpoint=None if file is None else tmp_path / file, sha256=sha256)


def test_each_name_is_computed_once_and_alone() -> None:
    asked: list[str] = []

    def embed(name: str) -> torch.Tensor:
        asked.append(name)
        return torch.full((3,), float(len(name)))

    encoder = TextEncoder(embed)
    assert encoder.encode(["car", "house", "car"]).shape == (3, 3)
    encoder.encode(["house"])
    assert asked == ["car", "house"]
    with pytest.raises(BadInput, match="blank"):
        encoder.encode([" "])
    with pytest.raises(ValueError, match="no names"):
        encoder.encode([])
