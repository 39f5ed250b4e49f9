import pytest

from pipeline.data.errors import printable, show

DEEP: list[object] = []
for _ in range(900):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        (5, "5"),
        (True, "True"),
        (2**63, "a huge integer"),
        (-(10**4000), "a huge integer"),
        ([1, 2.5, None, "x"], "[1, 2.5, None, 'x']"),
        ({"a": 1}, "{'a': 1}"),
        ("a\x1b[0m\u202e\ud800", r"'a\x1b[0m\u202e\ud800'"),
        (list(range(10**6)), "[0, 1, 2, 3, 4, 5, ...]"),
        (DEEP, "[[[[[[[...]]]]]]]"),
    ],
)
def test_a_found_value_is_shown_short_and_safe(value: object, text: str) -> None:
    assert show(value) == text


def test_no_value_is_shown_long() -> None:
    for value in ("x" * 10**6, ["\ud800" * 99] * 99, {"k" * 50 + str(n): "v" * 50 for n in range(99)}):
        assert len(show(value)) <= 60


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain, собака 犬 🐕 é", "plain, собака 犬 🐕 é"),
        ("a\nerror b\r\t", r"a\nerror b\r\t"),
        ("\x1b[2J\x07\x9b", r"\x1b[2J\x07\x9b"),
        ("\u202e\u2066\u200b\u2028\ufeff", r"\u202e\u2066\u200b\u2028\ufeff"),
        ("\ud800 \U000e0001", r"\ud800 \U000e0001"),
    ],
)
def test_a_line_stays_a_line(text: str, line: str) -> None:
    assert printable(text) == line
