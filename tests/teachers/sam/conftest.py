"""A SAM of segment-anything's own classes, small enough to run hundreds of times, with random weights."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and lose much where other work shares the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_sam() -> Sam:
    return build_small_sam()


@pytest.fixture
def make_sam() -> Callable[[int], Sam]:
    return build_small_sam
