"""The tiny SAM's pretraining: rendered scenes, batches, losses; that the embedded weights are worth what they say."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from segment_anything.modeling import Sam

from pipeline.toyworld.scene import render
from teachers.tiny import sam_objective as objective
from teachers.tiny import train_sam
from teachers.tiny.evaluate_sam import evaluate
from teachers.tiny.listing import SAM, read_listing
from teachers.tiny.sam import IMAGE_SIZE, PATCH_SIZE, build_tiny_sam
from teachers.tiny.sam_objective import decode, make_batch, mask_losses, sparse_prompts, step_loss, zoomed
from teachers.tiny.scenes import LEVELS, MIN_PIXELS, CachedScene, SceneCache
from teachers.tiny.weights import load_weights

WORLD, SEED, COUNT = "pretrain", 5, 3
GRID = IMAGE_SIZE // PATCH_SIZE
STEP = PATCH_SIZE // 4  # pixels of the image that a low-res one is


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> SceneCache:
    return SceneCache(tmp_path_factory.mktemp("scenes"), world=WORLD, seed=SEED, count=COUNT)


@pytest.fixture
def sam() -> Sam:
    torch.manual_seed(0)
    return build_tiny_sam()


def test_the_cache_holds_the_scenes_as_they_are_rendered(cache: SceneCache) -> None:
    for index in range(COUNT):
        found, scene = cache[index], render(WORLD, SEED, index)
        objects = [o for o in scene.objects if o.mask.sum() >= MIN_PIXELS]
        np.testing.assert_array_equal(found.image, scene.image)
        assert [LEVELS[level] for level in found.level] == [o.level for o in objects]
        for row, thing in enumerate(objects):
            np.testing.assert_array_equal(found.mask(row), thing.mask)
            assert tuple(found.box[row]) == thing.box_xyxy
    with pytest.raises(IndexError, match="scene 3 of 3"):
        cache[COUNT]


def test_a_cache_is_rendered_once(cache: SceneCache) -> None:
    before = {path: path.stat().st_mtime_ns for path in cache.folder.iterdir()}
    again = SceneCache(cache.folder, world=WORLD, seed=SEED, count=COUNT)
    np.testing.assert_array_equal(again[1].image, cache[1].image)
    assert {path: path.stat().st_mtime_ns for path in cache.folder.iterdir()} == before


def test_a_batch_is_a_function_of_seed_and_step(cache: SceneCache, sam: Sam) -> None:
    one, same, other = (make_batch(sam, cache, seed=0, step=step) for step in (3, 3, 4))
    for name in ("images", "masks", "regions", "points", "boxes", "point_on", "box_on"):
        assert torch.equal(getattr(one, name), getattr(same, name))
    assert not torch.equal(one.masks, other.masks)
    assert one.images.shape == (objective.SCENES_PER_STEP, 3, 256, 256)
    assert len(one.masks) == objective.SCENES_PER_STEP * objective.MASKS_PER_SCENE
    assert one.regions.shape == (objective.SCENES_PER_STEP, 2, 4 * GRID, 4 * GRID)


@pytest.mark.parametrize("step", range(4))
def test_the_regions_lie_where_the_masks_do(cache: SceneCache, sam: Sam, step: int) -> None:
    """Turned, mirrored and enlarged alike: where a mask of a whole thing or a part lies, there is a region."""
    batch = make_batch(sam, cache, seed=4, step=step, fine=True)
    masks = batch.masks.unflatten(0, (-1, objective.MASKS_PER_SCENE))[
        :, :, STEP // 2 :: STEP, STEP // 2 :: STEP
    ]
    covered = [
        float((found[1] > 0)[mask].float().mean())
        for own, found in zip(masks, batch.regions, strict=True)
        for mask in own
        if mask.any()
    ]
    assert np.mean([share > 0.9 for share in covered]) > 0.8  # groups hold ground too


@pytest.mark.parametrize("step", range(4))
def test_prompts_lie_on_their_masks(cache: SceneCache, sam: Sam, step: int) -> None:
    batch = make_batch(sam, cache, seed=1, step=step)
    assert (batch.point_on | batch.box_on).all()
    for mask, point, box in zip(batch.masks, batch.points, batch.boxes, strict=True):
        assert mask[int(point[1]), int(point[0])]
        ys, xs = torch.nonzero(mask, as_tuple=True)
        tight = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert (box - tight).abs().max() <= 5


def test_a_fine_batch_has_the_small_masks(
    cache: SceneCache, sam: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective, "ZOOM_SHARE", 0.0)

    def share_of_small(*, fine: bool) -> float:
        drawn = [make_batch(sam, cache, seed=2, step=step, fine=fine).masks for step in range(15)]
        small = torch.cat(drawn).sum((1, 2)) < objective.FULL_WEIGHT_AREA
        return float(small.float().mean())

    assert share_of_small(fine=True) > 1.1 * share_of_small(fine=False)


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


def test_the_loss_falls_on_one_batch(cache: SceneCache, sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "SCENES_PER_STEP", 1)
    batch = make_batch(sam, cache, seed=0, step=0, fine=True)
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
    batch = replace(make_batch(sam, cache, seed=0, step=0), clicks=clicks)
    parts = step_loss(sam, batch)
    assert set(parts) == {"best", "single", "iou", *(f"click_{n + 1}" for n in range(clicks))}
    torch.autograd.backward(torch.stack(list(parts.values())).sum())
    learns = sam.prompt_encoder.mask_downscaling[0].weight.grad is not None
    assert learns == (clicks > 0)
    assert all(torch.isfinite(p.grad).all() for p in sam.parameters() if p.grad is not None)


def test_some_steps_have_corrections(cache: SceneCache, sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "SCENES_PER_STEP", 1)
    drawn = [make_batch(sam, cache, seed=0, step=step).clicks for step in range(40)]
    assert set(drawn) == {0, objective.CLICKS}


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


def test_scenes_without_masks_are_passed_over(cache: SceneCache, sam: Sam) -> None:
    full = cache[0]
    empty = CachedScene(full.image, full.masks[:0], full.class_id[:0], full.level[:0], full.box[:0])

    class HalfEmpty:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> CachedScene:
            return (empty, full)[index]

    batch = make_batch(sam, HalfEmpty(), seed=0, step=0)  # type: ignore[arg-type]
    assert len(batch.masks) == objective.SCENES_PER_STEP * objective.MASKS_PER_SCENE


@pytest.mark.parametrize("seed", range(6))
def test_an_enlarged_part_shows_its_masks(cache: SceneCache, seed: int) -> None:
    scene = cache[seed % COUNT]
    view = zoomed(scene, np.random.default_rng(seed))
    assert view is not None
    image, masks, found = view
    assert found.shape == (2, 256, 256)
    assert (image.shape, masks.shape) == ((256, 256, 3), (objective.MASKS_PER_SCENE, 256, 256))
    assert masks.reshape(len(masks), -1).any(1).all()
    ys, xs = np.nonzero(masks[0])  # the small mask that it was enlarged for is whole and no longer small
    side = max(np.ptp(xs), np.ptp(ys)) + 1
    assert side <= objective.ZOOM_FILL * 256 + 8
    sizes = (scene.box[:, 2:] - scene.box[:, :2]).max(1)
    assert side >= objective.LEAST_ZOOM * sizes.min() - 4


def test_a_scene_of_large_masks_alone_is_not_enlarged(cache: SceneCache) -> None:
    full = cache[0]
    large = np.tile(np.array([[0.0, 0.0, 200.0, 250.0]], np.float32), (len(full.box), 1))
    scene = CachedScene(full.image, full.masks, full.class_id, full.level, large)
    assert zoomed(scene, np.random.default_rng(0)) is None


def test_a_stage_goes_on_from_the_last_ones_weights(
    cache: SceneCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective, "SCENES_PER_STEP", 1)
    monkeypatch.setattr(train_sam, "SceneCache", lambda *_, **__: cache)
    first, second = tmp_path / "first", tmp_path / "second"

    def stage(folder: Path, *more: str) -> dict[str, torch.Tensor]:
        monkeypatch.setattr("sys.argv", ["train", "--workdir", str(folder), "--steps", "1", *more])
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
