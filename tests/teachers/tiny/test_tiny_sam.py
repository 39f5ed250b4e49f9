"""The tiny SAM's pretraining: losses, stages."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from segment_anything.modeling import Sam
from torch import nn

from pipeline.data.errors import BadInput
from teachers.tiny import command, train_sam
from teachers.tiny.evaluate_sam import evaluate
from teachers.tiny.sam import IMAGE_SIZE, PATCH_SIZE, build_tiny_sam
from teachers.tiny.sam_batches import Steps
from teachers.tiny.sam_objective import Asked, answer, mask_losses, step_loss
from teachers.tiny.scenes import SceneCache

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


def asked(*, points: int, boxes: int, clicks: int = 0, images: int = 1) -> Asked:
    """Points without boxes, boxes without points, and as many of both, each with so many clicks after them."""
    count, drawn = points + boxes + min(points, boxes), torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, generator=drawn) * 100
    found = Asked(
        image=torch.arange(count) % images,
        points=torch.rand(count, 1, 2, generator=drawn) * 255,
        labels=torch.cat([torch.ones(points), -torch.ones(boxes), torch.ones(min(points, boxes))]).long()[
            :, None
        ],
        boxes=torch.cat([corners, corners + 80], 1),
        box_on=torch.arange(count) >= points,
    )
    for _ in range(clicks):
        click = torch.rand(count, 1, 2, generator=drawn) * 255
        found = found.followed_by(click, torch.zeros(count, 1, dtype=torch.int64))
    return found


@pytest.mark.parametrize("clicks", [0, 2])
@torch.no_grad()
def test_prompts_are_asked_as_sam_itself_asks_them(sam: Sam, clicks: int) -> None:
    """Each alone, by segment-anything's own encoder and decoder, in the form that labelling asks in."""
    embedding = torch.randn(2, 128, GRID, GRID, generator=torch.Generator().manual_seed(1))
    prompts = asked(points=3, boxes=2, clicks=clicks, images=2)
    previous = torch.randn(len(prompts.image), 4 * GRID, 4 * GRID) if clicks else None
    logits, quality = answer(sam, embedding, prompts, previous)
    for row, image in enumerate(prompts.image.tolist()):
        said = prompts.labels[row] >= 0
        said[1:] = True
        points = prompts.points[row][said][None] - 0.5, prompts.labels[row][said][None]
        sparse, dense = sam.prompt_encoder(
            points=points if said.any() else None,
            boxes=prompts.boxes[row][None] - 0.5 if prompts.box_on[row] else None,
            masks=None if previous is None else previous[row][None, None],
        )
        alone, alone_quality = sam.mask_decoder.predict_masks(
            embedding[image][None], sam.prompt_encoder.get_dense_pe(), sparse, dense
        )
        torch.testing.assert_close(logits[row], alone[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(quality[row], alone_quality[0], atol=1e-4, rtol=1e-4)


def test_a_pixel_that_is_half_covered_is_to_be_half_sure() -> None:
    target = torch.full((1, 8, 8), 0.5)
    losses, _ = mask_losses(torch.tensor([-3.0, 0.0, 3.0])[None, :, None, None].expand(1, 3, 8, 8), target)
    assert losses[0, 1] < losses[0, 0]
    assert losses[0, 1] < losses[0, 2]


@torch.no_grad()
def test_fine_features_reach_the_embedding_past_the_blocks(sam: Sam) -> None:
    """One patch's are that patch's own: its neighbours see it through the borders of the stem's convolutions alone."""
    encoder, stem = sam.image_encoder, sam.image_encoder.patch_embed
    stem.layers[1], stem.layers[4] = nn.Identity(), nn.Identity()  # their means are of the whole image
    before = torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    after = before.clone()
    row, column = 5, 9
    after[
        ..., row * PATCH_SIZE : (row + 1) * PATCH_SIZE, column * PATCH_SIZE : (column + 1) * PATCH_SIZE
    ] += 1
    deep = [encoder(image) for image in (before, after)]
    nn.init.normal_(encoder.detail.weight)
    fine = [encoder(image) - blocks for image, blocks in zip((before, after), deep, strict=True)]
    assert fine[0].abs().max() > 0.1
    moved = ((fine[1] - fine[0]).abs().amax((0, 1)) > 1e-4).nonzero().tolist()
    assert moved == [[y, x] for y in (row, row + 1) for x in (column, column + 1)]
    shallow = (stem.shallow(after) - stem.shallow(before)).abs().amax((0, 1))
    assert shallow.shape == (4 * GRID, 4 * GRID)
    border = 1  # the stem sees three pixels further up and left, so one more of its features sees the patch
    moved = (shallow > 1e-6).nonzero().tolist()
    assert moved == [
        [y, x]
        for y in range(4 * row, 4 * row + 4 + border)
        for x in range(4 * column, 4 * column + 4 + border)
    ]


def test_the_loss_falls_on_one_batch(cache: SceneCache, sam: Sam) -> None:
    batch = Steps(cache, 0, fine_from=0, scenes=1)[0]
    optimizer = torch.optim.AdamW(sam.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = torch.stack(list(step_loss(sam, batch, fine=True).values())).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("corrected", [0, 1, 3])
def test_corrections_are_learned_where_a_step_has_them(cache: SceneCache, sam: Sam, corrected: int) -> None:
    batch = Steps(cache, 0)[0]
    batch = replace(batch, corrected=torch.arange(len(batch.masks)) < corrected)
    parts = step_loss(sam, batch)
    assert set(parts) == {"best", "single", "iou", *(("click_1", "click_2") if corrected else ())}
    torch.autograd.backward(torch.stack(list(parts.values())).sum())
    learns = sam.prompt_encoder.mask_downscaling[0].weight.grad is not None
    assert learns == (corrected > 0)
    assert all(torch.isfinite(p.grad).all() for p in sam.parameters() if p.grad is not None)


def test_evaluation_names_its_numbers(sam: Sam) -> None:
    score = evaluate(sam, scenes=2)
    clicked = ("point_best_of_3", "three_clicks", "labelled_three_clicks")
    central = [f"central_{name}" for name in clicked]
    means = ("box", "labelled_box", "ceiling", "point", *clicked, *central)
    assert set(score) == {"objects", "iou_correlation", *means}
    assert all(0 <= score[name] <= 1 for name in means)


def facts_of(folder: Path) -> dict[str, object]:
    with safe_open(folder / "weights.safetensors", framework="pt") as file:
        found: dict[str, object] = json.loads(file.metadata()["origin"])
    return found


def test_a_stage_goes_on_from_the_last_ones_weights(
    cache: SceneCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def scenes(_: Path, *, world: str, seed: int, count: int) -> SceneCache:  # noqa: ARG001 (as the real one)
        asked.append(world)
        return cache

    monkeypatch.setattr(command, "SceneCache", scenes)
    first, second = tmp_path / "first", tmp_path / "second"

    def stage(folder: Path, *more: str) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(
            "sys.argv", ["train", "--workdir", str(folder), "--steps", "1", "--batch", "1", *more]
        )
        assert train_sam.main() == 0
        return load_file(folder / "weights.safetensors")

    made = stage(first, "--muon", "2")
    assert asked == ["pretrain"]
    start = str(first / "weights.safetensors")
    kept = stage(second, "--start", start, "--seed", "1", "--lr", "1e-12", "--worlds", "pretrain", "demo")
    assert asked == ["pretrain", "pretrain", "demo"]
    torch.manual_seed(1)  # what the second stage would have begun with
    fresh = build_tiny_sam().state_dict()
    assert all(torch.allclose(kept[name], made[name], atol=1e-6) for name in made)
    assert not all(torch.allclose(kept[name], fresh[name], atol=1e-6) for name in made)
    facts = facts_of(second)
    assert facts["steps"] == 2
    one, other = str(facts["command"]).split(" && ")
    assert "--workdir W1 " in one
    assert "--muon 2" in one
    assert "--worlds pretrain" in one
    assert "--workdir W2 " in other
    assert "--worlds pretrain demo" in other
    assert other.endswith("--start W1/weights.safetensors")


def test_there_is_nothing_to_score_before_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train", "--workdir", str(tmp_path), "--evaluate"])
    with pytest.raises(BadInput, match="train first"):
        train_sam.main()


def test_the_weights_do_not_depend_on_who_draws_the_batches(
    cache: SceneCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "SceneCache", lambda *_, **__: cache)
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
        assert "--batch 1" in str(facts_of(folder)["command"])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
