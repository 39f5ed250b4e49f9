"""CLIP Surgery's two paths through a vision transformer of open_clip (Li et al. 2023, arXiv 2304.05653, 3.2).

Shapes: pixels (B, 3, H, W), normalised -> tokens (B, 1 + N, C), the class token first -> features, d wide.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from pipeline.data.errors import BadInput

SURGERY_BLOCKS = 6  # of the authors' code, of a ViT-B's twelve


@dataclass(frozen=True)
class Features:
    """Of length 1, float32: `whole` (B, d), an image's by the original path; `patches` (B, h, w, d), by the new one."""

    whole: Tensor
    patches: Tensor


class DualPath:
    """The given tower, read along two paths; it stays as it is, and so do its outputs.

    In the last `blocks` blocks, or all of fewer, the new path adds attention of values to values, without any MLP,
    and reads what the original one reads; with 0 blocks the patches are CLIP's own. Raises BadInput for a tower that
    has no such blocks or class token, and ValueError for fewer than 0 blocks.
    """

    def __init__(self, visual: nn.Module, *, blocks: int = SURGERY_BLOCKS) -> None:
        if blocks < 0:
            raise ValueError(f"CLIP Surgery: expected 0 blocks or more, got {blocks}")
        if fault := _fault(visual):
            raise BadInput(f"CLIP Surgery: expected a vision transformer of open_clip; {fault}")
        assert isinstance(visual, VisionTransformer)
        self._visual = visual
        every = list(visual.transformer.resblocks)
        single = max(0, len(every) - blocks)
        self._single, self._dual = every[:single], every[single:]

    @property
    def device(self) -> torch.device:
        """Where the tower lies."""
        device: torch.device = self._visual.proj.device
        return device

    @property
    def own_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the tower was made for."""
        height, width = self._visual.image_size
        return int(height), int(width)

    def check_size(self, size: tuple[int, int]) -> None:
        """ValueError for a (height, width) that is not made of whole patches."""
        if any(
            side < patch or side % patch for side, patch in zip(size, self._visual.patch_size, strict=True)
        ):
            patch = "x".join(map(str, self._visual.patch_size))
            raise ValueError(
                f"CLIP Surgery: expected an input of whole {patch} patches, got {size[0]}x{size[1]}"
            )

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Features:
        """Pixels (B, 3, H, W) as the tower takes them, of any size made of whole patches, to their features.

        Raises ValueError for another size, and for a model in training mode, whose batch norms this would change.
        """
        self.check_size((pixels.shape[-2], pixels.shape[-1]))
        if self._visual.training:
            raise ValueError("CLIP Surgery: expected the model in eval mode, it is in training mode")
        tokens, grid = self._embed(pixels)
        for block in self._single:
            tokens = self._original(block, tokens)
        new = tokens
        for block in self._dual:
            new = new + block.ls_1(value_attention(block.attn, block.ln_1(tokens)))  # no MLP
            tokens = self._original(block, tokens)
        joined = self._visual.ln_post(torch.cat([tokens[:, :1], new[:, 1:]], 1)) @ self._visual.proj
        features = F.normalize(joined.float(), dim=-1)
        return Features(features[:, 0], features[:, 1:].reshape(len(features), *grid, -1))

    def _embed(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        visual = self._visual
        maps: Tensor = visual.conv1(pixels.to(visual.proj))
        grid = (maps.shape[-2], maps.shape[-1])
        first = visual.class_embedding.to(maps).expand(len(maps), 1, -1)
        tokens = torch.cat([first, maps.flatten(2).transpose(1, 2)], 1) + self._positions(grid).to(maps)
        return visual.ln_pre(tokens), grid

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """(1 + h * w, C): the tower's own, resized as open_clip does when it loads weights of another size."""
        own: Tensor = self._visual.positional_embedding
        if grid == tuple(self._visual.grid_size):
            return own
        places = own[1:].float().reshape(*self._visual.grid_size, -1).permute(2, 0, 1)[None]
        # Contiguous: torch 2.15 gets a width of 1 wrong where channels lie last.
        resized = F.interpolate(
            places.contiguous(), grid, mode="bicubic", antialias=True, align_corners=False
        )
        return torch.cat([own[:1].float(), resized[0].flatten(1).T])

    def _original(self, block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
        first = self._visual.transformer.batch_first
        after: Tensor = block(tokens if first else tokens.transpose(0, 1))
        return after if first else after.transpose(0, 1)


def value_attention(attention: nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """softmax(v v^T / sqrt(width of a head)) v of tokens (B, N, C), with the weights of an attention of q, k and v."""
    width, bias = attention.embed_dim, attention.in_proj_bias
    values = F.linear(
        tokens, attention.in_proj_weight[2 * width :], None if bias is None else bias[2 * width :]
    )
    heads = values.reshape(*values.shape[:2], attention.num_heads, -1).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(heads, heads, heads)
    found: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return found


def _fault(visual: nn.Module) -> str:
    if not isinstance(visual, VisionTransformer):
        return f"its image tower is a {type(visual).__name__}"
    if visual.attn_pool is not None or visual.pool_type != "tok":
        return "its features are pooled of patches, not its class token's"
    other = {type(b).__name__ for b in visual.transformer.resblocks if type(b) is not ResidualAttentionBlock}
    return f"its blocks are {', '.join(sorted(other))}" if other else ""
