"""Low-res logits to original size: as segment-anything's, and the crop exactly as the whole canvas."""

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam

from pipeline.data.masks import decode, tight_box
from teachers.sam.masks import to_mask
from teachers.sam.pixels import Frame
from teachers.sam.predictor import Answer
from teachers.sam.upsample import Upsampler

SIZES = [(64, 64), (48, 64), (100, 37), (200, 300), (17, 33), (1, 9)]
SIDE, LOW = 64, 32


def smooth_logits(seed: int, *, bias: float = -3.0) -> np.ndarray:
    noise = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(seed)) * 6 + bias
    return torch.nn.functional.interpolate(noise, (LOW, LOW), mode="bicubic")[0, 0].numpy()


def whole(upsampler: Upsampler, logits: np.ndarray) -> np.ndarray:
    crop = upsampler.above(logits, -np.inf)
    assert crop is not None
    return crop.logits


@pytest.mark.parametrize("size", SIZES)
def test_full_canvas_equals_official_postprocessing(small_sam: Sam, size: tuple[int, int]) -> None:
    frame, logits = Frame(*size, SIDE), smooth_logits(0)
    expected = small_sam.postprocess_masks(torch.from_numpy(logits)[None, None], frame.input_size, size)
    ours = whole(Upsampler(frame, (LOW, LOW)), logits)
    np.testing.assert_allclose(ours, expected[0, 0].numpy(), atol=2e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_crop_has_the_bits_of_the_full_canvas(size: tuple[int, int], threshold: float, seed: int) -> None:
    logits = smooth_logits(seed)
    upsampler = Upsampler(Frame(*size, SIDE), (LOW, LOW))
    full, crop = whole(upsampler, logits), upsampler.above(logits, threshold)
    outside = np.ones(size, bool)
    if crop is not None:
        h, w = crop.logits.shape
        window = np.s_[crop.top : crop.top + h, crop.left : crop.left + w]
        assert np.array_equal(full[window], crop.logits)
        outside[window] = False
    assert not (full[outside] > threshold).any()


def test_a_small_object_is_computed_on_a_small_crop() -> None:
    logits = np.full((LOW, LOW), -9.0, np.float32)
    logits[10:12, 20:23] = 5.0
    crop = Upsampler(Frame(640, 640, SIDE), (LOW, LOW)).above(logits, 0.0)
    assert crop is not None
    assert crop.logits.size < 0.03 * 640 * 640


@pytest.mark.parametrize("seed", range(4))
def test_mask_box_and_scores(seed: int) -> None:
    frame, logits = Frame(120, 90, SIDE), smooth_logits(seed, bias=-2.0)
    upsampler = Upsampler(frame, (LOW, LOW))
    result, full = to_mask(Answer(logits, 1.3), upsampler), whole(upsampler, logits)
    assert result.rle is not None
    assert np.array_equal(decode(result.rle), full > 0)
    assert result.box == tight_box(result.rle)
    assert result.pred_iou == 1.0
    assert result.stability == (full > 1).sum() / (full > -1).sum()


def low_res_with(value: float, rows: slice, rest: float = -5.0) -> np.ndarray:
    logits = np.full((LOW, LOW), rest, np.float32)
    logits[rows] = value
    return logits


@pytest.mark.parametrize(
    ("logits", "stability"),
    [
        (np.full((LOW, LOW), -5.0, np.float32), 0.0),  # nothing above -1
        (np.full((LOW, LOW), -0.5, np.float32), 0.0),  # above -1, not above 0
        (low_res_with(5.0, np.s_[24:]), 0.0),  # positive in the padding only
    ],
)
def test_empty_masks(logits: np.ndarray, stability: float) -> None:
    result = to_mask(Answer(logits, -0.2), Upsampler(Frame(32, 64, SIDE), (LOW, LOW)))
    assert (result.rle, result.box, result.pred_iou) == (None, None, 0.0)
    assert result.stability == stability
