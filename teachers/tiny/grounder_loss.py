"""What the tiny grounder is trained to say: task-aligned assignment, quality focal loss, GIoU.

Feng et al. 2021 (TOOD): of the locations inside an object, those whose score and box agree best are its positives, and
the score they should give is their (rescaled) box quality. Li et al. 2020 (GFL): the focal loss for such soft targets.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou_loss

from teachers.tiny.grounder import Found, TinyGrounder

ALPHA, BETA, TOP = 0.5, 6.0, 10  # alignment = score^ALPHA * IoU^BETA; positives an object
FOCUS = 2.0
BOX_WEIGHT = 2.0
_LEAST_HALF = (
    4.5  # pixels: half the least side in which a location counts as inside, so that each object has one
)


@dataclass(frozen=True)
class Target:
    """The objects of one image: `boxes` (G, 4) xyxy in pixels, `names` (G) the index of each one's name."""

    boxes: Tensor
    names: Tensor


def grounding_loss(model: TinyGrounder, found: Found, targets: list[Target]) -> dict[str, Tensor]:
    """Loss of a batch, both parts divided by the batch's sum of target scores (at least 1)."""
    wanted, picked, weights, boxes = [], [], [], []
    for row, target in enumerate(targets):
        scores, owner = assign(
            model.centres, found.boxes[row].detach(), found.logits[row].detach().sigmoid(), target
        )
        wanted.append(scores)
        mine = torch.nonzero(owner >= 0)[:, 0]
        picked.append(found.boxes[row][mine])
        weights.append(scores[mine].amax(1))
        boxes.append(target.boxes[owner[mine]])
    scores = torch.stack(wanted)
    share = scores.sum().clamp(min=1)
    distance = (found.logits.sigmoid() - scores).abs() ** FOCUS
    by_score = distance * F.binary_cross_entropy_with_logits(found.logits, scores, reduction="none")
    by_box = generalized_box_iou_loss(torch.cat(picked), torch.cat(boxes)) * torch.cat(weights)
    return {"score": by_score.sum() / share, "box": BOX_WEIGHT * by_box.sum() / share}


def assign(centres: Tensor, boxes: Tensor, chances: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    """Target scores (N, K) and the object of each location (N), -1 for none.

    `centres` (N, 2), `boxes` (N, 4) and `chances` (N, K) are the network's own, without gradient. A location that
    several objects choose goes to the one it overlaps most.
    """
    owner = torch.full((len(centres),), -1)
    scores = torch.zeros_like(chances)
    if not len(target.boxes):
        return scores, owner
    overlap = box_iou(boxes, target.boxes)
    aligned = chances[:, target.names].pow(ALPHA) * overlap.pow(BETA) * _inside(centres, target.boxes)
    best = aligned.topk(min(TOP, len(centres)), dim=0).indices
    chosen = torch.zeros_like(aligned).scatter_(0, best, 1.0).bool() & (aligned > 0)
    claims = torch.where(chosen, overlap, -1.0)
    taken = torch.nonzero(claims.amax(1) > 0)[:, 0]
    owner[taken] = claims[taken].argmax(1)
    mine = torch.zeros_like(chosen)
    mine[taken, owner[taken]] = True
    kept = torch.where(mine, aligned, 0.0)
    quality = torch.where(mine, overlap, 0.0).amax(0)
    rescaled = kept * quality / kept.amax(0).clamp(min=1e-9)
    scores[taken, target.names[owner[taken]]] = rescaled[taken, owner[taken]]
    return scores, owner


def _inside(centres: Tensor, boxes: Tensor) -> Tensor:
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = ((boxes[:, 2:] - boxes[:, :2]) / 2).clamp(min=_LEAST_HALF)
    return ((centres[:, None] - middle).abs() <= half).all(-1)
