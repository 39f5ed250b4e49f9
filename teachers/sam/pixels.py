"""The pixel ring: how an image, or a part of it, and its coordinates become SAM's square input.

The image is resized so that its longest side is `side` (sam.image_encoder.img_size) by Pillow's bilinear filter on
uint8, which widens itself when shrinking (antialias); that is what segment-anything does, to the byte, and does not
depend on torch's version or device. Then it is normalised and padded with zeros at the right and bottom.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from segment_anything.modeling import Sam
from torch import Tensor

# segment-anything adds 0.5 to every coordinate, because it takes pixel indices; ours are continuous (pixel i covers
# [i, i+1)), so the half pixel is taken off again, in the input frame, just before its prompt encoder.
HALF_PIXEL = 0.5
_Pixel = TypeVar("_Pixel", bound=np.generic)


@dataclass(frozen=True)
class Window:
    """A part of an image, in its pixels: first row and column, rows and columns."""

    top: int
    left: int
    height: int
    width: int

    def of(self, pixels: npt.NDArray[_Pixel]) -> npt.NDArray[_Pixel]:
        """That part of an array (H, W, ...), a view of it."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Frame:
    """How an image of `height` and `width` lies in the input square of `side`, all in pixels.

    `window` is what is seen of the image, None for all of it.
    """

    height: int
    width: int
    side: int
    window: Window | None = None

    @property
    def seen(self) -> Window:
        """What lies in the square."""
        return self.window or Window(0, 0, self.height, self.width)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of what is seen, resized; rounded half up, as segment-anything does."""
        seen = self.seen
        scale = self.side / max(seen.height, seen.width)
        return max(1, int(seen.height * scale + 0.5)), max(1, int(seen.width * scale + 0.5))

    @property
    def extent(self) -> tuple[float, float]:
        """The part of the square's (width, height) that is not padding, in (0, 1]."""
        height, width = self.input_size
        return width / self.side, height / self.side

    def to_input(self, xy: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Points (..., 2) of the image to what SAM's prompt encoder takes: pixel indices in the input square.

        Points outside of what is seen come out beyond the square.
        """
        height, width = self.input_size
        seen = self.seen
        scale = np.array([width / seen.width, height / seen.height])
        corner = np.array([seen.left, seen.top])
        indices: npt.NDArray[np.float32] = ((xy - corner) * scale - HALF_PIXEL).astype(np.float32)
        return indices


def to_input_pixels(
    image: npt.NDArray[np.uint8], sam: Sam, window: Window | None = None
) -> tuple[Tensor, Frame]:
    """The normalised, padded square (3, side, side) float32 on the CPU of an image, or a part of it, and its frame.

    `image` (H, W, 3) uint8 RGB.
    """
    height, width, _ = image.shape
    frame = Frame(height, width, sam.image_encoder.img_size, window)
    input_height, input_width = frame.input_size
    shown = Image.fromarray(frame.seen.of(image))
    resized = np.asarray(shown.resize((input_width, input_height), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(resized.astype(np.float32)).permute(2, 0, 1)
    square = torch.zeros(3, frame.side, frame.side)
    square[:, :input_height, :input_width] = (pixels - sam.pixel_mean.cpu()) / sam.pixel_std.cpu()
    return square, frame
