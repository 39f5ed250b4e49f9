"""Which pixels belong together: what the tiny SAM's encoder is asked beside the masks while it learns.

A plain vision transformer that learns from a few masks an image takes long to see objects at all; this loss has an
answer for every pixel. The head that answers is thrown away after the training. After Liu et al. 2018 (affinity
derivation and graph merge) and Gao et al. 2019 (SSAP).

Legend: B images, g the grid of the embedding, pixels of 4 g x 4 g.
"""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.toyworld.world import SIZE
from teachers.tiny.scenes import LEVELS, CachedScene

MAPS = 2  # of whole things, and of the smallest thing or part that there is
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
DISTANCES = (1, 3, 9)  # pixels of 4 g
OFFSETS = tuple((dy * d, dx * d) for d in DISTANCES for dy, dx in DIRECTIONS)
FINER = 4  # pixels a side that a cell of the grid answers for

Regions = npt.NDArray[np.uint8]


def regions(scene: CachedScene) -> Regions:
    """(2, 256, 256): the number of the whole thing at each pixel, and of the smallest thing or part; 0 is ground."""
    maps = np.zeros((MAPS, SIZE, SIZE), np.uint8)
    large_first = np.argsort(-np.bitwise_count(scene.masks).sum(1), kind="stable")
    for number, row in enumerate(large_first.tolist(), start=1):
        level = LEVELS[int(scene.level[row])]
        if level == "group":
            continue
        mask = scene.mask(row)
        maps[1][mask] = number
        if level != "part":
            maps[0][mask] = number
    return maps


class Affinity(nn.Module):
    """Whether a pixel and its neighbour at each offset are of one region, in both maps, from the embedding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.answer = nn.Conv2d(width, MAPS * len(OFFSETS) * FINER**2, kernel_size=1)

    def loss(self, embedding: Tensor, found: Tensor) -> Tensor:
        """Cross-entropy on regions (B, 2, 4g, 4g), as if half of all pairs were of one; embedding (B, C, g, g)."""
        logits = F.pixel_shuffle(self.answer(embedding.float()), FINER)
        own = logits.reshape(len(logits), MAPS, len(OFFSETS), *logits.shape[-2:])
        pairs = [_pair_loss(own[:, :, index], found, *offset) for index, offset in enumerate(OFFSETS)]
        return torch.stack(pairs).mean()


def _pair_loss(logits: Tensor, found: Tensor, dy: int, dx: int) -> Tensor:
    """Of logits (B, 2, H, W) at one offset; pairs that reach over the edge say nothing."""
    height, width = found.shape[-2:]
    left = max(-dx, 0)
    own = (..., slice(0, height - dy), slice(left, width - max(dx, 0)))
    other = (..., slice(dy, height), slice(left + dx, width - max(dx, 0) + dx))
    same = (found[own] == found[other]).float()
    losses = F.binary_cross_entropy_with_logits(logits[own], same, reduction="none")
    share = same.mean().clamp(0.01, 0.99)
    return (losses * torch.where(same > 0, 0.5 / share, 0.5 / (1 - share))).mean()
