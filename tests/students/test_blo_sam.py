"""SAM's part of BLO-Inst: what it answers, what of it is trained, what its masks are."""

import pytest
import torch
from small_models import WIDTH, build_small_sam
from told_boxes import LEFT, RIGHT, aligned
from torch import nn

from students.blo_objective import AlignedSam
from teachers.sam.lora import TRAINED_WHOLE
from teachers.targets import low_res_masks


def test_a_new_one_answers_as_sam_does() -> None:
    sam = build_small_sam()
    pair = AlignedSam(sam, rank=4)
    features = torch.randn(3, WIDTH, 8, 8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([LEFT, RIGHT, [0.5, 1.25, 63.0, 20.75]])
    logits, quality = pair(features, boxes)
    for row in range(3):
        # SAM takes indices of pixels and adds half of one itself.
        sparse, dense = sam.prompt_encoder(points=None, boxes=boxes[row : row + 1] - 0.5, masks=None)
        low, iou = sam.mask_decoder(
            image_embeddings=features[row : row + 1],
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        torch.testing.assert_close(logits[row], low[0, 0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(quality[row], iou[0, 0], rtol=1e-4, atol=1e-5)


def test_what_is_trained_of_sam() -> None:
    sam = build_small_sam()
    pair = AlignedSam(sam, rank=3)
    trained = pair.trained()
    deltas = {name for name in trained if name.endswith((".down", ".up"))}
    layers = [
        n for n, m in sam.mask_decoder.named_modules() if n.endswith(("q_proj", "v_proj")) and m is not None
    ]
    assert deltas == {f"decoder.{layer}.{part}" for layer in layers for part in ("down", "up")}
    assert all(min(trained[name].shape) == 3 for name in deltas)
    rest = {name.split(".")[1] for name in trained.keys() - deltas}
    assert rest == {*TRAINED_WHOLE, "no_mask_embed"} - {"iou_prediction_head"}
    networks = {name.split(".")[2] for name in trained if "hypernetworks" in name}
    assert networks == {"0"}
    # What it was made of is no part of it, and its tokens begin as SAM's.
    assert torch.equal(trained["decoder.mask_tokens.weight"], sam.mask_decoder.mask_tokens.weight)
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.add_(1.0)
    assert not torch.equal(trained["decoder.mask_tokens.weight"], sam.mask_decoder.mask_tokens.weight)
    assert not any(parameter.requires_grad for parameter in sam.parameters())


def test_masks_as_the_decoder_sees_them() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4, :4] = True
    masks[0, 0, 4:6] = masks[0, 1, 4] = True  # three of the four pixels
    masks[1, 0, :2] = True  # two
    low = low_res_masks(masks, 4)
    assert low.dtype == torch.float32
    expected = torch.zeros(2, 4, 4)
    expected[0, :2, :2] = 1
    expected[0, 0, 2], expected[1, 0, 0] = 0.75, 0.5
    assert torch.equal(low, expected)
    assert low_res_masks(masks[:0], 4).shape == (0, 4, 4)


def test_all_that_is_trained_learns() -> None:
    """What the mask's loss does not come from is left out: it would be counted, saved and never move."""
    pair = aligned()
    features = torch.randn(2, WIDTH, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits, _ = pair(features, torch.tensor([LEFT, RIGHT], dtype=torch.float64))
    names, values = zip(*pair.trained().items(), strict=True)
    found = torch.autograd.grad(logits.square().sum(), values, allow_unused=True)
    assert [name for name, value in zip(names, found, strict=True) if value is None or not value.any()] == []


def test_only_a_few_masks_are_float_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = torch.rand(5, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    whole, shrink, asked = low_res_masks(masks, 4), nn.functional.interpolate, []
    monkeypatch.setattr("teachers.targets.AT_ONCE", 2)
    monkeypatch.setattr(
        nn.functional,
        "interpolate",
        lambda given, *more, **how: asked.append(len(given)) or shrink(given, *more, **how),
    )
    assert torch.equal(low_res_masks(masks, 4), whole)
    assert asked == [2, 2, 1]
