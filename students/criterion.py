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
from students.layers import Predictions
from students.targets import Batch

# A query is about an ignore region if more than this share of its predicted mask lies in one.
IGNORED_SHARE = 0.5


@dataclass(frozen=True)
class Match:
    """Pair m joins query `query[m]` of image `image[m]` to target `target[m]` of the batch; each (M,) int64."""

    image: Tensor
    query: Tensor
    target: Tensor


def mask2former_loss(outputs: Predictions, batch: Batch, config: Mask2FormerConfig) -> Tensor:
    """Sum over all layers of 2 x class + 5 x mask + 5 x dice loss (the weights are the configuration's).

    Pixels of ignore regions count in no mask loss, and a query that found an ignore region is not told that it found
    nothing. Draws its points from torch's global generator.
    """
    points = torch.rand(len(batch.counts), config.train_num_points, 2, device=batch.pixels.device)
    total = batch.pixels.new_zeros((), dtype=torch.float32)
    for class_logits, mask_logits in zip(outputs.class_logits, outputs.mask_logits, strict=True):
        match = match_layer(class_logits, mask_logits, batch=batch, points=points, config=config)
        bce, dice = mask_losses(mask_logits, match, batch=batch, config=config)
        class_loss = class_losses(class_logits, mask_logits, match=match, batch=batch, config=config)
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
    mask_logits: Tensor, match: Match, *, batch: Batch, config: Mask2FormerConfig
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and dice of the matched masks at points drawn where they are least sure, over the target count."""
    logits = mask_logits[match.image, match.query][:, None]  # (M, 1, h, w)
    points = uncertain_points(logits.detach(), match.image, ignore=batch.ignore, config=config)
    values = sample(logits, points[:, :, None, :]).squeeze(-1).squeeze(1)  # (M, P)
    labels = lookup(batch.masks, match.target, points).float()
    weights = (~lookup(batch.ignore, match.image, points)).float()
    bce = F.binary_cross_entropy_with_logits(values, labels, reduction="none") * weights
    bce = bce.sum(1) / weights.sum(1).clamp(min=1)
    share = values.sigmoid() * weights
    dice = 1 - (2 * (share * labels).sum(1) + 1) / (share.sum(1) + (labels * weights).sum(1) + 1)
    targets = max(sum(batch.counts), 1)
    return bce.sum() / targets, dice.sum() / targets


def class_losses(
    class_logits: Tensor, mask_logits: Tensor, *, match: Match, batch: Batch, config: Mask2FormerConfig
) -> Tensor:
    """Weighted mean cross-entropy of all queries: unmatched ones count `no_object_weight`, or 0 on ignored ground."""
    no_object = class_logits.shape[-1] - 1
    classes = torch.full(class_logits.shape[:2], no_object, dtype=torch.int64, device=class_logits.device)
    weights = torch.where(on_ignored(mask_logits, batch.ignore), 0.0, config.no_object_weight)
    classes[match.image, match.query] = batch.classes[match.target]
    weights[match.image, match.query] = 1.0
    losses = F.cross_entropy(class_logits.transpose(1, 2), classes, reduction="none")
    return (losses * weights).sum() / weights.sum().clamp(min=config.no_object_weight)


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
def uncertain_points(logits: Tensor, image: Tensor, *, ignore: Tensor, config: Mask2FormerConfig) -> Tensor:
    """P points for each of M masks (M, 1, h, w): most of them the least sure of many random ones, the rest uniform.

    Points in `ignore` (B, S, S) of their `image` (M,) are taken as sure, so all others are chosen before them; without
    ignore regions this is the sampling of Kirillov et al. 2020 (PointRend).
    """
    count, device = config.train_num_points, logits.device
    candidates = torch.rand(len(logits), int(count * config.oversample_ratio), 2, device=device)
    doubt = -sample(logits, candidates[:, :, None, :])[:, 0, :, 0].abs()
    doubt = doubt.masked_fill(lookup(ignore, image, candidates), -torch.inf)
    chosen = doubt.topk(int(count * config.importance_sample_ratio), dim=1).indices
    unsure = candidates.gather(1, chosen[:, :, None].expand(-1, -1, 2))
    uniform = torch.rand(len(logits), count - chosen.shape[1], 2, device=device)
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
