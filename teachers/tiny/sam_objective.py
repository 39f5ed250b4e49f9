"""What the tiny SAM learns from: SAM's recipe (Kirillov et al. 2023, App. A) on masks of every level, without classes.

Each step: 8 scenes, 4 masks each; the prompt is a point, a jittered box or both; the best of the three outputs learns
(the ambiguity of a point), output 0 always learns. Losses: 20 focal + dice + IoU regression. Some steps
go on with correction clicks: the mask of the best estimate is a prompt too, with a click in its error, and output 0
learns.

A training begins with the large masks and ends `fine`: masks of all sizes are drawn alike, half the images are enlarged
parts of a scene, and the focal loss of a mask is a mean over surroundings in proportion to its own size, as a small one
is lost in the mean over the image.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from segment_anything.modeling import Sam
from torch import Tensor

from teachers.sam.decode import decode_outputs
from teachers.tiny.affinity import FINER, Affinity, Regions, regions
from teachers.tiny.clicks import random_clicks
from teachers.tiny.recipe import step_rng
from teachers.tiny.sam import IMAGE_SIZE, PATCH_SIZE
from teachers.tiny.scenes import CachedScene, SceneCache

SCENES_PER_STEP = 8
MASKS_PER_SCENE = 4
LOSS_SIZE = 128  # unless the training says otherwise
FOCAL_WEIGHT = 20.0  # Kirillov et al. 2023: focal to dice 20:1
BOX_JITTER = 0.1  # standard deviation as a share of the side, at most 20 pixels at 1024 (5 at 256)
POINT_SHARE, BOX_SHARE = 0.45, 0.35  # of the prompts; the rest is both
CLICKS, CORRECTED_SHARE = 2, 0.3  # corrections after the prompt, and in what share of the steps
FULL_WEIGHT_AREA = 100.0  # pixels; smaller masks are drawn less often at first
FINE_FOCAL_WEIGHT = 1.0  # more of it, and what is uncertain is left out: a small mask then vanishes
SURROUNDINGS = 4.0  # of a mask, in its own areas
LEAST_SURROUNDINGS = 64.0  # pixels of the loss
ZOOM_SHARE = 0.5  # of the images of a fine batch
LEAST_ZOOM, MOST_ZOOM = 1.5, 5.0
ZOOM_FILL = 0.7  # the most of the enlarged image that its mask's box may fill
LEAST_SEEN = 0.5  # share of a mask that must lie in the enlarged part
_FINE = PATCH_SIZE // FINER  # pixels of the image that one of the regions' is
LEVEL_WEIGHT = np.array([3.0, 1.0, 3.0, 1.0])  # whole, part, group, clutter: a whole has several parts

# An image (H, W, 3), masks on it (K, H, W), and its regions (2, H, W).
Masked = tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], Regions]


@dataclass(frozen=True)
class StepBatch:
    """images (B, 3, 256, 256) normalised; masks (B*K, 256, 256) bool; points (B*K, 2) and boxes (B*K, 4) pixels.

    `regions` (B, 2, 4g, 4g), g the grid: which pixels belong together (`affinity.regions`).
    `point_on` and `box_on` (B*K,) say which of the two are the prompt; `clicks`: so many corrections follow, drawn from
    `rng`.
    """

    images: Tensor
    masks: Tensor
    regions: Tensor
    points: Tensor
    boxes: Tensor
    point_on: Tensor
    box_on: Tensor
    clicks: int
    rng: np.random.Generator


def make_batch(sam: Sam, cache: SceneCache, *, seed: int, step: int, fine: bool = False) -> StepBatch:
    """The batch of one step; a pure function of (cache, seed, step, fine)."""
    rng = step_rng(seed, step)
    images: list[npt.NDArray[np.float32]] = []
    masks: list[npt.NDArray[np.bool_]] = []
    found: list[Regions] = []
    while len(images) < SCENES_PER_STEP:
        scene = cache[int(rng.integers(len(cache)))]
        if len(scene.masks) == 0:
            continue
        view = zoomed(scene, rng) if fine and rng.random() < ZOOM_SHARE else None
        if view is None:
            rows = _choose(scene, rng, fine=fine)
            view = scene.image, np.stack([scene.mask(int(row)) for row in rows]), regions(scene)
        image, chosen, within = _augment(*view, rng)
        images.append(image)
        masks.append(chosen)
        found.append(within[:, _FINE // 2 :: _FINE, _FINE // 2 :: _FINE])
    stacked = np.concatenate(masks)
    points = np.stack([_random_pixel(mask, rng) for mask in stacked])
    boxes = np.stack([_jittered_box(mask, rng) for mask in stacked])
    kind = torch.from_numpy(rng.random(len(stacked)))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    return StepBatch(
        images=(pixels - sam.pixel_mean) / sam.pixel_std,
        masks=torch.from_numpy(stacked),
        regions=torch.from_numpy(np.stack(found)),
        points=torch.from_numpy(points),
        boxes=torch.from_numpy(boxes),
        point_on=(kind < POINT_SHARE) | (kind >= POINT_SHARE + BOX_SHARE),
        box_on=kind >= POINT_SHARE,
        clicks=CLICKS if rng.random() < CORRECTED_SHARE else 0,
        rng=rng,
    )


def _choose(scene: CachedScene, rng: np.random.Generator, *, fine: bool) -> npt.NDArray[np.int64]:
    count = len(scene.masks)
    weight = LEVEL_WEIGHT[scene.level]
    if not fine:
        weight = weight * (np.bitwise_count(scene.masks).sum(1) / FULL_WEIGHT_AREA).clip(0.1, 1)
    return rng.choice(count, MASKS_PER_SCENE, replace=count < MASKS_PER_SCENE, p=weight / weight.sum())


def zoomed(scene: CachedScene, rng: np.random.Generator) -> Masked | None:
    """A square part of a scene around one of its small masks, enlarged to the full size, and masks on it.

    None if no mask is small enough to be enlarged.
    """
    sides = (scene.box[:, 2:] - scene.box[:, :2]).max(1)
    small = np.flatnonzero(sides * LEAST_ZOOM <= ZOOM_FILL * IMAGE_SIZE)
    if not len(small):
        return None
    target = int(rng.choice(small))
    most = min(MOST_ZOOM, ZOOM_FILL * IMAGE_SIZE / max(float(sides[target]), 1.0))
    side = round(IMAGE_SIZE / float(rng.uniform(LEAST_ZOOM, most)))
    low = _window(scene.box[target], side, rng)
    x, y = int(low[0]), int(low[1])
    inside = [row for row in range(len(scene.masks)) if _is_seen(scene.mask(row), x, y, side)]
    others = rng.choice(inside, MASKS_PER_SCENE - 1, replace=len(inside) < MASKS_PER_SCENE - 1)
    masks = [scene.mask(row)[y : y + side, x : x + side] for row in (target, *others.tolist())]
    large = [_resized(mask.astype(np.uint8) * 255) >= 128 for mask in masks]
    within = [_resized(one[y : y + side, x : x + side], Image.Resampling.NEAREST) for one in regions(scene)]
    return _resized(scene.image[y : y + side, x : x + side]), np.stack(large), np.stack(within)


def _window(box: npt.NDArray[np.float32], side: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """The corner of a random window of the scene that holds the box."""
    least = np.ceil(box[2:] - side).clip(0, IMAGE_SIZE - side)
    most = np.floor(box[:2]).clip(0, IMAGE_SIZE - side)
    return (
        np.floor(rng.uniform(least, np.maximum(most, least) + 1)).clip(0, IMAGE_SIZE - side).astype(np.int64)
    )


def _is_seen(mask: npt.NDArray[np.bool_], x: int, y: int, side: int) -> bool:
    return bool(mask[y : y + side, x : x + side].sum() >= max(LEAST_SEEN * mask.sum(), 4))


def _resized(
    pixels: npt.NDArray[np.uint8], how: Image.Resampling = Image.Resampling.BILINEAR
) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize((IMAGE_SIZE, IMAGE_SIZE), how))


def _augment(
    pixels: npt.NDArray[np.uint8],
    masks: npt.NDArray[np.bool_],
    found: Regions,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], Regions]:
    image = pixels[..., rng.permutation(3)].astype(np.float32)
    image = image * rng.uniform(0.7, 1.3) + rng.uniform(-25, 25)
    turns = int(rng.integers(4))
    image = np.rot90(image, turns, (0, 1))
    masks, found = np.rot90(masks, turns, (1, 2)), np.rot90(found, turns, (1, 2))
    if rng.random() < 0.5:
        image, masks, found = image[:, ::-1], masks[:, :, ::-1], found[:, :, ::-1]
    return (
        np.ascontiguousarray(image.clip(0, 255)),
        np.ascontiguousarray(masks),
        np.ascontiguousarray(found),
    )


def _random_pixel(mask: npt.NDArray[np.bool_], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    ys, xs = np.nonzero(mask)
    pick = int(rng.integers(len(ys)))
    return np.array([xs[pick] + 0.5, ys[pick] + 0.5], dtype=np.float32)


def _jittered_box(mask: npt.NDArray[np.bool_], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    ys, xs = np.nonzero(mask)
    box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], dtype=np.float32)
    side = np.array([box[2] - box[0], box[3] - box[1]] * 2, dtype=np.float32)
    noise = (rng.normal(size=4) * BOX_JITTER * side).clip(-5, 5) * (rng.random() < 0.7)
    return np.asarray((box + noise).clip(0, IMAGE_SIZE), dtype=np.float32)


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
    embedding = sam.image_encoder(batch.images).float()
    target = F.interpolate(batch.masks[:, None].float(), size, mode="area")[:, 0].gt(0.5).float()
    points, labels = batch.points[:, None], torch.where(batch.point_on, 1, -1)[:, None]
    sparse = sparse_prompts(sam, points, labels, batch.boxes, batch.box_on)
    logits, quality = decode(sam, embedding, sparse)
    losses, iou = mask_losses(_enlarged(logits, size), target, fine=fine)
    rows = torch.arange(len(losses))
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
