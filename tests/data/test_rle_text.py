"""Texts checked all at once, and re-used where they are canonical, against decoding and encoding them one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.errors import BadInput
from pipeline.data.rle_text import all_canonical, recode, runs_to_text, text_to_runs


def written(runs: list[int], padding: list[int]) -> str:
    """Counts as COCO writes them, each number with so many groups more than it needs."""
    deltas = [run - (runs[i - 2] if i > 2 else 0) for i, run in enumerate(runs)]
    text = ""
    for delta, spare in zip(deltas, padding, strict=True):
        groups = (delta if delta >= 0 else ~delta).bit_length() // 5 + 1 + spare
        codes = [(delta >> 5 * place & 31) | (32 if place < groups - 1 else 0) for place in range(groups)]
        text += "".join(chr(code + 48) for code in codes)
    return text


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, int]:
    """A text and its pixels; in most draws canonical, else padded, with empty runs, of a wrong sum, or no RLE."""
    low = draw(st.sampled_from([1, 1, 1, 0]))
    runs = [draw(st.integers(0, 40)), *draw(st.lists(st.integers(low, 3000), min_size=1, max_size=9))]
    padding = [draw(st.integers(0, 9)) == 9 for _ in runs]
    wrong = draw(st.sampled_from([0] * 8 + [-1, 1]))
    text = written(runs, [int(spare) for spare in padding])
    odd = draw(st.sampled_from([None] * 12 + ["", "P", text + "P", "é", "0~", "o" * 8 + "0"]))
    return (text if odd is None else odd), max(1, sum(runs) + wrong)


def is_canonical(text: str, pixels: int) -> bool:
    try:
        return runs_to_text(text_to_runs(text, pixels, where="x")) == text
    except BadInput:
        return False


@given(st.lists(texts(), max_size=4))
def test_many_texts_are_judged_as_one_by_one(found: list[tuple[str, int]]) -> None:
    expected = all(is_canonical(text, pixels) for text, pixels in found)
    assert all_canonical([text for text, _ in found], [pixels for _, pixels in found]) == expected


@pytest.mark.parametrize("count", [1, 3, 300])
def test_good_texts_pass_and_one_bad_one_does_not(count: int) -> None:
    random = np.random.default_rng(count)
    runs = [random.integers(1, 5000, random.integers(1, 40)).tolist() for _ in range(count)]
    good = [written(one, [0] * len(one)) for one in runs]
    pixels = [sum(one) for one in runs]
    assert all_canonical(good, pixels)
    for place in {0, count // 2, count - 1}:
        swapped = [*good[:place], written(runs[place], [1] * len(runs[place])), *good[place + 1 :]]
        assert not all_canonical(swapped, pixels)
        assert not all_canonical(good, [*pixels[:place], pixels[place] + 1, *pixels[place + 1 :]])


def test_a_number_does_not_go_on_in_the_next_text() -> None:
    assert all_canonical(["4Q1", "<"], [37, 12])
    assert not all_canonical(["4Q", "1<"], [37, 12])


def test_a_sum_that_is_right_by_overflow_is_wrong() -> None:
    ramp = np.append(0, np.repeat(np.arange(1, 46_341), 2)).astype(np.uint64) << np.uint64(33)
    lacking = 2**64 + 7 - sum(ramp.tolist())
    more, rest = divmod(lacking, len(ramp))
    runs = ramp.astype(np.int64) + more
    runs[len(runs) - rest :] += 1
    assert runs.min() > 0
    assert int(runs.sum()) == 7
    assert not all_canonical([runs_to_text(runs)], [7])


@given(texts())
def test_a_text_is_used_again_only_if_it_is_canonical(found: tuple[str, int]) -> None:
    text, pixels = found
    try:
        runs = text_to_runs(text, pixels, where="x")
    except BadInput:
        return
    assert recode(text, runs) == runs_to_text(runs)
