"""The tiny student's backbone: the tiny grounder's pyramid, and where each pixel is; transformers builds it.

A network of few layers sees too little of the canvas to tell one place from another, so each level is told (Liu et al.
2018, CoordConv); else two like objects would get one mask. B images, S side of the canvas.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from teachers.tiny.pyramid import PIXEL_MEAN, PIXEL_STD, PYRAMID, STEM, STRIDES, Pyramid

# ImageNet statistics of RGB in 0..1, by which a student's input is normalised.
INPUT_MEAN = (0.485, 0.456, 0.406)
INPUT_STD = (0.229, 0.224, 0.225)
FINE_WAVES, COARSE_WAVES = 8, 2  # of x and of y, on the finest level (masks are made there) and on the others
STAGES = ["stage1", "stage2", "stage3", "stage4"]


class TinyBackboneConfig(BackboneConfigMixin, PreTrainedConfig):  # type: ignore[no-untyped-call]
    """There is one such backbone, so there is nothing to choose; ValueError for other outputs than all levels."""

    model_type = "omnimask_tiny"

    def __init__(self, **kwargs: Any) -> None:
        self.stage_names = list(STAGES)
        self.set_output_features_output_indices(out_features=list(STAGES), out_indices=None)
        for name, whole in (("out_features", STAGES), ("out_indices", list(range(len(STAGES))))):
            if (asked := kwargs.pop(name, None)) not in (None, whole):
                raise ValueError(f"{name}: expected {whole}, found {asked}")
        super().__init__(**kwargs)


class TinyBackbone(BackboneMixin, PreTrainedModel):
    """Randomly initialised; levels of strides 4, 8, 16 and 32."""

    config_class = TinyBackboneConfig
    main_input_name = "pixel_values"
    has_attentions = False

    def __init__(self, config: TinyBackboneConfig) -> None:
        super().__init__(config)
        self.num_features = [STEM + FINE_WAVES**2, *[PYRAMID + COARSE_WAVES**2] * (len(STRIDES) - 1)]
        self.pyramid = Pyramid()
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, pixel_values: Tensor, *_: object, **__: object) -> BackboneOutput:
        """Normalised images (B, 3, S, S) to levels (B, C, S / stride, S / stride), finest first."""
        mean, std = (
            torch.tensor(v, device=pixel_values.device)[:, None, None] for v in (INPUT_MEAN, INPUT_STD)
        )
        found = self.pyramid.levels((pixel_values * std + mean - PIXEL_MEAN) / PIXEL_STD)
        waves = [FINE_WAVES, *[COARSE_WAVES] * (len(found) - 1)]
        levels = tuple(_with_place(level, count) for level, count in zip(found, waves, strict=True))
        return BackboneOutput(feature_maps=levels)  # type: ignore[arg-type] # it says one level, and is given all

    def _init_weights(self, module: nn.Module) -> None:
        """They are as torch makes them."""


def _with_place(level: Tensor, waves: int) -> Tensor:
    """A level (B, C, h, w) and beside it the cosine waves of the discrete cosine transform: (B, C + waves^2, h, w)."""
    rows, columns = (_waves(side, waves, level) for side in level.shape[-2:])
    place = (rows[:, None, :, None] * columns[None, :, None, :]).flatten(0, 1)
    return torch.cat([level, place.expand(len(level), -1, -1, -1)], dim=1)


def _waves(side: int, count: int, like: Tensor) -> Tensor:
    """(count, side): half waves 0, 1, 2, ... along a line, their products of variance 1 or so."""
    centres = (torch.arange(side, device=like.device) + 0.5) / side
    numbers = torch.arange(count, device=like.device)
    return ((math.pi * numbers[:, None] * centres).cos() * 2**0.25).to(like.dtype)
