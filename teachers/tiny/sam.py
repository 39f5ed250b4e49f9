"""The embedded SAM: segment-anything's own classes at a size that a CPU trains in hours.

Shapes: image (B, 3, 256, 256), embedding (B, 128, 32, 32), low-res logits (P, 4, 128, 128). The grid is fine because
two thirds of toyworld's objects are under 32 pixels.
"""

from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from teachers.tiny.listing import FOLDER, SAM

TINY_SAM_WEIGHTS = FOLDER / f"{SAM}.safetensors"
IMAGE_SIZE = 256
PATCH_SIZE = 8
ENCODER_WIDTH = 128
ENCODER_DEPTH = 6
ENCODER_HEADS = 4
WINDOW = 8  # patches
GLOBAL_BLOCKS = (3,)  # the attention of the others sees its window only
PROMPT_WIDTH = 128
DECODER_MLP = 512
PIXEL_MEAN = (123.675, 116.28, 103.53)  # as SAM: ImageNet's, in 0..255
PIXEL_STD = (58.395, 57.12, 57.375)


def build_tiny_sam() -> Sam:
    """A randomly initialised tiny SAM: 2.3 M parameters, windowed and global attention, 1 + 3 mask outputs."""
    grid = IMAGE_SIZE // PATCH_SIZE
    encoder = ImageEncoderViT(
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
    _initialise(sam)
    return sam.eval()


def _initialise(sam: Sam) -> None:
    # Trap: segment-anything leaves the absolute position embedding at zero, so training starts without positions.
    if sam.image_encoder.pos_embed is not None:
        torch.nn.init.trunc_normal_(sam.image_encoder.pos_embed, std=0.02)
