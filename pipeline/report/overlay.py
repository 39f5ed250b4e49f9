"""Masks drawn over a photo, small enough to live inside an HTML page.

Shapes: image (h, w, 3) uint8 RGB upright; a mask (h, w) bool in the same frame.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from pipeline.data import masks
from pipeline.data.records import RLE

MAX_SIDE = 320  # pixels of the drawn picture's longer side
QUALITY = 72  # of the WebP
FILL = 0.45  # share of the colour inside a mask

# Twelve hues that stay apart on photos in light and dark; instance i takes colour i modulo 12.
PALETTE = np.array(
    [
        (230, 25, 75),
        (60, 180, 75),
        (255, 225, 25),
        (0, 130, 200),
        (245, 130, 48),
        (145, 30, 180),
        (70, 240, 240),
        (240, 50, 230),
        (210, 245, 60),
        (250, 190, 212),
        (0, 128, 128),
        (170, 110, 40),
    ],
    dtype=np.float32,
)


def _shrink_size(height: int, width: int) -> tuple[int, int]:
    scale = min(1.0, MAX_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resize(image: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    pillow = PillowImage.fromarray(image).resize((width, height), PillowImage.Resampling.BILINEAR)
    return np.asarray(pillow, dtype=np.uint8)


def _border(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    border: npt.NDArray[np.bool_] = mask & ~inner
    return border


def draw(image: npt.NDArray[np.uint8], rles: Sequence[RLE]) -> npt.NDArray[np.uint8]:
    """The image, its longer side at most MAX_SIDE, with each mask filled and outlined in its own colour."""
    height, width = _shrink_size(*image.shape[:2])
    canvas = _resize(image, height, width).astype(np.float32)
    for index, rle in enumerate(rles):
        # One dense mask at a time: a full-size one per instance would be gigabytes on crowded photos.
        dense = np.ascontiguousarray(masks.decode(rle)).astype(np.uint8) * 255
        mask = _resize(dense, height, width) >= 128
        colour = PALETTE[index % len(PALETTE)]
        canvas[mask] = (1 - FILL) * canvas[mask] + FILL * colour
        canvas[_border(mask)] = colour
    return canvas.round().astype(np.uint8)


def data_uri(image: npt.NDArray[np.uint8]) -> str:
    """The image as a WebP `data:` URI."""
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, format="WEBP", quality=QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
