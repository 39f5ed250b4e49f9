"""Models of the official classes, small enough to run hundreds of times, with random weights."""

from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn
from transformers import BertConfig, GroundingDinoConfig, SwinConfig

WIDTH = 32


def build_small_sam(seed: int = 0) -> Sam:
    """64 px input, 8 x 8 grid, 32 x 32 logits; windowed and global blocks; relative positions that matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = ImageEncoderViT(
            img_size=64,
            patch_size=8,
            embed_dim=48,
            depth=3,
            num_heads=3,
            out_chans=WIDTH,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=3,  # 8 is no multiple of it: windows are padded
            global_attn_indexes=(2,),
        )
        prompts = PromptEncoder(
            embed_dim=WIDTH, image_embedding_size=(8, 8), input_image_size=(64, 64), mask_in_chans=16
        )
        decoder = MaskDecoder(
            transformer_dim=WIDTH,
            transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=64, num_heads=4),
            iou_head_depth=2,
            iou_head_hidden_dim=WIDTH,
        )
        sam = Sam(encoder, prompts, decoder)
        for name, value in sam.named_parameters():
            if "rel_pos" in name or name.endswith("pos_embed"):
                nn.init.normal_(value, std=0.3)
    return sam.requires_grad_(False).eval()


def small_dino_config() -> GroundingDinoConfig:
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_queries": 20}
    return GroundingDinoConfig(
        backbone_config=SwinConfig(
            embed_dim=16,
            depths=[1] * 4,
            num_heads=[2] * 4,
            window_size=4,
            out_indices=[2, 3, 4],
            image_size=64,
        ),
        text_config=BertConfig(
            vocab_size=1030, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        ),
        encoder_layers=1,
        decoder_layers=2,
        disable_custom_kernels=True,
        **heads,
        **sizes,
    )
