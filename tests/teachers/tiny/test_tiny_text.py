"""The tiny CLIP and its training: bytes in, a falling loss, crops that lie where they should."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.errors import BadInput
from teachers import text
from teachers.text import load_text
from teachers.tiny import train_text
from teachers.tiny.scenes import CachedScene
from teachers.tiny.text import CONTEXT, END, START, build_tiny_clip, normalise_crops, tokenize


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("car", b"car"),
        ("Traffic_Light", b"traffic light"),
        ("  a   b ", b"a b"),
        ("é", "é".encode()),
        ("x" * 40, b"x" * (CONTEXT - 2)),
    ],
)
def test_tokens(name: str, content: bytes) -> None:
    (row,) = tokenize([name]).tolist()
    assert row[: len(content) + 2] == [START, *content, END]
    assert set(row[len(content) + 2 :]) <= {0}
    assert len(row) == CONTEXT


def test_it_is_small_and_its_end_token_is_the_one_pooled() -> None:
    torch.manual_seed(0)
    clip = build_tiny_clip().eval()
    assert sum(p.numel() for p in clip.parameters()) < 900_000
    assert clip.encode_image(normalise_crops(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))).shape == (2, 64)
    tokens = tokenize(["car"])
    padded = tokens.clone()
    padded[0, -1] = 5  # behind the end: causal attention must not see it
    torch.testing.assert_close(clip.encode_text(tokens), clip.encode_text(padded))
    assert not torch.equal(clip.encode_text(tokens), clip.encode_text(tokenize(["cat"])))


def test_the_embedded_tower_tells_names_apart() -> None:
    vectors = load_text("tiny").encode(["car", "automobile", "star", "Car"])
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > 0.8  # a synonym
    assert likeness[0, 2] < 0.5
    np.testing.assert_array_equal(vectors[0], vectors[3])


def test_missing_weights_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = text.load_weights
    monkeypatch.setattr(text, "load_weights", lambda name: real(name, tmp_path))
    with pytest.raises(BadInput, match="no such file; it lists"):
        load_text("tiny")


def test_a_crop_is_the_square_around_its_box_moved_inside_the_picture() -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3)).copy()
    picture = Image.fromarray(ramp)
    middle = train_text.cut(picture, np.array([100, 40, 132, 104]), 1.0, np.zeros(2))
    assert middle.shape == (64, 64, 3)
    assert (middle[0, 0, 0], middle[0, -1, 0]) == (84, 147)  # 64 wide around x = 116
    corner = train_text.cut(picture, np.array([0, 0, 20, 20]), 1.6, np.zeros(2))
    assert corner[0, -1, 0] == 31  # 32 wide from 0, not from -6


class OneOfEach:
    """Eighteen scenes, one object each: class k is a square of grey level 12 * k."""

    def __len__(self) -> int:
        return 18

    def __getitem__(self, index: int) -> CachedScene:
        image = np.full((256, 256, 3), 12 * (index + 1), np.uint8)
        box = np.array([[20, 20, 80, 80], [0, 0, 5, 90]], np.float32)
        classes, levels = np.array([index + 1, 3]), np.zeros(2, np.int64)
        return CachedScene(image, np.zeros((2, 8192), np.uint8), classes, levels, box)


def test_drawing_gives_every_class_its_label_and_leaves_slivers_out() -> None:
    crops = train_text.Crops(OneOfEach())
    pixels, labels = crops.draw(np.random.default_rng(0), 200)
    assert set(labels.tolist()) == set(range(18))
    expected = 12.0 * (labels + 1)
    assert ((pixels.float().mean((1, 2, 3)) - expected).abs() < 0.2 * expected + 21).all()


def test_the_loss_falls_and_synonyms_meet() -> None:
    torch.manual_seed(0)
    model = build_tiny_clip().train()
    crops = train_text.Crops(OneOfEach())
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for step in range(25):
        rng = np.random.default_rng(step)
        parts = train_text.contrast(model, *crops.draw(rng, 16), rng)
        optimizer.zero_grad()
        torch.autograd.backward(sum(parts.values()))
        optimizer.step()
        losses.append({name: value.item() for name, value in parts.items()})
    assert losses[-1]["to_synonym"] < 0.5 * losses[0]["to_synonym"]
    assert sum(losses[-1].values()) < 0.8 * sum(losses[0].values())
