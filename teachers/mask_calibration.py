"""AM-SAM's mask calibration (eq. 9-12), what it comes to, and a learned form of it.

Legend: B images, n classes, c channels. U (B, c, h, w) are the decoder's upscaled features, H (B, n, c) the weights of
its hypernetworks, M = H . U (B, n, h, w) the logits. The Hadamard channels are R_i = H[:, :, i] U[:, i], (B, n, h, w).

The paper puts all R_i of all images one after the other, takes their mean, and mixes it with the logits:

    M_new = mean over images and i of R_i,      M_final = alpha M + (1 - alpha) M_new.

As the R_i of an image sum to its M, M_new is the mean of the images' M, over c. So of one image M_final is
(alpha + (1 - alpha) / c) M: the same logits, 0.709 times as large, and no pixel changes its class. Of several images,
the logits of each leak into the others. Nothing is ever made of c n h w numbers for it.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from teachers.sam.decode import multiplied

Scope = Literal["off", "sample", "batch", "learned"]
ALPHA = 0.7


class MaskCalibration(nn.Module):
    """Logits from their factors, calibrated.

    `scope`: `batch` is the paper's; `sample` has the mean over an image's own channels, what the paper's is of one
    image; `learned`, which is ours and not the paper's, weighs an image's channels by a 1x1 convolution that begins as
    their mean; `off` leaves the logits as they are. `channels` is c.
    """

    def __init__(self, scope: Scope, channels: int, *, alpha: float = ALPHA) -> None:
        super().__init__()
        self.scope, self.alpha = scope, alpha
        mean = torch.full((channels,), 1 / channels)
        self.bias: nn.Parameter | None = None
        if scope == "learned":
            self.weight: Tensor = nn.Parameter(mean)
            self.bias = nn.Parameter(torch.zeros(()))
        else:
            self.register_buffer("weight", mean, persistent=False)

    def forward(self, weights: Tensor, upscaled: Tensor) -> Tensor:
        """M_final (B, ..., n, h, w) of H (B, ..., n, c) and U (B, ..., c, h, w); `batch` averages over the first."""
        shape = (*weights.shape[:-1], *upscaled.shape[-2:])
        rows, maps = weights.flatten(0, -3), upscaled.flatten(0, -4)
        logits = multiplied(rows, maps).view(shape)
        if self.scope == "off":
            return logits
        new = multiplied(rows * self.weight, maps).view(shape)
        if self.bias is not None:
            new = new + self.bias
        if self.scope == "batch":
            new = new.mean(0, keepdim=True)
        return self.alpha * logits + (1 - self.alpha) * new
