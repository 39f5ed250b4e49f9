"""What the tiny student learns from before it sees a class, and how its start is scored."""

import numpy as np
import pytest
import torch

from pipeline.data.masks import encode
from pipeline.data.records import Instance, Source
from pipeline.toyworld.scene import Scene, render
from students import pretrain
from students.architecture import build
from students.criterion import mask2former_loss
from students.layers import predictions
from students.targets import collate
from teachers.tiny.scenes import LEVELS, CachedScene


def cached(index: int) -> CachedScene:
    scene = render("pretrain", 7, index)
    return CachedScene(
        scene.image,
        np.stack([np.packbits(o.mask) for o in scene.objects]),
        np.array([o.class_id or 0 for o in scene.objects]),
        np.array([LEVELS.index(o.level) for o in scene.objects]),
        np.array([o.box_xyxy for o in scene.objects], np.float32),
    )


def test_an_example_is_whole_objects_as_they_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "SCALE", (1.0, 1.0))
    whole = 0
    for index in range(4):
        scene = cached(index)
        found = pretrain.example(scene, np.random.default_rng(index))
        again = pretrain.example(scene, np.random.default_rng(index))
        assert np.array_equal(found.pixels, again.pixels)
        assert np.array_equal(found.masks, again.masks)
        own = [scene.mask(int(row)) for row in np.flatnonzero(scene.level == LEVELS.index("whole"))]
        areas = sorted(int(mask.sum()) for mask in own if mask.sum() >= pretrain.LEAST_PIXELS)
        assert sorted(found.masks.sum((1, 2)).tolist()) == areas  # moved as a whole, not resized
        assert not (found.ignore & found.masks.any(0)).any()
        clutter = [scene.mask(int(row)) for row in np.flatnonzero(scene.level == LEVELS.index("clutter"))]
        small = [mask for mask in own if mask.sum() < pretrain.LEAST_PIXELS]
        assert found.ignore.sum() == (np.any([*clutter, *small], axis=0).sum() if clutter or small else 0)
        assert not found.classes.any()
        whole += len(areas)
    assert whole > 5


def test_image_and_masks_are_turned_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "_recoloured", lambda image, _: image)
    scene = cached(0)
    lit = scene.mask(int(np.flatnonzero(scene.level == LEVELS.index("whole"))[0]))
    image = np.where(lit[..., None], 255, 0).astype(np.uint8).repeat(3, -1)
    marked = CachedScene(image, np.packbits(lit)[None], scene.class_id[:1], np.array([0]), scene.box[:1])
    for seed in range(8):
        found = pretrain.example(marked, np.random.default_rng(seed))
        if len(found.masks):
            assert ((found.pixels[..., 0] > 192) == found.masks[0]).mean() > 0.98


def test_a_step_of_it_learns() -> None:
    torch.manual_seed(0)
    model = build("tiny", 1).train()
    batch = collate([pretrain.example(cached(0), np.random.default_rng(seed)) for seed in range(2)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        torch.manual_seed(1)
        loss = mask2former_loss(predictions(model, batch.pixels, bf16=False), batch, model.config)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def perfect(_: object, scene: Scene) -> list[Instance]:
    """All large objects, and clutter, which is nobody's mistake."""
    return [
        Instance(Source.STUDENT, 1, rle=encode(thing.mask), score=0.9)
        for thing in scene.objects
        if thing.level in ("whole", "clutter") and thing.mask.any()
    ]


def test_the_score_is_that_of_large_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build("tiny", 1)
    assert pretrain.evaluate(model, scenes=2)["AP50"] < 0.2
    monkeypatch.setattr(pretrain, "_found", perfect)
    assert pretrain.evaluate(model, scenes=2) == {"scenes": 2, "AP50": 1.0, "AP": 1.0}
    monkeypatch.setattr(pretrain, "_found", lambda model, scene: perfect(model, scene)[:1])
    assert 0 < pretrain.evaluate(model, scenes=2)["AP"] < 1
