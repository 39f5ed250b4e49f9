"""What the tiny SAM learns from, step by step: images and masks of every level, and prompts for them.

A pure function of scenes, seed and step, so that processes beside the training can draw it ahead. A training begins
with the large masks and ends `fine`: masks of all sizes are drawn alike, and half the images are enlarged parts of a
scene.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from teachers.tiny.affinity import FINER, Regions, regions
from teachers.tiny.recipe import step_rng
from teachers.tiny.sam import IMAGE_SIZE, PATCH_SIZE
from teachers.tiny.scenes import CachedScene, Scenes

SCENES_PER_STEP = 8
MASKS_PER_SCENE = 4
BOX_JITTER = 0.1  # standard deviation as a share of the side, at most 20 pixels at 1024 (5 at 256)
POINT_SHARE = 0.45  # of the prompts; the rest is boxes, some of them with a point
BOTH_SHARE = 0.2
CORRECTED_SHARE = 0.35  # of the prompts that are a point or a box: as many tokens, so decoded together
FULL_WEIGHT_AREA = 100.0  # pixels; smaller masks are drawn less often at first
ZOOM_SHARE = 0.5  # of the images of a fine batch
LEAST_ZOOM, MOST_ZOOM = 1.5, 5.0
ZOOM_FILL = 0.7  # the most of the enlarged image that its mask's box may fill
LEAST_SEEN = 0.5  # share of a mask that must lie in the enlarged part
LEVEL_WEIGHT = np.array([8.0, 1.0, 3.0, 0.5])  # whole, part, group, clutter: a whole has several parts
AHEAD = 4  # batches that each process draws ahead
_FINE = PATCH_SIZE // FINER  # pixels of the image that one of the regions' is

# An image (H, W, 3), masks on it (K, H, W), and its regions (2, H, W).
Masked = tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], Regions]


@dataclass(frozen=True)
class StepBatch:
    """images (B, 3, 256, 256) uint8; masks (B*K, 256, 256) bool; points (B*K, 2) and boxes (B*K, 4) pixels.

    `regions` (B, 2, 4g, 4g), g the grid: which pixels belong together (`affinity.regions`).
    `point_on` and `box_on` (B*K,) say which of the two are the prompt, `corrected` (B*K,) where corrections follow,
    drawn from `rng`.
    """

    images: Tensor
    masks: Tensor
    regions: Tensor
    points: Tensor
    boxes: Tensor
    point_on: Tensor
    box_on: Tensor
    corrected: Tensor
    rng: np.random.Generator

    def to(self, device: torch.device) -> "StepBatch":
        """The same there."""
        own: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        own |= {name: value.to(device) for name, value in own.items() if isinstance(value, Tensor)}
        return StepBatch(**own)


@dataclass(frozen=True)
class Steps(Dataset[StepBatch]):
    """The batches of a training by step. `fine_from`: the first fine step, if any; `scenes`: images a step.

    `points`: share of the prompts that are a point alone; `corrected`: of those that are a point or a box.
    """

    cache: Scenes
    seed: int
    fine_from: int | None = None
    scenes: int = SCENES_PER_STEP
    points: float = POINT_SHARE
    corrected: float = CORRECTED_SHARE

    def __getitem__(self, step: int) -> StepBatch:
        """The batch of one step; follows from the fields alone."""
        rng, fine = step_rng(self.seed, step), self.fine(step)
        images: list[npt.NDArray[np.uint8]] = []
        masks: list[npt.NDArray[np.bool_]] = []
        found: list[Regions] = []
        while len(images) < self.scenes:
            scene = self.cache[int(rng.integers(len(self.cache)))]
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
        return StepBatch(
            images=torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
            masks=torch.from_numpy(stacked),
            regions=torch.from_numpy(np.stack(found)),
            points=torch.from_numpy(points),
            boxes=torch.from_numpy(boxes),
            point_on=(kind < self.points) | (kind >= 1 - BOTH_SHARE),
            box_on=kind >= self.points,
            corrected=torch.from_numpy(rng.random(len(stacked)) < self.corrected) & (kind < 1 - BOTH_SHARE),
            rng=rng,
        )

    def fine(self, step: int) -> bool:
        """Whether a step is one of the fine ones."""
        return self.fine_from is not None and step >= self.fine_from

    def since(self, first: int, end: int, *, workers: int) -> Iterator[StepBatch]:
        """Those from step `first` up to `end`, drawn ahead by so many processes (0: by this one, when asked)."""
        loader: DataLoader[StepBatch] = DataLoader(
            self,
            batch_size=None,
            sampler=range(first, end),
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            multiprocessing_context="forkserver" if workers else None,
        )
        return iter(loader)


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
    target = int(rng.choice(small, p=_shares(scene.level[small])))
    most = min(MOST_ZOOM, ZOOM_FILL * IMAGE_SIZE / max(float(sides[target]), 1.0))
    side = round(IMAGE_SIZE / float(rng.uniform(LEAST_ZOOM, most)))
    low = _window(scene.box[target], side, rng)
    x, y = int(low[0]), int(low[1])
    inside = [row for row in range(len(scene.masks)) if _is_seen(scene.mask(row), x, y, side)]
    shares = _shares(scene.level[inside])
    others = rng.choice(inside, MASKS_PER_SCENE - 1, replace=len(inside) < MASKS_PER_SCENE - 1, p=shares)
    masks = [scene.mask(row)[y : y + side, x : x + side] for row in (target, *others.tolist())]
    large = [_resized(mask.astype(np.uint8) * 255) >= 128 for mask in masks]
    within = [_resized(one[y : y + side, x : x + side], Image.Resampling.NEAREST) for one in regions(scene)]
    return _resized(scene.image[y : y + side, x : x + side]), np.stack(large), np.stack(within)


def _shares(levels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """How likely each of some masks is drawn."""
    weight = LEVEL_WEIGHT[levels]
    shares: npt.NDArray[np.float64] = weight / weight.sum()
    return shares


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
) -> Masked:
    image = pixels[..., rng.permutation(3)].astype(np.float32)
    image = image * rng.uniform(0.7, 1.3) + rng.uniform(-25, 25)
    turns = int(rng.integers(4))
    image = np.rot90(image, turns, (0, 1))
    masks, found = np.rot90(masks, turns, (1, 2)), np.rot90(found, turns, (1, 2))
    if rng.random() < 0.5:
        image, masks, found = image[:, ::-1], masks[:, :, ::-1], found[:, :, ::-1]
    return (
        np.ascontiguousarray(image.clip(0, 255).astype(np.uint8)),
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
