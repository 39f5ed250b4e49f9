"""How the tiny SAM's answers are judged: SAM's recipe (Kirillov et al. 2023, App. A), without classes.

The best of the three outputs learns (the ambiguity of a point), output 0 always learns. Losses: 20 focal + dice + IoU
regression. Some steps go on with correction clicks: the mask of the best estimate is a prompt too, with a click in its
error, and output 0 learns. In `fine` steps the focal loss of a mask is a mean over surroundings in proportion to its
own size, as a small one is lost in the mean over the image.
"""

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from teachers.sam.decode import decode_outputs
from teachers.tiny.affinity import Affinity
from teachers.tiny.clicks import random_clicks
from teachers.tiny.sam_batches import StepBatch

LOSS_SIZE = 128  # unless the training says otherwise
FOCAL_WEIGHT = 20.0  # Kirillov et al. 2023: focal to dice 20:1
FINE_FOCAL_WEIGHT = 1.0  # more of it, and what is uncertain is left out: a small mask then vanishes
SURROUNDINGS = 4.0  # of a mask, in its own areas
LEAST_SURROUNDINGS = 64.0  # pixels of the loss


def sparse_prompts(sam: Sam, points: Tensor, labels: Tensor, boxes: Tensor, box_on: Tensor) -> Tensor:
    """Tokens (P, N + 2, C) of N points (label -1 = none) and a box, absent where `box_on` is false."""
    encoder = sam.prompt_encoder
    # Trap: segment-anything adds 0.5 to what it takes for pixel indices; ours are continuous.
    tokens = encoder._embed_points(points - 0.5, labels, pad=False)
    corners = encoder._embed_boxes(boxes - 0.5)
    absent = encoder.not_a_point_embed.weight.expand_as(corners)
    return torch.cat([tokens, torch.where(box_on[:, None, None], corners, absent)], dim=1)


def decode(
    sam: Sam, embedding: Tensor, sparse: Tensor, previous: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """All four outputs: logits (P, 4, 4g, 4g) and IoU estimates (P, 4), for K prompts an image, image-major.

    `previous` (P, 4g, 4g): logits of the masks to be corrected.
    """
    encoder = sam.prompt_encoder
    if previous is None:
        dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    else:
        dense = encoder._embed_masks(previous[:, None])
    features = embedding.repeat_interleave(len(sparse) // len(embedding), 0)
    logits, quality = decode_outputs(
        sam.mask_decoder, features, encoder.get_dense_pe(), sparse=sparse, dense=dense
    )
    return logits.float(), quality.float()


def mask_losses(logits: Tensor, target: Tensor, *, fine: bool = False) -> tuple[Tensor, Tensor]:
    """Weighted focal + dice for each prompt and output (P, M), and the true IoU (P, M); target (P, S, S) in {0, 1}."""
    whole = float(target[0].numel())
    around = (SURROUNDINGS * target.sum((1, 2))).clamp(LEAST_SURROUNDINGS, whole)[:, None]
    target = target[:, None].expand_as(logits)
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = probability * (1 - target) + (1 - probability) * target
    focal = (entropy * wrong.square()).sum((2, 3)) / (around if fine else whole)
    overlap = (probability * target).sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (probability.sum((2, 3)) + target.sum((2, 3)) + 1)
    hard = logits.detach() > 0
    inside = (hard & (target > 0.5)).sum((2, 3))
    iou = inside / ((hard | (target > 0.5)).sum((2, 3)) + 1e-6)
    return (FINE_FOCAL_WEIGHT if fine else FOCAL_WEIGHT) * focal + dice, iou


def step_loss(
    sam: Sam,
    batch: StepBatch,
    *,
    affinity: Affinity | None = None,
    fine: bool = False,
    size: int = LOSS_SIZE,
) -> dict[str, Tensor]:
    """Named losses of one step, on masks of `size` x `size`: beyond 4g a border may lie between the logits' centres."""
    embedding = sam.image_encoder((batch.images - sam.pixel_mean) / sam.pixel_std).float()
    target = F.interpolate(batch.masks[:, None].float(), size, mode="area")[:, 0].gt(0.5).float()
    points, labels = batch.points[:, None], torch.where(batch.point_on, 1, -1)[:, None]
    sparse = sparse_prompts(sam, points, labels, batch.boxes, batch.box_on)
    logits, quality = decode(sam, embedding, sparse)
    losses, iou = mask_losses(_enlarged(logits, size), target, fine=fine)
    rows = torch.arange(len(losses), device=losses.device)
    parts = {
        "best": losses[rows, losses[:, 1:].detach().argmin(1) + 1].mean(),
        "single": losses[:, 0].mean(),
        "iou": F.mse_loss(quality, iou),
    }
    if affinity is not None:
        parts["affinity"] = affinity.loss(embedding, batch.regions)
    chosen = logits[rows, quality[:, 1:].detach().argmax(1) + 1].detach()
    for count in range(1, batch.clicks + 1):
        click, label = random_clicks(chosen, batch.masks, batch.rng)
        points, labels = torch.cat([points, click], 1), torch.cat([labels, label], 1)
        sparse = sparse_prompts(sam, points, labels, batch.boxes, batch.box_on)
        logits, quality = decode(sam, embedding, sparse, chosen)
        losses, iou = mask_losses(_enlarged(logits[:, :1], size), target, fine=fine)
        parts[f"click_{count}"] = losses.mean() + F.mse_loss(quality[:, :1], iou)
        chosen = logits[:, 0].detach()
    return parts


def _enlarged(logits: Tensor, size: int) -> Tensor:
    if logits.shape[-1] == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)
