"""Large-scale jitter (Ghiasi et al. 2021) as one window: what part of a scaled, maybe mirrored image a canvas shows.

S side of the square canvas. The window lies at the canvas' top left; what is beyond it is padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from teachers.sam.pixels import Frame

PADDING = 128  # grey, as in the official augmentation


@dataclass(frozen=True)
class Window:
    """`source` (height, width) of the image, `scaled` the same after scaling, `top`, `left`, `height`, `width` of the
    part shown in the scaled frame; all in pixels. `mirror`: the image is flipped left-right before anything else.
    """

    source: tuple[int, int]
    scaled: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    mirror: bool


def fitted_window(source: tuple[int, int], size: int) -> Window:
    """The whole image, its longer side scaled to the canvas: what a student sees when it predicts."""
    height, width = _scaled(source, size)
    return Window(source, (height, width), 0, 0, height, width, False)


def sam_window(source: tuple[int, int], size: int) -> Window:
    """The whole image as SAM has it in its square: where half a pixel is left, `fitted_window` may be one smaller."""
    height, width = Frame(*source, size).input_size
    return Window(source, (height, width), 0, 0, height, width, False)


def random_window(
    source: tuple[int, int], *, size: int, scale: tuple[float, float], rng: np.random.Generator
) -> Window:
    """Scales the image to fit a canvas of `scale` x `size`, mirrors it half the time, cuts a random `size` square."""
    height, width = _scaled(source, size * rng.uniform(*scale))
    mirror = bool(rng.random() < 0.5)
    top = int(rng.integers(max(height - size, 0) + 1))
    left = int(rng.integers(max(width - size, 0) + 1))
    return Window(source, (height, width), top, left, min(height, size), min(width, size), mirror)


def canvas_image(image: npt.NDArray[np.uint8], window: Window, size: int) -> npt.NDArray[np.uint8]:
    """(height, width, 3) uint8 onto (S, S, 3), bilinear."""
    flipped = image[:, ::-1] if window.mirror else image
    up, across = (window.source[i] / window.scaled[i] for i in range(2))
    box = (
        window.left * across,
        window.top * up,
        min((window.left + window.width) * across, window.source[1]),
        min((window.top + window.height) * up, window.source[0]),
    )
    part = Image.fromarray(np.ascontiguousarray(flipped)).resize(
        (window.width, window.height), Image.Resampling.BILINEAR, box=box
    )
    canvas = np.full((size, size, 3), PADDING, np.uint8)
    canvas[: window.height, : window.width] = np.asarray(part)
    return canvas


def canvas_masks(masks: Sequence[npt.NDArray[np.bool_]], window: Window, size: int) -> npt.NDArray[np.bool_]:
    """n masks (height, width) onto (n, S, S), nearest pixel, padding False."""
    canvas = np.zeros((len(masks), size, size), np.bool_)
    rows = _nearest(window.top, window.height, scaled=window.scaled[0], source=window.source[0])
    columns = _nearest(window.left, window.width, scaled=window.scaled[1], source=window.source[1])
    if window.mirror:
        columns = window.source[1] - 1 - columns
    for target, mask in zip(canvas, masks, strict=True):
        target[: window.height, : window.width] = mask[rows[:, None], columns]
    return canvas


def _scaled(source: tuple[int, int], side: float) -> tuple[int, int]:
    factor = side / max(source)
    return max(round(source[0] * factor), 1), max(round(source[1] * factor), 1)


def _nearest(start: int, count: int, *, scaled: int, source: int) -> npt.NDArray[np.intp]:
    """Source pixel under the centre of each of `count` scaled pixels from `start` on."""
    centres = (np.arange(start, start + count) + 0.5) * (source / scaled)
    return np.minimum(centres.astype(np.intp), source - 1)
