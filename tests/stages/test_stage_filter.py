"""Filter: each limit drops what misses it, with a reason; the paper's preset drops nothing; human labels stay."""

import pytest
from pydantic import ValidationError
from stage_fakes import box_rle, human, record, teacher

from pipeline.data.records import Instance, Point
from pipeline.stages.filter import Filter, FilterConfig

MASK = box_rle(2, 2, 10, 10)


def run(config: FilterConfig, instance: Instance) -> Instance:
    (out,) = Filter(config)([record(instances=(instance,))])
    return out.instances[0]


@pytest.mark.parametrize(
    ("limits", "instance", "reason"),
    [
        ({"min_score": 0.5}, teacher(MASK, score=0.4), "score 0.4 below 0.5"),
        ({"min_score": 0.4}, teacher(MASK, score=0.4), None),
        ({"min_score": 0.5}, teacher(MASK, score=None), None),
        ({"min_stability": 0.9}, teacher(MASK, stability=0.5), "stability 0.5 below 0.9"),
        ({"min_area": 65}, teacher(MASK), "area 64 below 65"),
        ({"min_area": 64}, teacher(MASK), None),
        (
            {"point_inside": True},
            teacher(MASK, points=(Point(10.0, 5.0),)),
            "a positive point lies outside the mask",
        ),
        ({"point_inside": True}, teacher(MASK, points=(Point(9.9, 5.0),)), None),
        ({"point_inside": True}, teacher(MASK, points=(Point(20, 20, 0),)), None),
        ({"point_inside": True}, teacher(box_rle(30, 22, 32, 24), points=(Point(32.0, 24.0),)), None),
        ({"point_inside": True}, teacher(MASK), None),
        ({"min_score": 0.5}, human(MASK), None),
        ({"min_score": 0.5}, teacher(None, score=0.1, dropped="empty mask"), "empty mask"),
    ],
)
def test_limits(limits: dict[str, float], instance: Instance, reason: str | None) -> None:
    out = run(FilterConfig.model_validate({"preset": "custom"} | limits), instance)
    assert out.dropped == reason
    assert out.rle == instance.rle


def test_the_papers_preset_drops_nothing() -> None:
    doubtful = teacher(box_rle(0, 0, 1, 1), score=0.0, stability=0.0, points=(Point(20, 20),))
    assert run(FilterConfig(), doubtful) == doubtful


@pytest.mark.parametrize("limits", [{"min_score": 0.5}, {"point_inside": True}, {"min_area": 3}])
def test_a_limit_that_would_do_nothing_is_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="preset: custom"):
        FilterConfig.model_validate({"preset": "paper"} | limits)
    assert FilterConfig.model_validate(limits).preset is None


def test_a_confidence_without_a_precision_is_refused() -> None:
    with pytest.raises(ValidationError, match="confidence is of a precision, found none"):
        FilterConfig.model_validate({"min_quality": 0.5, "confidence": 0.95})
    assert FilterConfig.model_validate({"precision": 0.5, "confidence": 0.95}).confidence == 0.95
