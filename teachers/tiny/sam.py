"""The embedded SAM: segment-anything's own classes at a size that a CPU trains in hours; the encoder's ends are ours.

Shapes: image (B, 3, 256, 256), embedding (B, 128, 16, 16), low-res logits (P, 4, 64, 64). A grid of 32 x 32 would
resolve small objects better but costs four times as much a step, and learns less in the same time; small objects are
enlarged before SAM is asked (`teachers.sam.zoom`).
"""

from functools import partial
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from teachers.tiny.listing import FOLDER, SAM

TINY_SAM_WEIGHTS = FOLDER / f"{SAM}.safetensors"
IMAGE_SIZE = 256
PATCH_SIZE = 16
ENCODER_WIDTH = 192
ENCODER_DEPTH = 6
ENCODER_HEADS = 6
WINDOW = 8  # patches
GLOBAL_BLOCKS = (2, 5)  # the attention of the others sees its window only
STEM_GROUPS = 8
_SHALLOW = 6  # of the stem's layers, up to stride 4
_UNFOLD = PATCH_SIZE // 4  # such features a patch, in each direction
PROMPT_WIDTH = 128
DECODER_MLP = 512
PIXEL_MEAN = (123.675, 116.28, 103.53)  # as SAM: ImageNet's, in 0..255
PIXEL_STD = (58.395, 57.12, 57.375)


class ConvStem(nn.Module):
    """Four convolutions of stride 2 in place of the patch embedding: (B, 3, H, W) to (B, H / 16, W / 16, C).

    After Xiao et al. 2021, "Early convolutions help transformers see better".
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for narrow, wide in pairwise((3, width // 8, width // 4, width // 2, width)):
            convolution = nn.Conv2d(narrow, wide, kernel_size=3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.GroupNorm(STEM_GROUPS, wide), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, width, kernel_size=1))

    def shallow(self, x: Tensor) -> Tensor:
        """Normalised images to features (B, C / 4, H / 4, W / 4)."""
        for layer in self.layers[:_SHALLOW]:
            x = layer(x)
        return x

    def forward(self, shallow: Tensor) -> Tensor:
        """Those to tokens."""
        x = shallow
        for layer in self.layers[_SHALLOW:]:
            x = layer(x)
        return x.permute(0, 2, 3, 1)


class TinyEncoder(ImageEncoderViT):  # type: ignore[misc]
    """segment-anything's, with a convolutional stem whose fine features also go straight into the embedding.

    Borders lie finer than patches; what the stem saw of them need not pass through the blocks (as SAM 2 and HQ-SAM hand
    fine features to the decoder; here they share the embedding's channels, so that nothing else changes).
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.patch_embed = ConvStem(ENCODER_WIDTH)
        self.detail = nn.Conv2d(ENCODER_WIDTH // 4 * _UNFOLD**2, PROMPT_WIDTH, kernel_size=1)
        for parameter in self.detail.parameters():
            nn.init.zeros_(parameter)
        # Trap: segment-anything leaves the absolute position embedding at zero, so training starts without positions.
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images to the embedding (B, C, g, g)."""
        shallow = self.patch_embed.shallow(x)
        tokens = self.patch_embed(shallow) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        deep: Tensor = self.neck(tokens.permute(0, 3, 1, 2))
        fine: Tensor = self.detail(F.pixel_unshuffle(shallow, _UNFOLD))
        return deep + fine


def build_tiny_sam() -> Sam:
    """A randomly initialised tiny SAM: 4.0 M parameters, windowed and global attention, 1 + 3 mask outputs."""
    grid = IMAGE_SIZE // PATCH_SIZE
    encoder = TinyEncoder(
        img_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        embed_dim=ENCODER_WIDTH,
        depth=ENCODER_DEPTH,
        num_heads=ENCODER_HEADS,
        mlp_ratio=4,
        out_chans=PROMPT_WIDTH,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=WINDOW,
        global_attn_indexes=GLOBAL_BLOCKS,
    )
    prompt_encoder = PromptEncoder(
        embed_dim=PROMPT_WIDTH,
        image_embedding_size=(grid, grid),
        input_image_size=(IMAGE_SIZE, IMAGE_SIZE),
        mask_in_chans=16,
    )
    decoder = MaskDecoder(
        transformer_dim=PROMPT_WIDTH,
        transformer=TwoWayTransformer(depth=2, embedding_dim=PROMPT_WIDTH, mlp_dim=DECODER_MLP, num_heads=8),
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=PROMPT_WIDTH,
    )
    sam = Sam(encoder, prompt_encoder, decoder, pixel_mean=list(PIXEL_MEAN), pixel_std=list(PIXEL_STD))
    return sam.eval()
