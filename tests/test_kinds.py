"""What `make kinds` asks of its means."""

import pytest

from benchmarks.kinds import checks

GOOD = {
    "none": 0.4,
    "class": 0.4,
    "point+class": 0.6,
    "box+class": 0.8,
    "disc": 0.3,
    "ellipse": 0.7,
    "zero-shot": 0.605,
}


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({}, []),
        ({"class": 0.39}, ["none <= class <= point+class <= box+class"]),
        ({"point+class": 0.81}, ["none <= class <= point+class <= box+class"]),
        ({"disc": 0.6}, ["point+class above its disc"]),
        ({"ellipse": 0.8}, ["box+class above its ellipse"]),
        ({"zero-shot": 0.62}, ["gated at most 0.01 below zero-shot"]),
    ],
)
def test_each_check_fails_by_itself(changed: dict[str, float], failed: list[str]) -> None:
    passed = checks(GOOD | changed)
    assert [name for name, held in passed.items() if not held] == failed
