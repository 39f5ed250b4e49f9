"""Runs a Mask2Former layer by layer: the raw predictions after each decoder layer, in the precisions it was made for.

L predictions (decoder layers + 1), B images, Q queries, K classes, S side of the canvas; masks are S/4 wide.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Mask2FormerForUniversalSegmentation, PreTrainedModel

# ImageNet statistics of 8-bit RGB, as the official configuration subtracts and divides them.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Predictions:
    """`class_logits` L x (B, Q, K + 1), the last column is no-object; `mask_logits` L x (B, Q, S/4, S/4)."""

    class_logits: Sequence[Tensor]
    mask_logits: Sequence[Tensor]


def predictions(model: Mask2FormerForUniversalSegmentation, pixels: Tensor, *, bf16: bool) -> Predictions:
    """Predictions of every decoder layer for `pixels` (B, S, S, 3) uint8; float32 whatever the precision inside.

    With `bf16` the backbone and the transformer decoder run under autocast. The pixel decoder does not (nor does it
    officially): bfloat16 cannot tell the sampling locations of neighbouring pixels apart.
    """
    core, encoder = model.model, model.model.pixel_level_module.encoder
    device = pixels.device.type
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        levels = features(encoder, pixels)
    with torch.autocast(device, enabled=False):
        decoded = core.pixel_level_module.decoder([level.float() for level in levels])
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        output = core.transformer_module(
            multi_scale_features=decoded.multi_scale_features,
            mask_features=decoded.mask_features,
            output_hidden_states=True,
        )
        classes = [
            model.class_predictor(hidden.transpose(0, 1)) for hidden in output.intermediate_hidden_states
        ]
    return Predictions(
        [logits.float() for logits in classes], [logits.float() for logits in output.masks_queries_logits]
    )


def features(encoder: PreTrainedModel, pixels: Tensor) -> Sequence[Tensor]:
    """The backbone's features (B, C, h, w) of each level, finest first, for `pixels` (B, S, S, 3) uint8."""
    levels: Sequence[Tensor] = encoder(_inputs(pixels)).feature_maps
    return levels


def freeze_batch_norm(backbone: nn.Module) -> None:
    """Keeps the statistics and weights of every batch norm; call again after each `model.train()`."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.requires_grad_(False)


def _inputs(pixels: Tensor) -> Tensor:
    """(B, S, S, 3) uint8 to (B, 3, S, S), normalised."""
    mean = torch.tensor(PIXEL_MEAN, device=pixels.device)
    std = torch.tensor(PIXEL_STD, device=pixels.device)
    return ((pixels.float() - mean) / std).permute(0, 3, 1, 2)
