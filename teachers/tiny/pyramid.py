"""The convolutional pyramid that the tiny grounder finds things with, and the tiny student's backbone is.

Shapes: image (B, 3, S, S), S a multiple of 32.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from teachers.tiny.blocks import Residual, convolved

STRIDES = (4, 8, 16, 32)
STEM, PYRAMID = 40, 64  # channels of the finest level, of the others
PIXEL_MEAN, PIXEL_STD = 0.45, 0.25  # of all three channels, in 0..1


class Pyramid(nn.Module):
    """Convolutions down to a stride of 32, and from there what the coarse levels saw is told to the finer ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolved(3, 24, stride=2), convolved(24, STEM, stride=2), Residual(STEM))
        self.stage3 = nn.Sequential(convolved(STEM, 64, stride=2), Residual(64), Residual(64))
        self.stage4 = nn.Sequential(convolved(64, 80, stride=2), Residual(80))
        self.stage5 = nn.Sequential(convolved(80, 96, stride=2), Residual(96))
        self.lateral = nn.ModuleList(nn.Conv2d(width, PYRAMID, kernel_size=1) for width in (64, 80, 96))
        self.smooth = nn.ModuleList(convolved(PYRAMID, PYRAMID) for _ in STRIDES[1:-1])

    def levels(self, image: Tensor) -> list[Tensor]:
        """Features (B, C, S / stride, S / stride) of a normalised image at each of STRIDES."""
        stem = self.stem(image)
        third = self.stage3(stem)
        fourth = self.stage4(third)
        fifth = self.lateral[2](self.stage5(fourth))
        fourth = self.smooth[1](self.lateral[1](fourth) + F.interpolate(fifth, scale_factor=2.0))
        third = self.smooth[0](self.lateral[0](third) + F.interpolate(fourth, scale_factor=2.0))
        return [stem, third, fourth, fifth]


def normalise_pixels(pixels: Tensor) -> Tensor:
    """uint8 to what the network takes, float32."""
    return (pixels.float() / 255 - PIXEL_MEAN) / PIXEL_STD
