"""The pixel ring: how an image and its coordinates become SAM's square input.

The image is resized so that its longest side is `side` (sam.image_encoder.img_size) by Pillow's bilinear filter on
uint8, which widens itself when shrinking (antialias); that is what segment-anything does, to the byte, and does not
depend on torch's version or device. Then it is normalised and padded with zeros at the right and bottom.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from segment_anything.modeling import Sam
from torch import Tensor

# segment-anything adds 0.5 to every coordinate, because it takes pixel indices; ours are continuous (pixel i covers
# [i, i+1)), so the half pixel is taken off again, in the input frame, just before its prompt encoder.
HALF_PIXEL = 0.5


@dataclass(frozen=True)
class Frame:
    """One image's place in the input square: `height`, `width` of the image, `side` of the square, all in pixels."""

    height: int
    width: int
    side: int

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the resized image inside the square; rounded half up, as segment-anything does."""
        scale = self.side / max(self.height, self.width)
        return max(1, int(self.height * scale + 0.5)), max(1, int(self.width * scale + 0.5))

    @property
    def extent(self) -> tuple[float, float]:
        """The part of the square's (width, height) that holds the image, in (0, 1]."""
        height, width = self.input_size
        return width / self.side, height / self.side

    def to_input(self, xy: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Points (..., 2) of the image to what SAM's prompt encoder takes: pixel indices in the input square."""
        height, width = self.input_size
        scale = np.array([width / self.width, height / self.height])
        indices: npt.NDArray[np.float32] = (xy * scale - HALF_PIXEL).astype(np.float32)
        return indices


def to_input_pixels(image: npt.NDArray[np.uint8], sam: Sam) -> tuple[Tensor, Frame]:
    """The normalised, padded square (3, side, side) float32 of an image (H, W, 3) uint8 RGB, on the CPU; its frame."""
    height, width, _ = image.shape
    frame = Frame(height, width, sam.image_encoder.img_size)
    input_height, input_width = frame.input_size
    resized = np.asarray(
        Image.fromarray(image).resize((input_width, input_height), Image.Resampling.BILINEAR)
    )
    pixels = torch.from_numpy(resized.astype(np.float32)).permute(2, 0, 1)
    square = torch.zeros(3, frame.side, frame.side)
    square[:, :input_height, :input_width] = (pixels - sam.pixel_mean.cpu()) / sam.pixel_std.cpu()
    return square, frame
