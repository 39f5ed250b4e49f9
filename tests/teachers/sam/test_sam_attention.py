"""The fast encoder attention gives segment-anything's own numbers."""

from copy import deepcopy

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, Sam
from segment_anything.modeling.image_encoder import Attention

from teachers.sam.attention import FastAttention, use_fast_attention


def test_encoder_equals_official(small_sam: Sam) -> None:
    official = small_sam.image_encoder
    fast = deepcopy(official)
    use_fast_attention(fast)
    assert all(isinstance(block.attn, FastAttention) for block in fast.blocks)
    assert fast.state_dict().keys() == official.state_dict().keys()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = official(images)
    assert expected.abs().max() > 1
    torch.testing.assert_close(fast(images), expected, rtol=0, atol=1e-5)


def test_vit_b_blocks_at_a_quarter_of_the_size() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=256, depth=2, use_rel_pos=True, window_size=14, global_attn_indexes=(1,), out_chans=256
    ).requires_grad_(False)
    for block in encoder.blocks:
        torch.nn.init.normal_(block.attn.rel_pos_h, std=0.1)
        torch.nn.init.normal_(block.attn.rel_pos_w, std=0.1)
    images = torch.randn(1, 3, 256, 256)
    expected = encoder(images)
    use_fast_attention(encoder)
    torch.testing.assert_close(encoder(images), expected, rtol=0, atol=1e-4)


def test_without_relative_positions() -> None:
    torch.manual_seed(0)
    official = Attention(12, num_heads=2, use_rel_pos=False)
    x = torch.randn(2, 3, 5, 12)
    torch.testing.assert_close(FastAttention(official)(x), official(x), rtol=0, atol=1e-6)


def test_gradients_reach_the_relative_positions(small_sam: Sam) -> None:
    official = small_sam.image_encoder.requires_grad_(True)
    fast = deepcopy(official)
    use_fast_attention(fast)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for encoder in (official, fast):
        encoder(images).square().mean().backward()
    wanted = {name: value.grad for name, value in official.named_parameters()}
    for name, value in fast.named_parameters():
        torch.testing.assert_close(value.grad, wanted[name], rtol=1e-3, atol=1e-6)


def test_wrong_size_is_refused(small_sam: Sam) -> None:
    use_fast_attention(small_sam.image_encoder)
    with pytest.raises(ValueError, match="size 7 has 13 rows, got 15"):
        small_sam.image_encoder.blocks[2].attn(torch.zeros(1, 7, 7, 48))
