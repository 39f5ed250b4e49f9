"""Mask losses: on sampled points (PointRend; Mask2Former; Das et al. 2024: L = 5 * CE + 5 * dice), and of classes.

Shapes: logits (N, h, w); masks (N, H, W); points (N, P, 2) as x, y in [0, 1] of the whole map, where pixel i of w
covers [i/w, (i+1)/w); labels and point logits (N, P).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from teachers.settings import PAPER_POINTS

OVERSAMPLE = 3.0
IMPORTANCE = 0.75
CE_WEIGHT = 5.0
DICE_WEIGHT = 5.0
DICE_SMOOTH = 1e-5  # BLO-SAM's code


@dataclass(frozen=True)
class PointSampling:
    """How many points a mask's loss looks at, and how many of them are sought where the mask is unsure."""

    n_points: int = PAPER_POINTS
    oversample: float = OVERSAMPLE
    importance: float = IMPORTANCE


def point_sample(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of `maps` (N, H, W) at `points` (N, P, 2): (N, P); beyond the border the edge value."""
    grid = points.to(maps.dtype)[:, :, None, :] * 2 - 1
    values = F.grid_sample(maps[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return values[:, 0, :, 0]


@torch.no_grad()
def choose_points(
    logits: Tensor,
    sampling: PointSampling,
    generator: torch.Generator,
    *,
    extent: Tensor | None = None,
    drawn_for: int | None = None,
    own: slice = slice(None),
) -> Tensor:
    """Points (N, P, 2): the most uncertain of an oversampled uniform draw and some uniform ones (PointRend).

    `extent` (N, 2): the part of the map's width and height that holds the image, in (0, 1]; the rest is padding
    and gets no points. `generator` lives on the CPU, so a seed draws the same on every device. Where other processes
    have other masks of the same batch, points are `drawn_for` all of them, and these masks are its `own`.
    """
    count = len(logits) if drawn_for is None else drawn_for
    n_sure = int(sampling.importance * sampling.n_points)
    scale = torch.ones(len(logits), 2) if extent is None else extent.cpu().float()
    drawn = torch.rand(count, int(sampling.n_points * sampling.oversample), 2, generator=generator)[own]
    rest = torch.rand(count, sampling.n_points - n_sure, 2, generator=generator)[own]
    drawn, rest = ((points * scale[:, None, :]).to(logits.device) for points in (drawn, rest))
    uncertainty = -point_sample(logits, drawn).abs()
    best = uncertainty.topk(n_sure, dim=1).indices
    return torch.cat([drawn.gather(1, best[:, :, None].expand(-1, -1, 2)), rest], dim=1)


def mask_losses(point_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and dice (smoothing 1) of each mask at its points: two (N,) tensors, unweighted."""
    cross_entropy = F.binary_cross_entropy_with_logits(point_logits, labels, reduction="none").mean(dim=1)
    inside = point_logits.sigmoid()
    overlap = 2 * (inside * labels).sum(dim=1)
    dice = 1 - (overlap + 1) / (inside.sum(dim=1) + labels.sum(dim=1) + 1)
    return cross_entropy, dice


def weighed(point_logits: Tensor, labels: Tensor) -> Tensor:
    """5 * CE + 5 * dice at the points, mean over the N masks (Das et al. 2024)."""
    cross_entropy, dice = mask_losses(point_logits, labels)
    return (CE_WEIGHT * cross_entropy + DICE_WEIGHT * dice).mean()


def semantic_loss(logits: Tensor, shares: Tensor, known: Tensor, *, dice: float) -> Tensor:
    """(1 - dice) * CE + dice * Dice of classes against each other, as AM-SAM has them (BLO-SAM's code).

    `logits` (B, n, h, w) of n classes, the background among them; `shares` (B, n, h, w): which share of each pixel is
    of which class, summing to 1; `known` (B, h, w) in 0..1: how much of it anything is known of. Dice is the mean over
    all n classes, its sums go over the whole batch, its denominators are squared. Without a known pixel: 0.
    """
    total = known.sum()
    cross_entropy = -(shares * logits.log_softmax(1)).sum(1)
    entropy = (cross_entropy * known).sum() / total.clamp(min=1)
    found, true = logits.softmax(1) * known[:, None], shares * known[:, None]
    across = (0, 2, 3)
    overlap = (found * true).sum(across)
    squares = found.square().sum(across) + true.square().sum(across)
    missed = 1 - (2 * overlap + DICE_SMOOTH) / (squares + DICE_SMOOTH)
    return (1 - dice) * entropy + dice * missed.mean()
