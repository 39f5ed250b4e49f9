"""The rasteriser against counting samples one by one."""

import numpy as np
import pytest

from pipeline.toyworld.dice import Dice
from pipeline.toyworld.raster import rasterise
from pipeline.toyworld.shapes import Contour, box, ellipse, hole, poly, radial, ring
from pipeline.toyworld.world import SIZE


def brute_force(contours: list[Contour]) -> np.ndarray:
    """Samples inside, (256, 256) 0..4, by the winding number of every sample centre."""
    centers = (np.arange(2 * SIZE) + 0.5) / 2
    x, y = np.meshgrid(centers, centers)
    winding = np.zeros(x.shape, dtype=int)
    for contour in contours:
        fixed = np.floor(contour * 64 + 0.5) / 64
        for (x0, y0), (x1, y1) in zip(fixed, np.roll(fixed, -1, axis=0), strict=True):
            if y0 == y1:
                continue
            hit = (
                (y >= min(y0, y1))
                & (y < max(y0, y1))
                & (x * (y1 - y0) >= x0 * (y1 - y0) + (y - y0) * (x1 - x0))
            )
            if y1 < y0:
                hit = (y >= y1) & (y < y0) & (x * (y0 - y1) >= x0 * (y0 - y1) + (y0 - y) * (x1 - x0))
            winding[hit] += 1 if y1 < y0 else -1
    inside = (winding > 0).reshape(SIZE, 2, SIZE, 2)
    return inside.sum(axis=(1, 3))


def full(contours: list[Contour]) -> np.ndarray:
    out = np.zeros((SIZE, SIZE), dtype=int)
    patch = rasterise(contours)
    if patch is not None:
        out[patch.crop] = patch.samples
    return out


def random_shapes(seed: int) -> list[Contour]:
    dice = Dice((seed,))
    center = np.array([dice.uniform(-20, 276), dice.uniform(-20, 276)])
    shapes = [poly(*radial(dice, n=dice.between(3, 12), low=5, high=90)) + center for _ in range(2)]
    return [*shapes, hole(ellipse(*center, dice.uniform(1, 30)))]


@pytest.mark.parametrize("seed", range(12))
def test_equals_brute_force(seed: int) -> None:
    shapes = random_shapes(seed)
    assert np.array_equal(full(shapes), brute_force(shapes))


@pytest.mark.parametrize(
    ("contours", "pixels"),
    [
        ([box(10, 20, 14, 25)], 20),
        ([box(-5, -5, 3, 2)], 6),
        ([box(10, 10, 20, 20), box(15, 10, 25, 20)], 150),
        ([box(10, 10, 20, 20), hole(box(12, 12, 14, 14))], 96),
        ([box(10, 10, 20, 20), hole(box(12, 12, 14, 14)), box(12, 12, 13, 14)], 98),
        ([box(0.6, 0.6, 0.7, 0.7)], 0),
        ([box(300, 10, 320, 20)], 0),
        ([box(0, 0, SIZE, SIZE)], SIZE * SIZE),
    ],
)
def test_counts_pixels(contours: list[Contour], pixels: int) -> None:
    patch = rasterise(contours)
    assert (0 if patch is None else int(patch.inside.sum())) == pixels


def test_ring_is_open() -> None:
    covered = full(ring(100, 100, 40, 20))
    assert covered[100, 100] == 0
    assert covered[100, 130] == 4
