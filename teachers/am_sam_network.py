"""The tensors of AM-SAM and BLO-SAM: SAM's decoder with an output for each class, deltas in it, and a learned prompt.

Legend: B images, P prompts of each (1, or one a class), K classes and n = K + 1 outputs, the background first; C width
of prompts, g grid of the features, c channels of the upscaled ones; logits are of 4g x 4g pixels.
Theta, the lower level: the deltas, the tokens, the hypernetworks, the upscaling and, where it is learned, the
calibration. Phi, the upper one: the prompt embedding that stands for no mask, on request also those of box corners.
"""

from collections.abc import Iterable
from copy import deepcopy
from typing import Literal

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam
from torch import Tensor, nn

from teachers.mask_calibration import ALPHA, MaskCalibration, Scope
from teachers.sam import lora
from teachers.sam.decode import decode_factors, decode_masks

Tokens = Literal["sam", "new"]
_LAST = -1


class AmSamNetwork(nn.Module):
    """Logits of classes from an image's features and its box prompts, if any.

    `tokens: sam` begins near plain SAM: every class has SAM's single-mask output, the background the opposite of it.
    Not quite: SAM's tokens see each other, and there its other three are. `new` begins at random, as the published code
    does. The predicted IoU is not learned by any loss, and is left out.
    """

    position: Tensor

    def __init__(
        self,
        sam: Sam,
        *,
        classes: int,
        rank: int,
        scope: Scope = "sample",
        alpha: float = ALPHA,
        learn_corners: bool = False,
        tokens: Tokens = "sam",
    ) -> None:
        super().__init__()
        self.prompt_encoder = deepcopy(sam.prompt_encoder).requires_grad_(False)
        self.decoder = deepcopy(sam.mask_decoder)
        _give_outputs(self.decoder, classes + 1, tokens)
        lora.adapt(self.decoder, rank)
        self.decoder.iou_prediction_head.requires_grad_(False)  # else weight decay alone would move it
        channels = self.decoder.output_hypernetworks_mlps[0].layers[_LAST].out_features
        self.calibration = MaskCalibration(scope, channels, alpha=alpha)
        encoder = self.prompt_encoder
        encoder.no_mask_embed.requires_grad_(True)
        for corner in lora.CORNERS if learn_corners else ():
            encoder.point_embeddings[corner].requires_grad_(True)
        with torch.no_grad():
            self.register_buffer("position", sam.prompt_encoder.get_dense_pe(), persistent=False)

    def trained(self) -> dict[str, nn.Parameter]:
        """Both levels' parameters by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def theta(self) -> tuple[nn.Parameter, ...]:
        """The lower level's parameters."""
        upper = {id(parameter) for parameter in self.phi()}
        return tuple(value for value in self.trained().values() if id(value) not in upper)

    def phi(self) -> tuple[nn.Parameter, ...]:
        """The upper level's."""
        prompts = dict(self.prompt_encoder.named_parameters())
        return tuple(value for value in prompts.values() if value.requires_grad)

    def forward(self, features: Tensor, boxes: Tensor | None) -> Tensor:
        """(B, n, 4g, 4g) from features (B, C, g, g) and boxes (B, P, 4) as SAM's prompt encoder takes them (`Frame`).

        With P = K > 1 each class is asked with its own box: its logits are those of its own prompt, the background's
        the mean over all prompts.
        """
        images, prompts = len(features), 1 if boxes is None else boxes.shape[1]
        rows, sparse, dense = _prompted(self.prompt_encoder, features, boxes)
        found = decode_factors(self.decoder, rows, self.position, sparse=sparse, dense=dense)
        weights, upscaled = (
            value.view(images, prompts, *value.shape[1:]) for value in (found.weights, found.upscaled)
        )
        logits: Tensor = self.calibration(weights, upscaled)
        if prompts == 1:
            return logits[:, 0]
        own = [logits[:, row, row + 1] for row in range(prompts)]
        return torch.stack([logits[:, :, 0].mean(1), *own], dim=1)


class PlainSam(nn.Module):
    """SAM's own single masks in place of a network that was tuned: a class is where its logit is above 0."""

    position: Tensor

    def __init__(self, sam: Sam, *, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.prompt_encoder, self.decoder = sam.prompt_encoder, sam.mask_decoder
        with torch.no_grad():
            self.register_buffer("position", sam.prompt_encoder.get_dense_pe(), persistent=False)

    def forward(self, features: Tensor, boxes: Tensor | None) -> Tensor:
        """As `AmSamNetwork.forward`; all classes that are asked together have the same logits."""
        images, prompts = len(features), 1 if boxes is None else boxes.shape[1]
        rows, sparse, dense = _prompted(self.prompt_encoder, features, boxes)
        masks, _ = decode_masks(self.decoder, rows, self.position, sparse=sparse, dense=dense)
        each = masks.view(images, prompts, *masks.shape[1:])
        own = each.expand(images, self.classes, *masks.shape[1:])
        return torch.cat([torch.zeros_like(own[:, :1]), own], dim=1)


def _prompted(
    encoder: PromptEncoder, features: Tensor, boxes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """A row for each prompt: features (B P, C, g, g), sparse embeddings (B P, T, C), the dense one (1, C, 1, 1)."""
    dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    if boxes is None:
        return features, features.new_zeros(len(features), 0, encoder.embed_dim), dense
    sparse, _ = encoder(points=None, boxes=boxes.flatten(0, 1), masks=None)
    return features.repeat_interleave(boxes.shape[1], 0), sparse, dense


def _give_outputs(decoder: MaskDecoder, count: int, tokens: Tokens) -> None:
    """Give a decoder so many mask outputs, the first of them the background's."""
    token, head = decoder.mask_tokens.weight[:1], decoder.output_hypernetworks_mlps[0]
    decoder.mask_tokens = nn.Embedding(count, token.shape[1], device=token.device)
    heads = [deepcopy(head) for _ in range(count)]
    if tokens == "new":
        _reset(heads)
    else:
        with torch.no_grad():
            decoder.mask_tokens.weight.copy_(token.expand(count, -1))
            for value in heads[0].layers[_LAST].parameters():
                value.neg_()
    decoder.output_hypernetworks_mlps = nn.ModuleList(heads)
    decoder.num_mask_tokens = count


def _reset(heads: Iterable[nn.Module]) -> None:
    for head in heads:
        for layer in head.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
