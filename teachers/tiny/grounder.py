"""The embedded text-conditioned detector: 0.8 M parameters, open vocabulary within the names it was trained on.

A small convolutional pyramid; every location of strides 8, 16 and 32 gives a box and a vector, and its score for a
name is the scaled cosine of that vector and the name's (tiny_text's, projected). Scores of names do not see each
other: a name that is not in the image scores low whatever else is asked.

Shapes: image (B, 3, 256, 256), names (B, K, 64), N = 32 * 32 + 16 * 16 + 8 * 8 = 1344 locations.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from teachers.tiny.blocks import convolved
from teachers.tiny.pyramid import PYRAMID, STRIDES, Pyramid
from teachers.tiny.text import WIDTH as TEXT_WIDTH

IMAGE_SIZE = 256
_RARE = -4.6  # logit of an untrained score: sigmoid(-4.6) = 0.01 (Lin et al. 2017, focal loss)
_MAX_LOG_REACH = 5.0


@dataclass(frozen=True)
class Found:
    """What the network says: boxes xyxy in pixels (B, N, 4) and the logit of each name at each location (B, N, K)."""

    boxes: Tensor
    logits: Tensor


class TinyGrounder(Pyramid):
    """The network, randomly initialised."""

    centres: Tensor
    strides: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.meaning = nn.Sequential(convolved(PYRAMID, PYRAMID), convolved(PYRAMID, PYRAMID))
        self.place = convolved(PYRAMID, PYRAMID)
        self.to_vector = nn.Conv2d(PYRAMID, TEXT_WIDTH, kernel_size=1)
        self.to_reach = nn.Conv2d(PYRAMID, 4, kernel_size=1)
        self.of_name = nn.Linear(TEXT_WIDTH, TEXT_WIDTH)
        self.log_scale = nn.Parameter(torch.tensor(2.5))
        self.bias = nn.Parameter(torch.tensor(_RARE))
        centres, strides = _locations()
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("strides", strides, persistent=False)
        # Names start as far apart as the text tower has them; a random projection pulls them together for good.
        nn.init.eye_(self.of_name.weight)
        nn.init.zeros_(self.of_name.bias)
        nn.init.normal_(self.to_reach.weight, std=0.01)
        assert self.to_reach.bias is not None
        nn.init.constant_(self.to_reach.bias, 0.7)  # e^0.7: boxes start four strides wide

    def forward(self, image: Tensor, names: Tensor) -> Found:
        """Normalised images and name vectors of length 1 to boxes and logits."""
        levels = self.levels(image)[1:]
        vectors = _flat([self.to_vector(self.meaning(level)) for level in levels])
        reach = _flat([self.to_reach(self.place(level)) for level in levels]).float()
        logits = F.normalize(vectors.float(), dim=-1) @ F.normalize(self.of_name(names).float(), dim=-1).mT
        reach = reach.clamp(max=_MAX_LOG_REACH).exp() * self.strides[:, None]
        boxes = torch.cat([self.centres - reach[..., :2], self.centres + reach[..., 2:]], dim=-1)
        return Found(boxes, logits.float() * self.log_scale.exp() + self.bias)


def _locations() -> tuple[Tensor, Tensor]:
    """Centres (N, 2) in pixels and strides (N) of all locations, finest level first, row by row."""
    centres, strides = [], []
    for stride in STRIDES[1:]:
        line = (torch.arange(IMAGE_SIZE // stride) + 0.5) * stride
        y, x = torch.meshgrid(line, line, indexing="ij")
        centres.append(torch.stack([x.ravel(), y.ravel()], dim=1))
        strides.append(torch.full((len(line) ** 2,), float(stride)))
    return torch.cat(centres), torch.cat(strides)


def _flat(levels: list[Tensor]) -> Tensor:
    """Maps (B, C, H, W) of all levels to (B, N, C)."""
    return torch.cat([level.flatten(2).mT for level in levels], dim=1)
