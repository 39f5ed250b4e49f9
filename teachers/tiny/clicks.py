"""Correction clicks: where an annotator who sees a mask and the truth would click next (Kirillov et al. 2023, App. A).

P prompts; logits (P, S, S) of the masks so far, the truth (P, H, W) bool. A click is a point (x, y) in pixels of the
truth with label 1 where the mask lacks something, 0 where it has too much.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

BoolMask = npt.NDArray[np.bool_]


def random_clicks(logits: Tensor, truth: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One click for each mask, anywhere in its error (training): points (P, 1, 2), labels (P, 1)."""
    return _clicks(logits, truth, lambda wrong: _any_pixel(wrong, rng))


def central_clicks(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """One click for each mask, where its error is deepest (evaluation): points (P, 1, 2), labels (P, 1)."""
    return _clicks(logits, truth, _deepest_pixel)


def _clicks(
    logits: Tensor, truth: Tensor, pick: Callable[[BoolMask], tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    size = truth.shape[-1]
    masks = F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0] > 0
    points, labels = [], []
    for mask, true in zip(masks.cpu().numpy(), truth.cpu().numpy(), strict=True):
        wrong = mask ^ true
        y, x = pick(wrong if wrong.any() else true)  # a perfect mask is confirmed
        points.append([[x + 0.5, y + 0.5]])
        labels.append([int(true[y, x])])
    return torch.tensor(points, dtype=torch.float32, device=logits.device), torch.tensor(
        labels, device=logits.device
    )


def _any_pixel(region: BoolMask, rng: np.random.Generator) -> tuple[int, int]:
    ys, xs = np.nonzero(region)
    pick = int(rng.integers(len(ys)))
    return int(ys[pick]), int(xs[pick])


def _deepest_pixel(region: BoolMask) -> tuple[int, int]:
    # Beyond the image there is nothing to click on, so its edge is a border too.
    depth = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(y), int(x)
