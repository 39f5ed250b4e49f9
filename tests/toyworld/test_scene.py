"""Scenes: frozen, pure, with masks that fit together."""

import io
import subprocess
import sys
from collections import Counter
from functools import cache

import numpy as np
import pytest
from PIL import Image

from pipeline.toyworld.digest import FROZEN, scene_digest, world_digest
from pipeline.toyworld.scene import LARGE, SMALL, Scene, render
from pipeline.toyworld.world import SIZE, WORLDS, classes

COUNT = 90


@cache
def scenes(world: str) -> tuple[Scene, ...]:
    return tuple(render(world, 3, i) for i in range(COUNT))


@pytest.mark.parametrize("world", WORLDS)
def test_world_is_frozen(world: str) -> None:
    assert world_digest(world) == FROZEN[world]


@pytest.mark.parametrize("world", WORLDS)
def test_same_arguments_same_scene_in_any_order_and_process(world: str) -> None:
    here = [scene_digest(render(world, 5, i)) for i in (2, 0)]
    code = (
        "from pipeline.toyworld.scene import render; from pipeline.toyworld.digest import scene_digest\n"
        f"for i in (0, 1, 2): print(scene_digest(render({world!r}, 5, i)))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = there.stdout.split()
    assert here == [lines[2], lines[0]]


def test_world_seed_and_index_each_change_the_scene() -> None:
    digests = {
        render(*key).jpeg for key in (("demo", 0, 1), ("demo", 1, 0), ("demo", 0, 0), ("pretrain", 0, 0))
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("world", "seed", "index", "message"),
    [
        ("mars", 0, 0, "unknown world 'mars', expected one of demo, pretrain"),
        ("demo", -1, 0, "seed -1"),
        ("demo", 0, -2, "index -2"),
    ],
)
def test_bad_arguments_are_named(world: str, seed: int, index: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render(world, seed, index)


@pytest.mark.parametrize("world", WORLDS)
def test_image_is_the_decoded_file(world: str) -> None:
    scene = scenes(world)[0]
    assert scene.image.shape == (SIZE, SIZE, 3)
    assert scene.image.dtype == np.uint8
    assert np.array_equal(scene.image, np.asarray(Image.open(io.BytesIO(scene.jpeg))))


@pytest.mark.parametrize("world", WORLDS)
def test_masks_fit_together(world: str) -> None:
    for scene in scenes(world):
        by_id = {o.object_id: o for o in scene.objects}
        assert len(by_id) == len(scene.objects)
        tops = np.zeros((SIZE, SIZE), dtype=np.int64)
        for o in scene.objects:
            assert o.mask.shape == (SIZE, SIZE)
            assert o.mask.dtype == np.bool_
            assert o.box_xyxy == Image.fromarray(o.mask).getbbox()
            area = int(o.mask.sum())
            assert o.size == ("small" if area < SMALL else "large" if area >= LARGE else "medium")
            if o.level in ("whole", "clutter"):
                tops += o.mask
            if o.parent_id is not None:
                assert not (o.mask & ~by_id[o.parent_id].mask).any()
            assert (o.level == "part") <= (o.parent_id is not None)
        assert tops.max() <= 1


@pytest.mark.parametrize("world", WORLDS)
def test_groups_are_the_union_of_their_members(world: str) -> None:
    seen = 0
    for scene in scenes(world):
        for group in (o for o in scene.objects if o.level == "group"):
            members = [o for o in scene.objects if o.parent_id == group.object_id]
            assert {f"group of {o.name}" for o in members} == {group.name}
            assert np.array_equal(group.mask, np.any([o.mask for o in members], axis=0))
            assert group.class_id is None
            seen += 1
    assert seen >= 10


@pytest.mark.parametrize("world", WORLDS)
def test_parts_of_a_class_belong_to_the_wholes_it_names(world: str) -> None:
    part_of = {c.id: c.part_of for c in classes(world)}
    for scene in scenes(world):
        by_id = {o.object_id: o for o in scene.objects}
        for o in scene.objects:
            if o.level != "part" or o.class_id is None:
                continue
            whole = o
            while whole.level == "part":
                assert whole.parent_id is not None
                whole = by_id[whole.parent_id]
            assert whole.name in part_of[o.class_id]


@pytest.mark.parametrize("world", WORLDS)
def test_shadows_lie_on_what_is_behind_and_defocus_splits_by_depth(world: str) -> None:
    shadows = sum(scene.shadow.any() for scene in scenes(world))
    blurs = 0
    for scene in scenes(world):
        depths = np.full((SIZE, SIZE), -1)
        for o in scene.objects:
            if o.level != "group":
                depths[o.mask] = o.depth
        assert set(depths[scene.defocus]).isdisjoint(depths[~scene.defocus])
        blurs += bool(scene.defocus.any())
    assert COUNT * 0.5 < shadows < COUNT * 0.9
    assert COUNT * 0.1 < blurs < COUNT * 0.5


@pytest.mark.parametrize("world", WORLDS)
def test_scenes_are_rich(world: str) -> None:
    annotated = [sum(o.class_id is not None and o.mask.sum() >= 16 for o in s.objects) for s in scenes(world)]
    wholes = [sum(o.level == "whole" for o in s.objects) for s in scenes(world)]
    assert {c.id for c in classes(world)} == {o.class_id for s in scenes(world) for o in s.objects} - {None}
    assert {"whole", "part", "group", "clutter"} == {o.level for s in scenes(world) for o in s.objects}
    assert {"small", "medium", "large"} == {o.size for s in scenes(world) for o in s.objects}
    assert np.mean(wholes) >= 3.5
    assert np.mean(annotated) >= 7
    assert min(wholes) == 0
    assert 8 <= max(wholes) <= 14


@pytest.mark.parametrize("world", WORLDS)
def test_relations_hold(world: str) -> None:
    verbs: Counter[str] = Counter()
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    for scene in scenes(world):
        by_id = {o.object_id: o for o in scene.objects}
        known = set(scene.relations)
        assert len(known) == len(scene.relations)
        for a, verb, b in scene.relations:
            verbs[verb] += 1
            first, second = by_id[a], by_id[b]
            if verb in opposite:
                assert (b, opposite[verb], a) in known
                axis = int(verb in ("above", "below"))
                middle = [(o.box_xyxy[axis] + o.box_xyxy[axis + 2]) / 2 for o in (first, second)]
                assert (middle[0] < middle[1]) == (verb in ("left of", "above"))
            elif verb == "part of":
                assert first.parent_id == b
            else:
                assert first.depth > second.depth
    assert set(verbs) == {*opposite, "part of", "in front of", "inside"}
