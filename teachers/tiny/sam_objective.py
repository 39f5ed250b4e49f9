"""How the tiny SAM's answers are judged: SAM's recipe (Kirillov et al. 2023, App. A), without classes.

The best of the three outputs learns (the ambiguity of a point), output 0 too, from a point without a box less. Losses:
20 focal + dice + IoU regression. Some prompts go on with correction clicks: the mask of the best estimate is a prompt
too, with a click in its error, and output 0 learns. In `fine` steps the focal loss of a mask is a mean over
surroundings in proportion to its own size, as a small one is lost in the mean over the image.
"""

from dataclasses import dataclass, fields, replace

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
LONE_POINT = 0.3  # of output 0's loss where nothing says which of several things a point means
CLICKS = 2  # corrections of a prompt
SURROUNDINGS = 4.0  # of a mask, in its own areas
LEAST_SURROUNDINGS = 64.0  # pixels of the loss


@dataclass(frozen=True)
class Asked:
    """P prompts on B images: `image` (P,), the box (P, 4), and N points (P, N, 2) with labels (P, N).

    `box_on` (P,): whether the box is said. The first point is not if its label is -1; those after it are corrections.
    """

    image: Tensor
    points: Tensor
    labels: Tensor
    boxes: Tensor
    box_on: Tensor

    def followed_by(self, click: Tensor, label: Tensor) -> "Asked":
        """With one more point each: (P, 1, 2) and (P, 1)."""
        points, labels = torch.cat([self.points, click], 1), torch.cat([self.labels, label], 1)
        return replace(self, points=points, labels=labels)

    def only(self, rows: Tensor) -> "Asked":
        """Some of them, by index."""
        own: dict[str, Tensor] = {one.name: getattr(self, one.name)[rows] for one in fields(self)}
        return Asked(**own)


def answer(
    sam: Sam, embedding: Tensor, asked: Asked, previous: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """All four outputs: logits (P, 4, 4g, 4g) and IoU estimates (P, 4).

    `previous` (P, 4g, 4g): logits of the masks to be corrected. Each prompt has the form that SAM's own prompt encoder
    gives it: a point without a box is padded, a box without a point stands alone. Those of as many tokens are decoded
    together.
    """
    alike: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for rows in _forms(asked):
        sparse = _tokens(sam, asked.only(rows))
        alike.setdefault(sparse.shape[1], []).append((rows, sparse))
    order: list[Tensor] = []
    found: list[tuple[Tensor, Tensor]] = []
    for parts in alike.values():
        rows = torch.cat([own for own, _ in parts])
        dense = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        if previous is not None:
            dense = sam.prompt_encoder._embed_masks(previous[rows, None])
        logits, quality = decode_outputs(
            sam.mask_decoder,
            embedding[asked.image[rows]],
            sam.prompt_encoder.get_dense_pe(),
            sparse=torch.cat([sparse for _, sparse in parts]),
            dense=dense,
        )
        order.append(rows)
        found.append((logits.float(), quality.float()))
    home = torch.cat(order).argsort()
    return torch.cat([logits for logits, _ in found])[home], torch.cat([q for _, q in found])[home]


def _forms(asked: Asked) -> list[Tensor]:
    """The rows of points without a box, of boxes without a point, and of both; those that there are."""
    form = 2 * (asked.labels[:, 0] >= 0).long() + asked.box_on.long()
    return [(form == kind).nonzero()[:, 0] for kind in sorted(set(form.tolist()))]


def _tokens(sam: Sam, asked: Asked) -> Tensor:
    """The tokens (P, T, C) of prompts of one form."""
    first = 0 if bool(asked.labels[0, 0] >= 0) else 1
    # Trap: segment-anything adds 0.5 to what it takes for pixel indices; ours are continuous.
    points = asked.points[:, first:] - 0.5, asked.labels[:, first:]
    boxed = bool(asked.box_on[0])
    sparse: Tensor = sam.prompt_encoder(
        points=points if points[1].shape[1] else None, boxes=asked.boxes - 0.5 if boxed else None, masks=None
    )[0]
    return sparse


def mask_losses(logits: Tensor, target: Tensor, *, fine: bool = False) -> tuple[Tensor, Tensor]:
    """Weighted focal + dice for each prompt and output (P, M), and the true IoU (P, M); target (P, S, S) in [0, 1].

    A target's pixel is the share of it that the mask covers: rounded, small masks would be taught too small.
    """
    whole = float(target[0].numel())
    around = (SURROUNDINGS * target.sum((1, 2))).clamp(LEAST_SURROUNDINGS, whole)[:, None]
    target = target[:, None].expand_as(logits)
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = (entropy * (probability - target).square()).sum((2, 3)) / (around if fine else whole)
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
    target = F.interpolate(batch.masks[:, None].float(), size, mode="area")[:, 0]
    asked = Asked(
        image=torch.arange(len(embedding), device=target.device).repeat_interleave(
            len(target) // len(embedding)
        ),
        points=batch.points[:, None],
        labels=torch.where(batch.point_on, 1, -1)[:, None],
        boxes=batch.boxes,
        box_on=batch.box_on,
    )
    logits, quality = answer(sam, embedding, asked)
    losses, iou = mask_losses(_enlarged(logits, size), target, fine=fine)
    rows = torch.arange(len(losses), device=losses.device)
    clear = torch.where(batch.box_on, 1.0, LONE_POINT)
    parts = {
        "best": losses[rows, losses[:, 1:].detach().argmin(1) + 1].mean(),
        "single": (losses[:, 0] * clear).sum() / clear.sum(),
        "iou": F.mse_loss(quality, iou),
    }
    if affinity is not None:
        parts["affinity"] = affinity.loss(embedding, batch.regions)
    chosen = logits[rows, quality[:, 1:].detach().argmax(1) + 1].detach()
    some = batch.corrected.nonzero()[:, 0]
    asked, chosen, target = asked.only(some), chosen[some], target[some]
    for count in range(1, CLICKS + 1 if len(some) else 1):
        asked = asked.followed_by(*random_clicks(chosen, batch.masks[some], batch.rng))
        logits, quality = answer(sam, embedding, asked, chosen)
        losses, iou = mask_losses(_enlarged(logits[:, :1], size), target, fine=fine)
        # As much as the corrected are of all.
        parts[f"click_{count}"] = (losses.sum() + (quality[:, :1] - iou).square().sum()) / len(rows)
        chosen = logits[:, 0].detach()
    return parts


def _enlarged(logits: Tensor, size: int) -> Tensor:
    if logits.shape[-1] == size:
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)
