"""How far a mask is trusted, and which pixels at its border that leaves in doubt."""

import numpy as np
import pytest

from pipeline.data.records import Instance, Source
from students.doubt import doubtful_border, trust_of


@pytest.mark.parametrize(
    ("instance", "trust"),
    [
        (Instance(Source.HUMAN, pred_iou=0.1), 1.0),
        (Instance(Source.TEACHER), 1.0),
        (Instance(Source.TEACHER, pred_iou=0.7), 0.7),
        (Instance(Source.TEACHER, pred_iou=0.7, quality=0.4), 0.4),
        (Instance(Source.TEACHER, quality=0.0), 0.05),
        (Instance(Source.STUDENT, quality=0.6), 0.6),
    ],
)
def test_calibrated_quality_comes_before_what_sam_predicts_and_humans_are_certain(instance, trust):
    assert trust_of(instance) == trust


RING = 240  # pixels about as far from the border of a disc of radius 30: they are in the band together


def disc(radius, *, size=101, center=(50, 50)):
    rows, columns = np.mgrid[:size, :size]
    return (rows - center[0]) ** 2 + (columns - center[1]) ** 2 <= radius**2


@pytest.mark.parametrize("trust", [0.98, 0.8, 0.5, 0.2])
@pytest.mark.parametrize("center", [(50, 50), (3, 50)], ids=["inside", "at the image's edge"])
def test_the_band_lies_around_the_border_and_is_as_large_as_the_expected_error(trust, center):
    mask = disc(30, center=center)
    band = doubtful_border(mask, trust)
    half = mask.sum() * (1 - trust) / (1 + trust)
    for side in (band & mask, band & ~mask):
        assert half - RING <= side.sum() <= half
    assert band.any() == (trust < 0.9)
    rows, columns = np.nonzero(band)
    distance = np.abs(np.hypot(rows - center[0], columns - center[1]) - 30)
    if center == (50, 50) and band.any():
        assert distance.max() <= np.abs(np.sqrt(900 - half / np.pi) - 30) + 1.5
    # A truth that differs from the mask by the band alone has no less than that IoU.
    for truth in (mask & ~band, mask | band):
        assert (mask & truth).sum() / (mask | truth).sum() >= trust


@pytest.mark.parametrize(
    ("mask", "trust"),
    [
        (disc(30), 1.0),
        (disc(2), 0.99),
        (np.zeros((5, 5), bool), 0.3),
        (np.ones((6, 8), bool), 0.5),
    ],
    ids=["certain", "less than a pixel is wrong", "empty", "the whole image"],
)
def test_there_may_be_no_band(mask, trust):
    assert not doubtful_border(mask, trust).any()
