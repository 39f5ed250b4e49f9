"""The tensor ring: SAM's mask decoder over gathered image embeddings, one row per prompt.

segment-anything's own `forward` repeats ONE image's embedding for all prompts; here every row brings its own, so
prompts of several images share a batch. The numbers are the same to the bit for the same number of rows.
Legend: N rows, C prompt width, g embedding grid, T prompt tokens; low-res logits are 4g x 4g.
"""

from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor


def decode_masks(
    decoder: MaskDecoder, features: Tensor, position: Tensor, *, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits (N, 4g, 4g) and predicted IoU (N,) of the single-mask output (multimask_output False).

    `features` (N, C, g, g), `position` (1, C, g, g), `sparse` (N, T, C), `dense` (1 or N, C, g or 1, g or 1).
    """
    # All mask outputs are multiplied out though one is used: fewer would take another kernel and give other bits.
    logits, quality = decode_outputs(decoder, features, position, sparse=sparse, dense=dense)
    return logits[:, 0], quality[:, 0]


def decode_outputs(
    decoder: MaskDecoder, features: Tensor, position: Tensor, *, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """As `decode_masks`, of all M outputs, the single one first: logits (N, M, 4g, 4g), predicted IoU (N, M)."""
    found = decode_factors(decoder, features, position, sparse=sparse, dense=dense)
    return multiplied(found.weights, found.upscaled), decoder.iou_prediction_head(found.iou_token)


@dataclass(frozen=True)
class Factors:
    """What logits are the product of: `weights` (N, M, c) of each mask output, `upscaled` (N, c, 4g, 4g) features.

    `iou_token` (N, C): what the predicted IoUs are made of.
    """

    weights: Tensor
    upscaled: Tensor
    iou_token: Tensor


def decode_factors(
    decoder: MaskDecoder, features: Tensor, position: Tensor, *, sparse: Tensor, dense: Tensor
) -> Factors:
    """The decoder up to its last product, of all M outputs; arguments as of `decode_masks`."""
    rows = len(sparse)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(rows, -1, -1), sparse], dim=1)
    source = features + dense
    hidden, source = decoder.transformer(source, position.expand(rows, -1, -1, -1), tokens)
    upscaled = decoder.output_upscaling(source.transpose(1, 2).reshape(features.shape))
    masks = hidden[:, 1 : 1 + decoder.num_mask_tokens]
    heads = decoder.output_hypernetworks_mlps
    weights = torch.stack([head(masks[:, i]) for i, head in enumerate(heads)], dim=1)
    return Factors(weights, upscaled, hidden[:, 0])


def multiplied(weights: Tensor, upscaled: Tensor) -> Tensor:
    """Logits (N, M, h, w) of weights (N, M, c) and features (N, c, h, w)."""
    return (weights @ upscaled.flatten(2)).view(*weights.shape[:2], *upscaled.shape[2:])
