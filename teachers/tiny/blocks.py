"""Convolution blocks that the tiny image tower and the tiny grounder are built of; maps are (B, C, H, W)."""

import torch
from torch import Tensor, nn


def convolved(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, batch norm and ReLU; `stride` 2 halves the sides."""
    conv = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity: (B, C, H, W) to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = convolved(width, width)
        self.second = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """ReLU(x + conv(ReLU(conv(x))))."""
        return torch.relu(x + self.norm(self.second(self.first(x))))
