"""Random numbers that are the same on every machine: PCG64 bits turned into uniforms and picks, nothing else.

Trap: `normal()`, `exp()` and other transcendental draws may differ in the last bit between processors.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")


class Dice:
    """A stream of draws fixed by `key`, a list of non-negative integers."""

    def __init__(self, key: Sequence[int]) -> None:
        self._rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(key))))

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return low + (high - low) * float(self._rng.random())

    def log_uniform(self, low: float, high: float) -> float:
        """A float in [low, high) whose logarithm is uniform."""
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def below(self, n: int) -> int:
        """An int in [0, n)."""
        return min(int(float(self._rng.random()) * n), n - 1)

    def between(self, low: int, high: int) -> int:
        """An int in [low, high], both ends included."""
        return low + self.below(high - low + 1)

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return float(self._rng.random()) < p

    def pick(self, items: Sequence[T]) -> T:
        """One item, each equally likely."""
        return items[self.below(len(items))]

    def weighted(self, items: Sequence[T], weights: Sequence[float]) -> T:
        """One item, likely in proportion to its weight."""
        left = self.uniform(0.0, math.fsum(weights))
        for item, weight in zip(items, weights, strict=True):
            left -= weight
            if left < 0:
                return item
        return items[-1]

    def angle(self) -> float:
        """Radians in [-pi, pi)."""
        return self.uniform(-math.pi, math.pi)

    def bytes(self, *shape: int) -> npt.NDArray[np.uint8]:
        """A uint8 array of the given shape, uniform on 0..255."""
        return self._rng.integers(0, 256, size=shape, dtype=np.uint8)
