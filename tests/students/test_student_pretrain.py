"""What the tiny student learns from before it sees a class, and how its start is scored."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.data.masks import encode
from pipeline.data.records import Instance, Source
from pipeline.toyworld.scene import Scene, render
from pipeline.toyworld.world import classes
from students import pretrain, pretrain_scenes
from students.architecture import build
from students.pretrain_scenes import LEAST_PIXELS, example
from teachers.targets import Example, collate
from teachers.tiny import command, listing
from teachers.tiny.scenes import LEVELS, CachedScene, cached
from teachers.tiny.weights import load_weights


def drawn(index: int) -> CachedScene:
    return cached(render("pretrain", 7, index))


def test_an_example_is_the_named_things_as_they_are_seen() -> None:
    known: list[int] = []
    for index in range(4):
        scene = drawn(index)
        found = example(scene, np.random.default_rng(index))
        again = example(scene, np.random.default_rng(index))
        assert np.array_equal(found.pixels, again.pixels)
        assert np.array_equal(found.masks, again.masks)
        own = [scene.mask(int(row)) for row in np.flatnonzero(scene.class_id)]
        large = [int(mask.sum()) for mask in own if mask.sum() >= LEAST_PIXELS]
        assert found.masks.sum((1, 2)).tolist() == large  # moved as a whole, not resized
        named = [
            int(c) - 1
            for c, mask in zip(scene.class_id[scene.class_id > 0], own, strict=True)
            if mask.sum() >= LEAST_PIXELS
        ]
        assert found.classes.tolist() == named
        assert not (found.ignore & found.masks.any(0)).any()
        clutter = [scene.mask(int(row)) for row in np.flatnonzero(scene.level == LEVELS.index("clutter"))]
        small = [mask for mask in own if mask.sum() < LEAST_PIXELS]
        assert found.ignore.sum() == (np.any([*clutter, *small], axis=0).sum() if clutter or small else 0)
        known += named
    assert len(set(known)) > 3
    assert max(known) < len(classes("pretrain"))


def test_a_scene_is_mirrored_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain_scenes, "_lit", lambda image, _: image)
    scene = drawn(0)
    mirrored = 0
    for seed in range(6):
        found = example(scene, np.random.default_rng(seed))
        same = [(found.pixels == side).all() for side in (scene.image, scene.image[:, ::-1])]
        assert sum(same) == 1
        mirrored += same[1]
    assert 0 < mirrored < 6


def learner() -> pretrain.Learner:
    torch.manual_seed(0)
    model = build("tiny", 1)
    pretrain.begin(model)
    return pretrain.Learner(model).train()


def test_the_rest_learns_on_the_grounders_pyramid() -> None:
    made = learner()
    backbone = made.model.model.pixel_level_module.encoder
    grounder = load_weights(listing.GROUNDER)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert before
    assert all(torch.equal(v, grounder[name.removeprefix("pyramid.")]) for name, v in before.items())
    batch = collate([example(drawn(0), np.random.default_rng(seed)) for seed in range(2)])
    optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(8):
        torch.manual_seed(1)
        parts = made.losses(batch, bf16=False)
        assert set(parts) == {"masks", "names"}
        optimizer.zero_grad()
        torch.autograd.backward(parts["masks"] + parts["names"])
        optimizer.step()
        losses.append((parts["masks"].item(), parts["names"].item()))
    assert losses[-1][0] < 0.9 * losses[0][0]
    assert losses[-1][1] < 0.9 * losses[0][1]
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


class Few:
    """Two scenes, rendered when they are asked for."""

    def __init__(self, _: Path, *, world: str, seed: int, count: int) -> None:
        assert count == 2
        self._scenes = [cached(render(world, seed, index)) for index in range(count)]

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> CachedScene:
        return self._scenes[index]


def stage(folder: Path, *more: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What main() leaves after two steps."""
    few = ["--steps", "2", "--batch", "1", "--count", "2", "--threads", "1"]
    monkeypatch.setattr("sys.argv", ["pretrain", "--workdir", str(folder), *few, *more])
    assert pretrain.main() == 0
    return load_file(folder / "weights.safetensors")


def test_the_first_stage_leaves_the_pyramid_and_the_second_moves_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "SceneCache", Few)
    w1, w2, out = (tmp_path / name for name in ("w1", "w2", "out"))
    torch.manual_seed(0)
    fresh = build("tiny", 1)
    encoder = "model.pixel_level_module.encoder."
    weights = {name for name, _ in fresh.named_parameters()}
    grounder = {encoder + f"pyramid.{name}": value for name, value in load_weights(listing.GROUNDER).items()}
    begun = {name: grounder.get(name, value) for name, value in fresh.state_dict().items()}
    first = stage(w1, monkeypatch=monkeypatch)
    start = str(w1 / "weights.safetensors")
    second = stage(w2, "--seed", "1", "--start", start, monkeypatch=monkeypatch)

    backbone = {name for name in weights if name.startswith(encoder)}
    kept = {name for name in begun if torch.equal(first[name], begun[name])}
    assert backbone
    assert {name for name in begun if name.startswith(encoder)} <= kept
    assert weights - kept
    assert not {name for name in backbone if torch.equal(second[name], first[name])}
    for name, value in second.items():  # and goes on from the first: two steps are small ones
        torch.testing.assert_close(value, first[name], atol=1e-3, rtol=0.01, msg=name)

    capsys.readouterr()
    stage(w2, "--evaluate", "1", "--export", str(out), monkeypatch=monkeypatch)
    score, exported = map(json.loads, capsys.readouterr().out.splitlines())
    facts = listing.read_listing(out)[exported["file"]]
    assert (facts["needs"], facts["steps"], facts["score"]) == ({}, 4, score)
    one, other = str(facts["command"]).split(" && ")
    assert "--workdir W1 --count 2 --steps 2 --batch 1 --lr 0.0015 --muon 3.0 --seed 0" in one
    assert other.endswith("--seed 1 --start W1/weights.safetensors")
    loaded = load_weights(listing.STUDENT, out)
    assert all(torch.equal(loaded[name], value.half().float()) for name, value in second.items())


def test_the_backbone_of_a_second_stage_learns_all_but_its_statistics() -> None:
    torch.manual_seed(0)
    made = pretrain.Learner(build("tiny", 1)).train()
    backbone = made.model.model.pixel_level_module.encoder
    before = {name: value.clone() for name, value in made.named_buffers()}
    batch = collate([example(drawn(0), np.random.default_rng(0))])
    torch.autograd.backward(torch.stack(list(made.losses(batch, bf16=False).values())).sum())
    assert not [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(value, before[name]) for name, value in made.named_buffers())


def test_a_batch_without_things_has_nothing_to_name() -> None:
    empty = np.zeros((0, 256, 256), np.bool_)
    none = Example(
        np.zeros((256, 256, 3), np.uint8),
        empty,
        np.zeros(0, np.int64),
        np.zeros((256, 256), np.bool_),
        np.zeros(0, np.float32),
    )
    assert set(learner().losses(collate([none]), bf16=False)) == {"masks"}


def test_a_step_sees_scenes_of_all_worlds_and_tells_their_names_apart() -> None:
    scenes = {
        world: [cached(render(world, 7, index)) for index in range(4)] for world in pretrain_scenes.FIRST
    }
    steps = pretrain.Steps(
        [(scenes[world], pretrain_scenes.FIRST[world]) for world in pretrain_scenes.SEEN], seed=3, batch=6
    )
    found = steps[5]
    assert torch.equal(found.pixels, steps[5].pixels)
    assert torch.equal(found.masks, steps[5].masks)
    assert not torch.equal(found.pixels, steps[6].pixels)
    border = len(classes(pretrain.WORLD))
    names = torch.cat([steps[step].classes for step in range(3)])
    assert (names < border).any()
    assert (names >= border).any()
    assert names.max() < pretrain_scenes.NAMES == border + len(classes("pretrain"))


def perfect(_: object, scene: Scene) -> list[Instance]:
    """All large objects, and clutter, which is nobody's mistake."""
    return [
        Instance(Source.STUDENT, 1, rle=encode(thing.mask), score=0.9)
        for thing in scene.objects
        if (thing.class_id is not None or thing.level == "clutter") and thing.mask.any()
    ]


def test_the_score_is_that_of_large_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = build("tiny", 1)
    assert pretrain.evaluate(model, scenes=2)["AP50"] < 0.2
    monkeypatch.setattr(pretrain, "_found", perfect)
    assert pretrain.evaluate(model, scenes=2) == {"scenes": 2, "AP50": 1.0, "AP": 1.0}
    monkeypatch.setattr(pretrain, "_found", lambda model, scene: perfect(model, scene)[:1])
    assert 0 < pretrain.evaluate(model, scenes=2)["AP"] < 1
