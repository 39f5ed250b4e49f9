"""How far a mask is trusted."""

import pytest

from pipeline.data.records import Instance, Source
from teachers.trust import trust_of


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
