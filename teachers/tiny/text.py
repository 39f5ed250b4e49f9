"""The embedded CLIP: open_clip's own classes at a size that a CPU trains in minutes, reading names byte by byte.

Shapes: names -> tokens (K, 32) int64 -> (K, 64); crops (B, 3, 64, 64) -> (B, 64). The image tower is a plain
vision transformer, so that CLIP Surgery finds in it what it finds in the real ones.
"""

from collections.abc import Sequence

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, set_model_preprocess_cfg
from torch import Tensor, nn

from teachers.tiny.blocks import Residual, convolved

WIDTH = 64  # of the vectors, and of the text tower
IMAGE_WIDTH = 96
CONTEXT = 32
CROP_SIZE = 64
START, END = 256, 257  # END is the greatest token: open_clip pools where the greatest stands
VOCABULARY = 258
PIXEL_MEAN, PIXEL_STD = 0.45, 0.25  # of all three channels, in 0..1


def build_tiny_clip() -> CLIP:
    """A randomly initialised tiny CLIP: 0.12 M parameters of text tower, 0.7 M of image tower."""
    vision = CLIPVisionCfg(layers=4, width=IMAGE_WIDTH, head_width=32, patch_size=8, image_size=CROP_SIZE)
    text = CLIPTextCfg(context_length=CONTEXT, vocab_size=VOCABULARY, width=64, heads=4, layers=2)
    clip = CLIP(WIDTH, vision, text)
    # A plain patch embedding needs many times the images before a vision transformer starts to learn (Xiao et al.
    # 2021, "Early convolutions help transformers see better"); the blocks behind it stay open_clip's.
    clip.visual.conv1 = nn.Sequential(
        convolved(3, 24, stride=2),
        convolved(24, 48, stride=2),
        Residual(48),
        convolved(48, IMAGE_WIDTH, stride=2),
        Residual(IMAGE_WIDTH),
    )
    pixels = {"mean": (PIXEL_MEAN,) * 3, "std": (PIXEL_STD,) * 3, "interpolation": "bilinear"}
    set_model_preprocess_cfg(clip, {**pixels, "size": CROP_SIZE})
    return clip


def tokenize(names: Sequence[str]) -> Tensor:
    """Lower-case UTF-8 bytes between START and END, 0 beyond: (K, 32) int64; bytes after the 30th are left out."""
    tokens = torch.zeros(len(names), CONTEXT, dtype=torch.int64)
    for row, name in zip(tokens, names, strict=True):
        content = " ".join(name.replace("_", " ").lower().split()).encode()[: CONTEXT - 2]
        row[: len(content) + 2] = torch.tensor([START, *content, END])
    return tokens


def normalise_crops(crops: Tensor) -> Tensor:
    """uint8 (B, 3, 64, 64) to what the image tower takes, float32."""
    return (crops.float() / 255 - PIXEL_MEAN) / PIXEL_STD
