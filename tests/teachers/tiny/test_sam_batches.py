"""What the tiny SAM learns from: rendered scenes, masks of every level, prompts that lie on them."""

import numpy as np
import pytest
import torch
from tiny_scenes import COUNT, SEED, WORLD

from pipeline.toyworld.scene import render
from teachers.tiny import sam_batches
from teachers.tiny.sam import IMAGE_SIZE, PATCH_SIZE
from teachers.tiny.sam_batches import Steps, zoomed
from teachers.tiny.scenes import LEVELS, MIN_PIXELS, CachedScene, SceneCache

GRID = IMAGE_SIZE // PATCH_SIZE
STEP = PATCH_SIZE // 4  # pixels of the image that a low-res one is


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


def test_a_batch_is_a_function_of_seed_and_step(cache: SceneCache) -> None:
    one, same, other = (Steps(cache, 0)[step] for step in (3, 3, 4))
    for name in ("images", "masks", "regions", "points", "boxes", "point_on", "box_on"):
        assert torch.equal(getattr(one, name), getattr(same, name))
    assert not torch.equal(one.masks, other.masks)
    assert one.images.shape == (sam_batches.SCENES_PER_STEP, 3, 256, 256)
    assert len(one.masks) == sam_batches.SCENES_PER_STEP * sam_batches.MASKS_PER_SCENE
    assert one.regions.shape == (sam_batches.SCENES_PER_STEP, 2, 4 * GRID, 4 * GRID)


@pytest.mark.parametrize("step", range(4))
def test_the_regions_lie_where_the_masks_do(cache: SceneCache, step: int) -> None:
    """Turned, mirrored and enlarged alike: where a mask of a whole thing or a part lies, there is a region."""
    batch = Steps(cache, 4, fine_from=0)[step]
    masks = batch.masks.unflatten(0, (-1, sam_batches.MASKS_PER_SCENE))[
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
def test_prompts_lie_on_their_masks(cache: SceneCache, step: int) -> None:
    batch = Steps(cache, 1)[step]
    assert (batch.point_on | batch.box_on).all()
    for mask, point, box in zip(batch.masks, batch.points, batch.boxes, strict=True):
        assert mask[int(point[1]), int(point[0])]
        ys, xs = torch.nonzero(mask, as_tuple=True)
        tight = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert (box - tight).abs().max() <= 5


def test_a_fine_batch_has_the_small_masks(cache: SceneCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sam_batches, "ZOOM_SHARE", 0.0)

    def share_of_small(*, fine: bool) -> float:
        drawn = [Steps(cache, 2, fine_from=0 if fine else None)[step].masks for step in range(15)]
        small = torch.cat(drawn).sum((1, 2)) < sam_batches.FULL_WEIGHT_AREA
        return float(small.float().mean())

    assert share_of_small(fine=True) > 1.1 * share_of_small(fine=False)


def test_some_prompts_are_corrected(cache: SceneCache) -> None:
    drawn = [Steps(cache, 0, scenes=1)[step] for step in range(40)]
    both = torch.cat([batch.point_on & batch.box_on for batch in drawn])
    corrected = torch.cat([batch.corrected for batch in drawn])
    assert not (corrected & both).any()
    assert corrected[~both].float().mean().item() == pytest.approx(sam_batches.CORRECTED_SHARE, abs=0.12)


def test_scenes_without_masks_are_passed_over(cache: SceneCache) -> None:
    full = cache[0]
    empty = CachedScene(full.image, full.masks[:0], full.class_id[:0], full.level[:0], full.box[:0])

    class HalfEmpty:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> CachedScene:
            return (empty, full)[index]

    batch = Steps(HalfEmpty(), 0)[0]  # type: ignore[arg-type]
    assert len(batch.masks) == sam_batches.SCENES_PER_STEP * sam_batches.MASKS_PER_SCENE


@pytest.mark.parametrize("seed", range(6))
def test_an_enlarged_part_shows_its_masks(cache: SceneCache, seed: int) -> None:
    scene = cache[seed % COUNT]
    view = zoomed(scene, np.random.default_rng(seed))
    assert view is not None
    image, masks, found = view
    assert found.shape == (2, 256, 256)
    assert (image.shape, masks.shape) == ((256, 256, 3), (sam_batches.MASKS_PER_SCENE, 256, 256))
    assert masks.reshape(len(masks), -1).any(1).all()
    # The small mask that it was enlarged for is there as a whole: one of the scene's, at a scale that all masks share.
    share = masks[0].mean()
    ys, xs = np.nonzero(masks[0])
    side = max(np.ptp(xs), np.ptp(ys)) + 1
    assert side <= sam_batches.ZOOM_FILL * 256 + 8
    sizes = (scene.box[:, 2:] - scene.box[:, :2]).max(1)
    areas = np.bitwise_count(scene.masks).sum(1)
    zooms = side / sizes
    whole = np.isclose(areas * zooms**2, share * 256**2, rtol=0.25)
    assert (whole & (zooms >= sam_batches.LEAST_ZOOM * 0.9) & (zooms <= sam_batches.MOST_ZOOM * 1.1)).any()


def test_a_scene_of_large_masks_alone_is_not_enlarged(cache: SceneCache) -> None:
    full = cache[0]
    large = np.tile(np.array([[0.0, 0.0, 200.0, 250.0]], np.float32), (len(full.box), 1))
    scene = CachedScene(full.image, full.masks, full.class_id, full.level, large)
    assert zoomed(scene, np.random.default_rng(0)) is None


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_drawn_ahead_in_their_order(cache: SceneCache, workers: int) -> None:
    steps = Steps(cache, seed=3, fine_from=5, scenes=2)
    drawn = list(steps.since(4, 7, workers=workers))
    assert [steps.fine(step) for step in (4, 5)] == [False, True]
    for step, found in zip((4, 5, 6), drawn, strict=True):
        same = Steps(cache, 3, fine_from=5, scenes=2)[step]
        for name in ("images", "masks", "regions", "points", "boxes"):
            assert torch.equal(getattr(found, name), getattr(same, name))
        assert found.rng.random() == same.rng.random()


def test_a_batch_is_moved_whole(cache: SceneCache) -> None:
    batch = Steps(cache, 0, scenes=1)[0]
    moved = batch.to(torch.device("meta"))
    tensors = [name for name, value in vars(batch).items() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 8
    assert all(getattr(moved, name).is_meta for name in tensors)
    assert moved.rng is batch.rng
