"""The cut for a wanted precision: that it keeps what it can, and that its promise holds."""

import numpy as np
import pytest

from pipeline.data.precision import LEAST_KEPT, best_promise, cut_for, cuts, independent, wilson

Z = 2.3263

ALONE = np.arange(400)  # every mask on an image of its own


@pytest.mark.parametrize(
    ("share", "count", "expected"),
    [(1.0, 10, 10 / (10 + Z**2)), (0.0, 5, 0.0), (0.5, 100, 0.3867), (0.9, 1000, 0.8757)],
)
def test_wilson(share: float, count: int, expected: float) -> None:
    assert wilson(share, count, Z) == pytest.approx(expected, abs=3e-4)


def test_a_cut_keeps_as_many_masks_as_the_precision_allows() -> None:
    said = np.repeat([0.9, 0.7, 0.5, 0.3], 100)
    right = np.concatenate([np.arange(100) % 100 >= wrong for wrong in (2, 10, 40, 90)])
    iou = np.where(right, 0.8, 0.1)
    found = cuts(said, iou, ALONE)
    assert [(cut.quality, cut.kept, cut.right) for cut in found] == [
        (0.9, 0.25, pytest.approx(0.98)),
        (0.7, 0.5, pytest.approx(0.94)),
        (0.5, 0.75, pytest.approx(0.8267, abs=1e-4)),
        (0.0, 1.0, pytest.approx(0.645)),
    ]
    assert all(cut.sure < cut.right for cut in found)
    for wanted, quality in ((0.94, 0.9), (0.91, 0.7), (0.79, 0.5), (0.6, 0.0), (0.97, None)):
        cut = cut_for(wanted, found)
        assert (None if cut is None else cut.quality) == quality
    best = best_promise(found)
    assert best is not None
    assert best.quality == 0.9
    assert cut_for(best.sure + 1e-9, found) is None


def test_a_cut_behind_one_that_cannot_promise_is_not_tried() -> None:
    """Or each further cut would be another chance to find by luck what is not there."""
    said = np.repeat([0.9, 0.5], 200)
    iou = np.where(np.arange(400) % 200 < np.repeat([100, 200], 200), 0.8, 0.1)
    found = cuts(said, iou, ALONE)
    assert [cut.right for cut in found] == [0.5, 0.75]
    assert found[1].sure > 0.7
    assert cut_for(0.7, found) is None
    best = best_promise(found)
    assert best is not None
    assert best == found[0]


def test_more_confidence_keeps_fewer() -> None:
    said = np.repeat([0.9, 0.5], 200)
    iou = np.where(np.arange(400) % 200 < np.repeat([190, 120], 200), 0.8, 0.1)
    kept = []
    for confidence in (0.5, 0.99):
        cut = cut_for(0.75, cuts(said, iou, ALONE, confidence=confidence))
        assert cut is not None
        kept.append(cut.kept)
    assert kept == [1, 0.5]


def test_few_masks_promise_little() -> None:
    said, right = np.linspace(0.5, 0.9, 30), np.ones(30)
    assert cut_for(0.96, cuts(said, right, ALONE[:30])) is None
    found = cut_for(0.94, cuts(said, right, ALONE[:30]))
    assert found is not None
    assert found.kept == 1  # the smaller cuts could not promise it even so, and stand in nobody's way
    assert (
        cut_for(0.5, cuts(said, right, np.zeros(30, np.int64))) is None
    )  # thirty masks of one image are one case
    assert cuts(said[: LEAST_KEPT - 1], right[: LEAST_KEPT - 1], ALONE[: LEAST_KEPT - 1]) == []
    assert best_promise([]) is None


def test_masks_of_an_image_that_are_right_together_count_as_one() -> None:
    rng = np.random.default_rng(0)
    apart = rng.random(10_000) < 0.8
    together = np.repeat(rng.random(1000) < 0.8, 10)
    images = np.repeat(np.arange(1000), 10)
    assert independent(apart, images) == pytest.approx(10_000, rel=0.2)
    assert independent(together, images) == pytest.approx(1000, rel=0.05)
    assert independent(np.ones(50, bool), np.repeat(np.arange(5), 10)) == 5
    assert independent(np.array([True, False]), np.array([7, 7])) == 1


def test_few_images_say_little_of_how_masks_depend() -> None:
    one_wrong_in_each = np.tile(np.arange(10) > 0, 400)
    counts = [
        independent(one_wrong_in_each[: 10 * images], np.repeat(np.arange(images), 10)) / images
        for images in (5, 20, 400)
    ]
    assert counts == [pytest.approx(2.0), pytest.approx(5.75), 10.0]


@pytest.mark.parametrize("images", [5, 12])
def test_a_wrong_mask_promises_no_more_than_none(images: int) -> None:
    said, ids = np.linspace(0.5, 0.9, 8 * images), np.repeat(np.arange(images), 8)
    clean = np.full(8 * images, 0.8)
    spoilt = np.where(np.arange(8 * images) == 0, 0.1, clean)
    for some, every in zip(cuts(said, spoilt, ids), cuts(said, clean, ids), strict=True):
        assert some.sure <= every.sure == every.most < 0.9
    assert cut_for(0.9, cuts(said, spoilt, ids)) is None


@pytest.mark.parametrize(("images", "asked"), [(6, 0.7), (12, 0.7), (12, 0.85), (20, 0.9)])
def test_where_images_are_all_right_or_all_wrong_twice_the_risk_is_not_passed(
    images: int, asked: float
) -> None:
    rng = np.random.default_rng(images)
    ids, broken = np.repeat(np.arange(images), 8), 0
    for _ in range(200):
        right = np.repeat(rng.random(images) < asked - 0.005, 8)
        found = cuts(rng.random(len(ids)), np.where(right, 0.8, 0.2), ids)
        broken += cut_for(asked, found) is not None
    assert 0 < broken <= 0.2 * 200


@pytest.mark.parametrize(
    ("images", "together", "middle"),
    [
        *((6, 0.0, 0.8), (10, 0.0, 0.8), (12, 1.0, 0.8), (15, 1.5, 0.8)),
        *((20, 0.0, 2.0), (20, 1.5, 2.0), (100, 0.0, 2.0), (100, 1.5, 2.0), (400, 1.0, 2.0)),
    ],
)
def test_the_promise_is_kept(images: int, together: float, middle: float) -> None:
    """Of studies with masks that are right with probability about 0.7 or 0.88 whatever is said, few promise more."""
    rng = np.random.default_rng(images)
    ids = np.repeat(np.arange(images), 5)
    logit = middle + 0.35 * together  # keeps the mean
    of_world = rng.normal(size=200_000) * together + logit
    true = float((1 / (1 + np.exp(-of_world))).mean())
    broken = 0
    for _ in range(200):
        chance = 1 / (1 + np.exp(-(np.repeat(rng.normal(size=images), 5) * together + logit)))
        right = rng.random(len(ids)) < chance
        found = cuts(rng.random(len(ids)), np.where(right, 0.8, 0.2), ids)
        broken += cut_for(true + 0.005, found) is not None
    assert broken <= 0.1 * 200
