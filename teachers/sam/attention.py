"""The image encoder's attention through `scaled_dot_product_attention`: the same numbers to rounding, less time.

Shapes: x (B, H, W, C) with C = heads * dim; the relative-position bias (B, heads, H*W, H*W). Windowed blocks arrive
with B = images * windows, so one module serves both kinds.
"""

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn
from torch.nn import functional as F


class FastAttention(nn.Module):
    """segment-anything's encoder attention on its own parameters (same names in the state dict)."""

    def __init__(self, official: Attention) -> None:
        super().__init__()
        self.num_heads: int = official.num_heads
        self.qkv = official.qkv
        self.proj = official.proj
        self.use_rel_pos: bool = official.use_rel_pos
        if self.use_rel_pos:
            self.rel_pos_h = official.rel_pos_h
            self.rel_pos_w = official.rel_pos_w

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        batch, height, width, _ = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, H*W, dim)
        bias = self._bias(q, height, width) if self.use_rel_pos else None
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(batch, height, width, -1))
        return projected

    def _bias(self, q: Tensor, height: int, width: int) -> Tensor:
        # The decomposed relative positions of MViTv2: q . R_h[y - y'] + q . R_w[x - x'], with the unscaled q.
        batch, heads, tokens, dim = q.shape
        grid = q.reshape(batch, heads, height, width, dim)
        rel_h = torch.einsum("bnhwc,hkc->bnhwk", grid, _relative(self.rel_pos_h, height))
        rel_w = torch.einsum("bnhwc,wkc->bnhwk", grid, _relative(self.rel_pos_w, width))
        # Trap: einsum leaves another layout, which the sum would take on, and be copied whole (ViT-B: 805 MB a block).
        rel_h, rel_w = rel_h.contiguous(), rel_w.contiguous()
        return (rel_h[..., :, None] + rel_w[..., None, :]).view(batch, heads, tokens, tokens)


def _relative(table: Tensor, size: int) -> Tensor:
    """Rows of `table` (2*size - 1, dim) by query and key index: (size, size, dim)."""
    if table.shape[0] != 2 * size - 1:
        raise ValueError(
            f"a relative-position table for size {size} has {2 * size - 1} rows, got {table.shape[0]}"
        )
    steps = torch.arange(size, device=table.device)
    return table[steps[:, None] - steps[None, :] + size - 1]


def use_fast_attention(encoder: ImageEncoderViT) -> None:
    """Swap every block's attention in place for `FastAttention`; parameters and their names stay."""
    for block in encoder.blocks:
        if isinstance(block.attn, Attention):
            block.attn = FastAttention(block.attn)
