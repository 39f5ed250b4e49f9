"""Losses of boxes and scores (Liao et al. 2026, appendix A).

Boxes xyxy (..., 4) with positive sides; every loss keeps the leading shape.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 1.5
_TINY = 1e-7


def ciou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 - IoU + rho^2 / c^2 + a v: the centres' distance over the hull's diagonal, unlike shapes (Zheng et al. 2020).

    a is a constant for the gradient, as in the paper's own code.
    """
    sides, true_sides = boxes[..., 2:] - boxes[..., :2], targets[..., 2:] - targets[..., :2]
    low, high = (
        torch.maximum(boxes[..., :2], targets[..., :2]),
        torch.minimum(boxes[..., 2:], targets[..., 2:]),
    )
    inside = (high - low).clamp(min=0).prod(-1)
    iou = inside / (sides.prod(-1) + true_sides.prod(-1) - inside + _TINY)
    hull = torch.maximum(boxes[..., 2:], targets[..., 2:]) - torch.minimum(boxes[..., :2], targets[..., :2])
    apart = (boxes[..., :2] + boxes[..., 2:] - targets[..., :2] - targets[..., 2:]).square().sum(-1) / 4
    angles = _angle(true_sides) - _angle(sides)
    shape = 4 / math.pi**2 * angles.square()
    with torch.no_grad():
        weight = shape / (1 - iou + shape + _TINY)
    return 1 - iou + apart / (hull.square().sum(-1) + _TINY) + weight * shape


def _angle(sides: Tensor) -> Tensor:
    return torch.atan(sides[..., 0] / sides[..., 1].clamp(min=_TINY))


def focal_loss(
    logits: Tensor, targets: Tensor, *, alpha: float = FOCAL_ALPHA, gamma: float = FOCAL_GAMMA
) -> Tensor:
    """-a_t (1 - p_t)^g log p_t for targets in 0..1 (Lin et al. 2017)."""
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    chance = logits.sigmoid()
    wrong = chance * (1 - targets) + (1 - chance) * targets
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    return balance * wrong**gamma * entropy


def holds_pixels(boxes: Tensor, side: int) -> Tensor:
    """Which boxes (N, 4), in pixels of a square of `side`, hold the centre of a pixel at least: (N,) bool."""
    first, end = (boxes.detach().clamp(0, side) - 0.5).ceil().chunk(2, -1)
    return (end > first).all(-1)


def cropped_mask_loss(logits: Tensor, masks: Tensor, boxes: Tensor) -> Tensor:
    """Mean cross-entropy of each mask's pixels inside its box: logits and masks (N, h, w), boxes (N, 4) in their frame.

    A pixel is inside if its centre is; which are is a comparison, so that no gradient goes through the crop. 0 where a
    box holds no pixel's centre (`holds_pixels`): that is no judgement of the mask.
    """
    height, width = logits.shape[-2:]
    y = torch.arange(height, device=logits.device) + 0.5
    x = torch.arange(width, device=logits.device) + 0.5
    x0, y0, x1, y1 = boxes.detach()[..., None].unbind(-2)
    across = (x >= x0) & (x < x1)
    down = (y >= y0) & (y < y1)
    inside = (down[..., :, None] & across[..., None, :]).to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, masks.to(logits.dtype), reduction="none")
    return (entropy * inside).sum((-2, -1)) / inside.sum((-2, -1)).clamp(min=1)
