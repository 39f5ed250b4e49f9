"""The tiny SAM's pretraining: losses, stages; that the embedded weights are worth what they say."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from segment_anything.modeling import Sam

from teachers.tiny import train_sam
from teachers.tiny.evaluate_sam import evaluate
from teachers.tiny.listing import SAM, read_listing
from teachers.tiny.sam import IMAGE_SIZE, PATCH_SIZE, build_tiny_sam
from teachers.tiny.sam_batches import make_batch
from teachers.tiny.sam_objective import decode, mask_losses, sparse_prompts, step_loss
from teachers.tiny.scenes import SceneCache
from teachers.tiny.weights import load_weights

GRID = IMAGE_SIZE // PATCH_SIZE


def test_mask_losses() -> None:
    target = torch.zeros(1, 8, 8)
    target[0, :2, :2] = 1
    right = torch.where(target > 0, 20.0, -20.0)[:, None]
    nothing = torch.full((1, 1, 8, 8), -20.0)
    unsure = torch.zeros(1, 1, 8, 8)
    losses, iou = mask_losses(torch.cat([right, nothing, unsure], dim=1), target)
    dice = 1 - (2 * 2 + 1) / (32 + 4 + 1)
    expected = [0.0, 20 * 20 * 4 / 64 + 1 - 1 / 5, 20 * 0.25 * np.log(2) + dice]
    np.testing.assert_allclose(losses[0], expected, atol=1e-4)
    np.testing.assert_allclose(iou[0], [1, 0, 0], atol=1e-6)


def test_the_fine_loss_of_a_mask_does_not_fall_with_its_share_of_the_image() -> None:
    def missed(side: int, *, fine: bool) -> float:
        """Focal part of the loss of a square that is wholly missed."""
        target = torch.zeros(1, 128, 128)
        target[0, :side, :side] = 1
        dice = 1 - 1 / (side * side + 1)
        return float(mask_losses(torch.full((1, 1, 128, 128), -4.0), target, fine=fine)[0]) - dice

    assert missed(8, fine=True) == pytest.approx(missed(32, fine=True), rel=0.15)
    assert missed(8, fine=False) < 0.1 * missed(32, fine=False)


def test_absent_boxes_leave_no_trace(sam: Sam) -> None:
    points, labels = torch.tensor([[[40.0, 60.0]]]), torch.ones(1, 1)
    one, other = (
        sparse_prompts(sam, points, labels, torch.tensor([box]), torch.tensor([False]))
        for box in ([0.0, 0.0, 9.0, 9.0], [5.0, 5.0, 200.0, 99.0])
    )
    assert torch.equal(one, other)
    there = sparse_prompts(sam, points, labels, torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([True]))
    assert not torch.equal(there, one)


@torch.no_grad()
def test_decoding_keeps_the_prompts_with_their_images(sam: Sam) -> None:
    embedding = torch.randn(2, 128, GRID, GRID)
    sparse = torch.randn(4, 3, 128)
    logits, quality = decode(sam, embedding, sparse)
    alone, alone_quality = decode(sam, embedding[1:], sparse[2:])
    assert (logits.shape, quality.shape) == ((4, 4, 4 * GRID, 4 * GRID), (4, 4))
    torch.testing.assert_close(logits[2:], alone)
    torch.testing.assert_close(quality[2:], alone_quality)


def test_the_loss_falls_on_one_batch(cache: SceneCache, sam: Sam) -> None:
    batch = make_batch(cache, seed=0, step=0, fine=True, scenes=1)
    optimizer = torch.optim.AdamW(sam.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = torch.stack(list(step_loss(sam, batch, fine=True).values())).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("clicks", [0, 2])
def test_corrections_are_learned_where_a_step_has_them(cache: SceneCache, sam: Sam, clicks: int) -> None:
    batch = replace(make_batch(cache, seed=0, step=0), clicks=clicks)
    parts = step_loss(sam, batch)
    assert set(parts) == {"best", "single", "iou", *(f"click_{n + 1}" for n in range(clicks))}
    torch.autograd.backward(torch.stack(list(parts.values())).sum())
    learns = sam.prompt_encoder.mask_downscaling[0].weight.grad is not None
    assert learns == (clicks > 0)
    assert all(torch.isfinite(p.grad).all() for p in sam.parameters() if p.grad is not None)


def test_evaluation_names_its_numbers(sam: Sam) -> None:
    score = evaluate(sam, scenes=2)
    means = ("box", "zoomed_box", "ceiling", "point", "point_best_of_3", "three_clicks")
    assert set(score) == {"objects", "iou_correlation", *means}
    assert all(0 <= score[name] <= 1 for name in means)


def test_the_embedded_weights_are_worth_what_they_say(sam: Sam) -> None:
    listed = read_listing()[f"{SAM}.safetensors"]["score"]
    assert isinstance(listed, dict)
    untrained = evaluate(sam, scenes=2)
    sam.load_state_dict(load_weights(SAM))
    score = evaluate(sam, scenes=8)
    assert score["box"] == pytest.approx(listed["box"], abs=0.1)
    assert score["point_best_of_3"] == pytest.approx(listed["point_best_of_3"], abs=0.1)
    assert score["box"] > 3 * untrained["box"]


def test_a_stage_goes_on_from_the_last_ones_weights(
    cache: SceneCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_sam, "SceneCache", lambda *_, **__: cache)
    first, second = tmp_path / "first", tmp_path / "second"

    def stage(folder: Path, *more: str) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(
            "sys.argv", ["train", "--workdir", str(folder), "--steps", "1", "--batch", "1", *more]
        )
        assert train_sam.main() == 0
        return load_file(folder / "weights.safetensors")

    made = stage(first, "--muon", "2")
    kept = stage(second, "--start", str(first / "weights.safetensors"), "--seed", "1", "--lr", "1e-12")
    fresh = build_tiny_sam().state_dict()
    assert all(torch.allclose(kept[name], made[name], atol=1e-6) for name in made)
    assert not all(torch.allclose(kept[name], fresh[name], atol=1e-6) for name in made)
    facts = json.loads((second / "weights.json").read_text())
    assert facts["steps"] == 2
    assert facts["command"].count("train_sam") == 2
    assert "--muon 2" in facts["command"]
    assert facts["command"].endswith("--start W/weights.safetensors")


def test_the_weights_do_not_depend_on_who_draws_the_batches(
    cache: SceneCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_sam, "SceneCache", lambda *_, **__: cache)
    found = []
    for workers in ("0", "1"):
        folder = tmp_path / workers
        options = [
            "--steps",
            "2",
            "--batch",
            "1",
            "--loss-size",
            "64",
            "--workers",
            workers,
            "--threads",
            "1",
        ]
        monkeypatch.setattr("sys.argv", ["train", "--workdir", str(folder), *options])
        assert train_sam.main() == 0
        found.append(load_file(folder / "weights.safetensors"))
        assert "--batch 1" in json.loads((folder / "weights.json").read_text())["command"]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
