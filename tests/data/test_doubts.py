"""Outlines that cross themselves: as a plain search over all pairs of edges finds them."""

import numpy as np

from pipeline.data import coco_doubts


def test_crossings_are_those_that_a_plain_search_finds() -> None:
    dice = np.random.default_rng(0)
    found = 0
    for count in dice.integers(3, 12, 3000):
        points = dice.integers(0, 12, (count, 2)).astype(float) if count % 2 else dice.random((count, 2)) * 20
        expected = any(_cross(points, i, j) for i in range(count) for j in range(i))
        found += expected
        assert (coco_doubts.crossing(points) is not None) == expected
    assert 500 < found < 2900


def _cross(points: np.ndarray, i: int, j: int) -> bool:
    def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
        return np.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    a, b, c, d = points[i], points[(i + 1) % len(points)], points[j], points[(j + 1) % len(points)]
    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


def test_an_outline_without_end_is_not_searched() -> None:
    comb = np.array([[x, y] for n in range(1500) for x, y in ((0, n), (500, n + 0.5))], float)
    assert coco_doubts.crossing(comb) is None
