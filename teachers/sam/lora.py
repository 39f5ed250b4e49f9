"""Low-rank adaptation of SAM's mask decoder (Hu et al. 2021; Liao et al. 2026, as BLO-Inst and AM-SAM use it).

Of each adapted linear layer W (out, in) only a delta B A is trained, A (r, in), B (out, r); B starts at zero, so an
adapted decoder starts as SAM's own. Adapted are the query and value projections of all seven attentions.
"""

import math
from typing import TypeVar

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn

ADAPTED = ("q_proj", "v_proj")
CORNERS = (2, 3)  # of SAM's point embeddings: a box's upper left and lower right
TRAINED_WHOLE = (
    "iou_token",
    "mask_tokens",
    "output_upscaling",
    "output_hypernetworks_mlps",
    "iou_prediction_head",
)


class LoRALinear(nn.Module):
    """W x + b + B A x for x (..., in); W and b are frozen."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        weight = base.weight
        self.down = nn.Parameter(weight.new_empty(rank, base.in_features))
        self.up = nn.Parameter(weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        out: Tensor = self.base(x) + x @ self.down.T @ self.up.T
        return out

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """A linear layer that answers alike, but for rounding, at the price of one."""
        merged = nn.Linear(self.base.in_features, self.base.out_features, self.base.bias is not None)
        merged.weight = nn.Parameter(self.base.weight + self.up @ self.down, requires_grad=False)
        merged.bias = self.base.bias
        return merged


def adapt(decoder: MaskDecoder, rank: int) -> None:
    """Make a decoder trainable in few numbers: deltas of `rank` in its attentions, and its small output parts whole."""
    decoder.requires_grad_(False)
    for part in TRAINED_WHOLE:
        getattr(decoder, part).requires_grad_(True)
    for owner, name, layer in _linears(decoder.transformer, nn.Linear):
        if name in ADAPTED:
            setattr(owner, name, LoRALinear(layer, rank))


def merge(decoder: MaskDecoder) -> None:
    """Put merged layers in place of a decoder's adapted ones."""
    for owner, name, layer in _linears(decoder.transformer, LoRALinear):
        setattr(owner, name, layer.merged())


Layer = TypeVar("Layer", bound=nn.Module)


def _linears(root: nn.Module, kind: type[Layer]) -> list[tuple[nn.Module, str, Layer]]:
    return [
        (owner, name, child)
        for owner in root.modules()
        for name, child in owner.named_children()
        if isinstance(child, kind)
    ]
