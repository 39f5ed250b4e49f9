"""Which masks are trusted least, and what their own estimates turn out to be worth."""

import numpy as np
import pytest
from evaluate_fakes import LEFT, RIGHT, TOP, full, weak
from stage_fakes import Stream, human, teacher

from pipeline.data.matching import matched_miou
from pipeline.stages.trust import Spread, mask_trust


def test_trust_ranks_masks_by_all_that_is_known_of_them() -> None:
    """Four masks share the lowest stability; the doubtful one among them is the one SAM itself doubts."""
    known = [(0.9, 0.0), (0.1, 0.0), (0.8, 0.0), (0.7, 0.0), (0.2, 0.5), (0.95, 0.9)]
    shown = [teacher(TOP, pred_iou=p, stability=s) for p, s in known]
    others = [teacher(TOP), human(LEFT), teacher(TOP, dropped="x", pred_iou=0.0), teacher(None, pred_iou=0.0)]
    data = Stream([weak(1, *shown[:3]), weak(2, *others, *shown[3:]), weak(3, shown[0], dropped="bad")])
    trust = mask_trust(data)
    assert len(trust) == 7
    assert np.isnan(trust[3])  # nothing is known of it
    assert np.delete(trust, 3) == pytest.approx(
        [(5 + 2.5) / 12, (1 + 2.5) / 12, (4 + 2.5) / 12, (3 + 2.5) / 12, (2 + 5) / 12, 1]
    )
    assert mask_trust(Stream([weak(1, teacher(TOP, quality=0.3))])).tolist() == [0.3]
    assert len(mask_trust(Stream([]))) == 0


def test_estimates_are_held_against_the_measured_iou() -> None:
    truth = [full(1, human(LEFT), human(RIGHT, 7, 2)), full(2, human(LEFT))]
    found = [
        weak(
            1,
            teacher(TOP, pred_iou=0.8, score=None),
            teacher(RIGHT, 7, pred_iou=0.95, quality=0.3, score=None),
        ),
        weak(2, teacher(RIGHT, pred_iou=0.15, score=None)),
    ]
    spread = Spread()
    matched_miou(truth, found, each=spread)
    said = spread.reliability()
    assert list(said) == ["quality", "predicted IoU"]  # what no mask has is left out
    one = said["predicted IoU"]
    assert (one.masks, one.correlation) == (3, pytest.approx(1))
    assert (one.estimate, one.iou) == (pytest.approx(1.9 / 3), pytest.approx(0.5))
    assert [(b.low, b.masks, b.iou) for b in one.bins] == [(0.1, 1, 0), (0.8, 1, 0.5), (0.9, 1, 1)]
    assert said["quality"].correlation is None
    assert [index for index, count in enumerate(spread.iou_counts) if count] == [10, 19]
    assert (dict(spread.objects), dict(spread.missed)) == ({3: 2, 7: 1}, {3: 1})


@pytest.mark.parametrize(("value", "low"), [(0.0, 0.0), (0.3, 0.3), (0.7, 0.7), (0.999, 0.9), (1.0, 0.9)])
def test_an_estimate_falls_into_the_bin_that_starts_at_it(value: float, low: float) -> None:
    spread = Spread()
    spread([], [teacher(LEFT, pred_iou=value)])
    (only,) = spread.reliability()["predicted IoU"].bins
    assert only.low == pytest.approx(low)
