"""The loss of Mask2Former (Cheng et al. 2022, section 3) with ignore regions, which the original does not know.

B images, Q queries, K classes, S side of the canvas, T targets of one image, N of the batch, M matched pairs, P points.
Points are (.., 2) = (x, y) in [0, 1) of the canvas; a point's label is that of the pixel it lies in.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Mask2FormerConfig

from pipeline.data.assignment import assign
from pipeline.engine.team import ALONE, Team
from students.layers import Predictions
from teachers.targets import Batch

# A query is about an ignore region if more than this share of its predicted mask lies in one.
IGNORED_SHARE = 0.5


@dataclass(frozen=True)
class Match:
    """Pair m joins query `query[m]` of image `image[m]` to target `target[m]` of the batch; each (M,) int64."""

    image: Tensor
    query: Tensor
    target: Tensor


@dataclass(frozen=True)
class Share:
    """A process's part of the images of a step: `images` of `counts`, the number of targets of each image of all.

    `weight`: of all their targets together. Points are drawn for all images, and sums divided by what all processes
    have, over their number: so the mean of the processes' losses is the loss of one process that has all images.
    """

    counts: tuple[int, ...]
    images: slice
    weight: float
    team: Team = ALONE

    @classmethod
    def of(cls, batch: Batch, team: Team) -> "Share":
        """That of a batch; all processes of the team ask at once."""
        counts = tuple(team.gather(batch.counts))
        weight = float(team.total(batch.weights.sum()))
        return cls(counts, team.share(len(counts)), weight, team)

    def pairs(self, queries: int) -> tuple[int, slice]:
        """How many pairs all images' assignments make, and which of them are ours."""
        made = [min(count, queries) for count in self.counts]
        first = sum(made[: self.images.start])
        return sum(made), slice(first, first + sum(made[self.images]))


def mask2former_loss(
    outputs: Predictions, batch: Batch, config: Mask2FormerConfig, *, team: Team = ALONE
) -> Tensor:
    """Sum over all layers of 2 x class + 5 x mask + 5 x dice loss (the weights are the configuration's).

    Pixels of ignore regions count in no mask loss, and a query that found an ignore region is not told that it found
    nothing. Draws its points from torch's global generator. In a team each process gets its `Share`'s loss.
    """
    share = Share.of(batch, team)
    points = torch.rand(len(share.counts), config.train_num_points, 2, device=batch.pixels.device)
    points = points[share.images]
    total = batch.pixels.new_zeros((), dtype=torch.float32)
    for class_logits, mask_logits in zip(outputs.class_logits, outputs.mask_logits, strict=True):
        match = match_layer(class_logits, mask_logits, batch=batch, points=points, config=config)
        bce, dice = mask_losses(mask_logits, match, batch=batch, config=config, share=share)
        class_loss = class_losses(
            class_logits, mask_logits, match=match, batch=batch, config=config, team=team
        )
        total = (
            total + config.class_weight * class_loss + config.mask_weight * bce + config.dice_weight * dice
        )
    return total


@torch.no_grad()
def match_layer(
    class_logits: Tensor, mask_logits: Tensor, *, batch: Batch, points: Tensor, config: Mask2FormerConfig
) -> Match:
    """The cheapest assignment of one layer's queries to each image's targets, costs at `points` (B, P, 2)."""
    logits = sample(mask_logits, points[:, :, None, :]).squeeze(-1)  # (B, Q, P)
    weights = (~lookup(batch.ignore, torch.arange(len(points), device=points.device), points)).float()
    pairs: list[tuple[Tensor, Tensor]] = []
    first = 0
    for image, count in enumerate(batch.counts):
        last = first + count
        own = torch.arange(first, last, device=points.device)
        labels = lookup(batch.masks, own, points[image].expand(count, -1, -1)).float()
        cost = _pair_cost(logits[image], labels, weights=weights[image : image + 1], config=config)
        cost -= config.class_weight * class_logits[image].softmax(-1)[:, batch.classes[first:last]]
        table = cost.cpu().numpy()
        if not np.isfinite(table).all():
            raise FloatingPointError("the predictions are not finite; a lower learning rate may help")
        rows, columns = assign(table)
        pairs.append((torch.from_numpy(rows), torch.from_numpy(columns) + first))
        first = last
    image_of = torch.cat([torch.full_like(rows, image) for image, (rows, _) in enumerate(pairs)])
    device = mask_logits.device
    return Match(
        image_of.to(device),
        torch.cat([q for q, _ in pairs]).to(device),
        torch.cat([t for _, t in pairs]).to(device),
    )


def mask_losses(
    mask_logits: Tensor, match: Match, *, batch: Batch, config: Mask2FormerConfig, share: Share | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and dice of the matched masks at points drawn where they are least sure: means over the targets.

    A target counts as much in them as its weight says.
    """
    logits = mask_logits[match.image, match.query][:, None]  # (M, 1, h, w)
    pairs = None if share is None else share.pairs(mask_logits.shape[1])
    points = uncertain_points(logits.detach(), match.image, ignore=batch.ignore, config=config, pairs=pairs)
    values = sample(logits, points[:, :, None, :]).squeeze(-1).squeeze(1)  # (M, P)
    labels = lookup(batch.masks, match.target, points).float()
    weights = (~lookup(batch.ignore, match.image, points)).float()
    bce = F.binary_cross_entropy_with_logits(values, labels, reduction="none") * weights
    bce = bce.sum(1) / weights.sum(1).clamp(min=1)
    inside = values.sigmoid() * weights
    dice = 1 - (2 * (inside * labels).sum(1) + 1) / (inside.sum(1) + (labels * weights).sum(1) + 1)
    trust = batch.weights[match.target]
    weight, world = (float(batch.weights.sum()), 1) if share is None else (share.weight, share.team.world)
    whole = max(weight, 1.0) / world
    return (bce * trust).sum() / whole, (dice * trust).sum() / whole


def class_losses(
    class_logits: Tensor,
    mask_logits: Tensor,
    *,
    match: Match,
    batch: Batch,
    config: Mask2FormerConfig,
    team: Team = ALONE,
) -> Tensor:
    """Weighted mean cross-entropy of all queries: matched ones count as much as their target's weight says.

    Unmatched ones count `no_object_weight`, or 0 on ignored ground.
    """
    no_object = class_logits.shape[-1] - 1
    classes = torch.full(class_logits.shape[:2], no_object, dtype=torch.int64, device=class_logits.device)
    weights = torch.where(on_ignored(mask_logits, batch.ignore), 0.0, config.no_object_weight)
    classes[match.image, match.query] = batch.classes[match.target]
    weights[match.image, match.query] = batch.weights[match.target]
    losses = F.cross_entropy(class_logits.transpose(1, 2), classes, reduction="none")
    whole = team.total(weights.sum()).clamp(min=config.no_object_weight)
    return (losses * weights).sum() / (whole / team.world)


@torch.no_grad()
def on_ignored(mask_logits: Tensor, ignore: Tensor) -> Tensor:
    """Which queries' masks lie mainly in an ignore region, (B, Q) bool, from (B, Q, h, w) and (B, S, S); none empty."""
    region = F.adaptive_avg_pool2d(ignore[:, None].float(), (mask_logits.shape[-2], mask_logits.shape[-1]))[
        :, 0
    ]
    masks = (mask_logits > 0).float()
    inside = torch.einsum("bqhw,bhw->bq", masks, region)
    return inside > IGNORED_SHARE * masks.sum((-2, -1))


@torch.no_grad()
def uncertain_points(
    logits: Tensor,
    image: Tensor,
    *,
    ignore: Tensor,
    config: Mask2FormerConfig,
    pairs: tuple[int, slice] | None = None,
) -> Tensor:
    """P points for each of M masks (M, 1, h, w): most of them the least sure of many random ones, the rest uniform.

    Points in `ignore` (B, S, S) of their `image` (M,) are taken as sure, so all others are chosen before them; without
    ignore regions this is the sampling of Kirillov et al. 2020 (PointRend). `pairs`: the points are drawn for so many
    masks, and these are ours.
    """
    count, device = config.train_num_points, logits.device
    drawn, own = pairs or (len(logits), slice(None))
    candidates = torch.rand(drawn, int(count * config.oversample_ratio), 2, device=device)[own]
    doubt = -sample(logits, candidates[:, :, None, :])[:, 0, :, 0].abs()
    doubt = doubt.masked_fill(lookup(ignore, image, candidates), -torch.inf)
    chosen = doubt.topk(int(count * config.importance_sample_ratio), dim=1).indices
    unsure = candidates.gather(1, chosen[:, :, None].expand(-1, -1, 2))
    uniform = torch.rand(drawn, count - chosen.shape[1], 2, device=device)[own]
    return torch.cat([unsure, uniform], dim=1)


def sample(logits: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of (n, c, h, w) at points (n, p, 1, 2) in [0, 1): (n, c, p, 1)."""
    return F.grid_sample(logits, 2 * points - 1, align_corners=False)


def lookup(masks: Tensor, which: Tensor, points: Tensor) -> Tensor:
    """The pixels of bool masks (k, S, S) that hold points (n, p, 2) of the masks `which` (n,): (n, p) bool."""
    size = masks.shape[-1]
    columns, rows = (points * size).long().clamp_(max=size - 1).unbind(-1)
    flat = rows.mul_(size).add_(columns).add_((which * size * size)[:, None])
    return masks.flatten().take(flat)


def _pair_cost(logits: Tensor, labels: Tensor, *, weights: Tensor, config: Mask2FormerConfig) -> Tensor:
    """Mask and dice cost of each of Q queries (Q, P) with each of T targets (T, P), `weights` (1, P): (Q, T)."""
    points = weights.sum().clamp(min=1)
    kept, rest = labels * weights, (1 - labels) * weights
    bce = (F.softplus(-logits) @ kept.T + F.softplus(logits) @ rest.T) / points
    share = logits.sigmoid()
    dice = 1 - (2 * share @ kept.T + 1) / ((share @ weights.T) + kept.sum(1)[None] + 1)
    return config.mask_weight * bce + config.dice_weight * dice
