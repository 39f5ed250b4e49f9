"""Correction clicks lie in the error, and say what is wrong there."""

import numpy as np
import pytest
import torch
from torch import Tensor

from teachers.tiny.clicks import central_clicks, random_clicks


def square(low: int, high: int) -> Tensor:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[low:high, low:high] = True
    return mask


def logits_of(mask: Tensor) -> Tensor:
    return torch.where(mask, 5.0, -5.0)[::2, ::2]


TRUTH = square(16, 32)
CASES = [
    pytest.param(square(16, 24), 1, id="too small"),
    pytest.param(square(16, 48), 0, id="too large"),
    pytest.param(square(0, 0), 1, id="empty"),
    pytest.param(TRUTH, 1, id="perfect"),
]


@pytest.mark.parametrize(("mask", "label"), CASES)
@pytest.mark.parametrize("central", [True, False])
def test_a_click_lies_in_the_error(mask: Tensor, label: int, central: bool) -> None:
    logits, truth = logits_of(mask)[None], TRUTH[None]
    for seed in range(20):
        points, labels = (
            central_clicks(logits, truth)
            if central
            else random_clicks(logits, truth, np.random.default_rng(seed))
        )
        assert (points.shape, labels.shape) == ((1, 1, 2), (1, 1))
        x, y = points[0, 0].long().tolist()
        assert labels.item() == label
        assert bool(TRUTH[y, x]) is bool(label)


def test_the_central_click_is_far_from_the_borders_of_the_error() -> None:
    points, labels = central_clicks(logits_of(square(0, 0))[None], square(16, 33)[None])
    assert points.tolist() == [[[24.5, 24.5]]]
    assert labels.tolist() == [[1]]


def test_the_edge_of_the_image_is_a_border_too() -> None:
    points, _ = central_clicks(logits_of(square(0, 0))[None], square(0, 17)[None])
    assert points.tolist() == [[[8.5, 8.5]]]


def test_each_mask_has_its_own_click() -> None:
    logits = torch.stack([logits_of(square(16, 24)), logits_of(square(16, 48))])
    points, labels = random_clicks(logits, TRUTH.expand(2, -1, -1), np.random.default_rng(0))
    assert (points.shape, labels.tolist()) == ((2, 1, 2), [[1], [0]])
