"""Pixels and coordinates: what reaches the encoder and the prompt encoder."""

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide

from teachers.sam.pixels import Frame, to_input_pixels


@pytest.mark.parametrize("size", [(64, 64), (40, 100), (200, 90), (7, 3), (1, 500)])
def test_pixels_equal_official_preprocessing(small_sam: Sam, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    square, frame = to_input_pixels(image, small_sam)
    height, width = frame.input_size
    assert max(height, width) == 64
    assert square.shape == (3, 64, 64)
    if min(size) > 1:  # segment-anything rounds a side below half a pixel to 0, which has no pixels
        resized = ResizeLongestSide(64).apply_image(image)
        expected = small_sam.preprocess(torch.from_numpy(resized.copy()).permute(2, 0, 1).float())
        assert torch.equal(square, expected)


def test_padding_is_zero_after_normalisation(small_sam: Sam) -> None:
    square, frame = to_input_pixels(np.full((32, 64, 3), 255, np.uint8), small_sam)
    assert frame.input_size == (32, 64)
    assert frame.extent == (1.0, 0.5)
    assert (square[:, 32:] == 0).all()
    assert (square[:, :32] > 2).all()


@pytest.mark.parametrize(
    ("xy", "expected"),
    [
        ((0.0, 0.0), (-0.5, -0.5)),  # the image's corner: half a pixel before the first pixel's centre
        ((100.0, 50.0), (63.5, 31.5)),
        ((50.0, 25.0), (31.5, 15.5)),
    ],
)
def test_continuous_coordinates_become_pixel_indices(
    xy: tuple[float, float], expected: tuple[float, float]
) -> None:
    assert tuple(Frame(50, 100, 64).to_input(np.array(xy))) == expected


def test_a_pixel_centre_is_encoded_as_the_grid_cell_it_lies_in(small_sam: Sam) -> None:
    # The dense encoding of cell (3, 5) stands at its centre: (5.5, 3.5) of 8 x 8, which is (44, 28) of 64 x 64.
    frame = Frame(128, 128, 64)
    mapped = torch.from_numpy(frame.to_input(np.array([[[88.0, 56.0]]])))
    encoder = small_sam.prompt_encoder
    tokens, _ = encoder(points=(mapped, torch.ones(1, 1)), boxes=None, masks=None)
    position = tokens[0, 0] - encoder.point_embeddings[1].weight[0]
    torch.testing.assert_close(position, encoder.get_dense_pe()[0, :, 3, 5], atol=1e-5, rtol=0)
