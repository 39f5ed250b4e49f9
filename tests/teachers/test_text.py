"""Text towers: ours gives what open_clip gives, from a local file only, and says what is wrong with a file."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from pipeline.data.errors import BadInput
from teachers.text import TextEncoder, inspect_text, load_text

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


OWN = "the file's own"
BAD = {
    "no checkpoint": ("ViT-B-16", None, None, "needs `checkpoint`"),
    "unknown": ("ViT-B-17", "x.safetensors", None, "not an open_clip model.*ViT-B-16"),
    "tokenizer elsewhere": ("ViT-B-16-SigLIP", "x.safetensors", None, "would be downloaded"),
    "missing": (SMALL, "x.safetensors", None, "x.safetensors: no such file"),
    "suffix": (SMALL, "notes.txt", None, "expected a .safetensors"),
    "digest": (SMALL, "cut.safetensors", "0" * 64, "expected 0000"),
    "cut short": (SMALL, "cut.safetensors", None, "cut.safetensors: not readable"),
    "of another model": (SMALL, "other.safetensors", None, "other.safetensors: not readable"),
    "of a wider model": (SMALL, "wide.safetensors", None, "wide.safetensors: not readable.*width"),
    "cut pickle": (SMALL, "cut.pt", OWN, "cut.pt: not readable"),
    "hostile pickle": (SMALL, "hostile.pt", OWN, "hostile.pt: not readable"),
    "pickled list": (SMALL, "list.pt", OWN, "list.pt: not readable"),
}


class Hostile:
    """What a pickle does that is not read safely."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return (pytest.fail, ("the pickle ran",))


def bad_files(folder: Path, checkpoint: Path) -> None:
    (folder / "notes.txt").write_text("words")
    whole = load_file(checkpoint)
    (folder / "cut.safetensors").write_bytes(checkpoint.read_bytes()[:-100])
    save_file({"weight": torch.zeros(2)}, folder / "other.safetensors")
    save_file({**whole, "positional_embedding": torch.zeros(77, 17)}, folder / "wide.safetensors")
    torch.save(whole, folder / "whole.pt")
    (folder / "cut.pt").write_bytes((folder / "whole.pt").read_bytes()[:9000])
    torch.save({"x": Hostile()}, folder / "hostile.pt")
    torch.save([1], folder / "list.pt")


@pytest.mark.parametrize("look", [load_text, inspect_text])
@pytest.mark.parametrize(("name", "file", "sha256", "message"), BAD.values(), ids=BAD)
@pytest.mark.usefixtures("model")
def test_bad_input(
    checkpoint: Path,
    tmp_path: Path,
    look: Callable[..., object],
    name: str,
    file: str | None,
    sha256: str | None,
    message: str,
) -> None:
    bad_files(tmp_path, checkpoint)
    path = None if file is None else tmp_path / file
    if path is not None and sha256 == OWN:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(BadInput, match=message):
        look(name, checkpoint=path, sha256=sha256)


def test_a_look_takes_what_loads(checkpoint: Path) -> None:
    inspect_text(SMALL, checkpoint=checkpoint)
    inspect_text("tiny")


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
