"""The two halves and what is drawn of them: disjoint, seeded, features beside their own pixels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from little_pictures import HEIGHT, WIDTH, draw
from small_blo import INDEX, Places, loader, places

from pipeline.data.errors import BadInput
from pipeline.data.masks import encode
from pipeline.data.records import Instance, Record, Role, Source
from pipeline.engine.team import Team
from students.blo_data import Side, halves
from teachers.fit_detector import detector_targets, first_pixels, square_pixels
from teachers.pool import training_images
from teachers.targets import Batch, collate

THING = Instance(Source.HUMAN, 3, rle=encode(np.ones((4, 4), np.bool_)))


def record(index: int, *, empty: bool = False) -> Record:
    found = () if empty else (THING,)
    return Record(index, f"{index}.png", "0" * 64, 4, 4, "train", Role.HUMAN_MASKED, instances=found)


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 1000))
def test_halves_are_disjoint_and_all(count: int, share: float, seed: int) -> None:
    pool = [record(index) for index in range(count)]
    found = halves(pool, share, seed, INDEX)
    assert sorted(found.lower + found.upper) == list(range(count))
    assert found.lower
    assert found.upper
    assert abs(len(found.lower) - share * count) <= 1
    assert found == halves(pool, share, seed, INDEX)


def test_another_seed_makes_another_split() -> None:
    pool = [record(index) for index in range(20)]
    assert len({halves(pool, 0.5, seed, INDEX).lower for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("empty", "share", "message"),
    [
        ([False], 0.5, "expected 2 images or more, one for each level; found 1"),
        ([], 0.5, "found 0"),
        ([True, True, True], 0.5, "none of SAM's 2 images has an object .split 0.5, seed 0."),
        ([False, True, True, True], 0.75, "none of (SAM's|the detector's) [13] images has an object"),
    ],
    ids=["one image", "no image", "no objects", "one half without"],
)
def test_a_level_without_anything_to_learn_is_told(empty: list[bool], share: float, message: str) -> None:
    pool = [record(index, empty=own) for index, own in enumerate(empty)]
    with pytest.raises(BadInput, match=f"blo_inst: .*{message}"):
        halves(pool, share, 0, INDEX)


@given(st.integers(3, 9), st.floats(0.2, 0.8), st.integers(0, 50), st.integers(0, 6))
def test_no_image_of_one_half_is_drawn_of_the_other(count: int, share: float, seed: int, first: int) -> None:
    """By the places alone, over steps of several epochs and both processes of a team."""
    pool = [record(index) for index in range(count)]
    split = halves(pool, share, seed, INDEX)
    seen: list[set[int]] = []
    for part in (split.lower, split.upper):
        own: set[int] = set()
        for rank in range(2):
            upper = part == split.upper
            whole = loader(pool, Path(), seed=seed, team=Team(rank, 2))
            side = Side.of(whole, part, Places(), device="cpu", upper=upper)  # type: ignore[arg-type]
            for step in range(first, first + 2 * count):
                drawn = side.loader.indices(step)[side.loader.team.share(2)]
                own |= {side.places[index] for index in drawn}
                assert [side.loader.pool[index].image_id for index in drawn] == [
                    part[index] for index in drawn
                ]
        seen.append(own)
    assert seen == [set(split.lower), set(split.upper)]


def test_halves_as_long_are_not_drawn_in_one_order() -> None:
    """Or an image of one half would meet the same one of the other for ever."""
    pool = [record(index) for index in range(40)]
    split = halves(pool, 0.5, 0, INDEX)
    whole = loader(pool, Path(), batch=1)
    lower, upper = (
        Side.of(whole, part, Places(), device="cpu", upper=part == split.upper)  # type: ignore[arg-type]
        for part in (split.lower, split.upper)
    )
    met = {(lower.loader.indices(step)[0], upper.loader.indices(step)[0]) for step in range(60)}
    assert len(met) > 40


@pytest.fixture
def pictures(images: Path) -> list[Record]:
    """Five, of which the third is empty."""
    drawn = [draw(index, images) for index in range(5)]
    drawn[2] = replace(drawn[2], instances=())
    return drawn


def alone(pictures: list[Record], images: Path, place: int) -> Batch:
    whole = loader(pictures, images)
    return collate([whole.example(0, 0, pictures[place])])


@pytest.mark.parametrize("team", [Team(), Team(1, 2)], ids=["alone", "second of two"])
def test_pixels_features_and_objects_of_a_step_are_of_the_same_images(
    pictures: list[Record], images: Path, team: Team
) -> None:
    side = Side.of(loader(pictures, images, team=team), (1, 2, 4), Places(), device="cpu")  # type: ignore[arg-type]
    seen = []
    for batch in side.batches(2, 5, threads=1):
        own = places(batch.features)
        assert len(own) == 2 // team.world
        for row, place in enumerate(own):
            expected = alone(pictures, images, place)
            assert torch.equal(batch.pixels[row], square_pixels(expected)[0])
            (targets,) = detector_targets(expected)
            for name in ("boxes", "labels", "weights", "ignored"):
                assert torch.equal(getattr(batch.targets[row], name), getattr(targets, name)), name
            assert batch.masks[row].shape == (len(targets.boxes), 32, 32)
            assert batch.extents[row].tolist() == [64, 48]  # of 128 x 96 pixels
        seen += own
    assert set(seen) <= {1, 2, 4}
    whole = Side.of(loader(pictures, images), (1, 2, 4), Places(), device="cpu")  # type: ignore[arg-type]
    steps = [places(batch.features) for batch in whole.batches(2, 5, threads=1)]
    assert seen == [place for step in steps for place in step[team.share(2)]]


def test_all_of_a_side_in_order(pictures: list[Record], images: Path) -> None:
    side = Side.of(loader(pictures, images), (0, 2, 3, 4), Places(), device="cpu")  # type: ignore[arg-type]
    found = list(side.in_order())
    assert [places(batch.features) for batch in found] == [[0, 2], [3, 4]]
    assert [len(own.boxes) for batch in found for own in batch.targets] == [2, 0, 2, 2]
    assert torch.equal(found[1].pixels[0], square_pixels(alone(pictures, images, 3))[0])
    assert list(Side.of(loader(pictures, images), (), Places(), device="cpu").in_order()) == []  # type: ignore[arg-type]


def test_boxes_are_tight_around_the_masks_of_their_image() -> None:
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, 2, 3] = True
    masks[1, 1:4, 0:8] = True
    masks[2, 5:8, 6:7] = True
    ignore = torch.zeros(3, 8, 8, dtype=torch.bool)
    ignore[2, 0, 0] = True
    batch = Batch(
        torch.zeros(3, 8, 8, 3, dtype=torch.uint8),
        masks,
        torch.tensor([1, 0, 1]),
        (1, 0, 2),
        ignore,
        torch.tensor([1.0, 0.5, 0.25]),
    )
    first, empty, last = detector_targets(batch)
    assert first.boxes.tolist() == [[3, 2, 4, 3]]
    assert last.boxes.tolist() == [[0, 1, 8, 4], [6, 5, 7, 8]]
    assert (first.labels.tolist(), last.labels.tolist()) == ([1], [0, 1])
    assert last.weights.tolist() == [0.5, 0.25]
    assert empty.boxes.shape == (0, 4)
    assert [bool(own.ignored is not None and own.ignored.any()) for own in (first, empty, last)] == [
        False,
        False,
        True,
    ]


def test_squares_are_red_green_blue_in_bytes(pictures: list[Record], images: Path) -> None:
    batch = alone(pictures, images, 0)
    found = square_pixels(batch)
    assert found.shape == (1, 3, 64, 64)
    assert found.dtype == torch.float32
    assert torch.equal(found[0, :, 5, 7], batch.pixels[0, 5, 7].float())
    assert found.max() > 200


def test_first_pixels_are_the_same_in_each_process(pictures: list[Record], images: Path) -> None:
    both = [first_pixels(loader(pictures, images, team=Team(rank, 2)), 3) for rank in range(2)]
    assert torch.equal(*both)
    assert torch.equal(both[0][1], square_pixels(alone(pictures, images, 1))[0])
    assert len(first_pixels(loader(pictures, images), 99)) == 5


def test_the_caches_images_are_the_pools(pictures: list[Record]) -> None:
    found = training_images(pictures)
    assert [(image.image_id, image.uri, image.sha256) for image in found] == [
        (record.image_id, record.uri, record.sha256) for record in pictures
    ]
    assert {(image.height, image.width) for image in found} == {(HEIGHT, WIDTH)}
