"""Class names as text prompts: normalised, shared, packed, found again."""

import warnings
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.errors import BadInput
from pipeline.data.records import Category, Ontology
from teachers.grounding_names import Phrase, Vocabulary, captions, normalise, token_spans


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Car", "car"),
        ("traffic_light", "traffic light"),
        ("sofa/couch", "sofa"),
        ("tv;television", "tv"),
        ("bow (weapon)", "bow"),
        ("(red) door", "door"),
        ("a (b) c (d)", "a c"),
        ("door(double/left)", "door"),
        ("St. Bernard", "st bernard"),
        ("what?", "what"),
        ("  big   tree ", "big tree"),
        ("ÉTÉ", "été"),
    ],
)
def test_normalise(name: str, text: str) -> None:
    assert normalise(name) == text


@pytest.mark.parametrize("name", ["", "...", "(all of it)", "/couch", " _ "])
def test_a_name_of_which_nothing_is_left(name: str) -> None:
    with pytest.raises(BadInput, match="nothing is left"):
        normalise(name)


def ontology(*names: str) -> Ontology:
    return Ontology(tuple(Category(10 * i, name) for i, name in enumerate(names, start=1)))


SAME = ("bow (weapon)", "car", "bow (ribbon)")


@pytest.mark.parametrize(
    ("asked", "tags", "expected"),
    [
        ([10, 20, 30], None, [("bow", 10), ("car", 20)]),
        ([10, 20, 30], [30], [("bow", 30), ("car", 20)]),
        ([10, 20, 30], [10, 30], [("bow", 10), ("car", 20)]),
        ([30, 20], None, [("car", 20), ("bow", 30)]),
        ([30, 10], [20], [("bow", 10)]),
        ([], [10], []),
    ],
)
def test_two_classes_of_one_name(
    asked: list[int], tags: list[int] | None, expected: list[tuple[str, int]]
) -> None:
    with pytest.warns(UserWarning, match=r"\[10, 30\] are all 'bow'"):
        vocabulary = Vocabulary(ontology(*SAME))
    found = [(phrase.text, phrase.class_id) for phrase in vocabulary.phrases(asked, tags)]
    assert sorted(found) == sorted(expected)


def test_distinct_names_give_no_warning_and_unknown_ids_an_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vocabulary = Vocabulary(ontology("glass", "wine glass"))
    with pytest.raises(KeyError, match="99"):
        vocabulary.phrases([10, 99], None)


def words(text: str) -> int:
    return len(text.split())


def phrases(*texts: str) -> list[Phrase]:
    return [Phrase(text, i) for i, text in enumerate(texts)]


def test_the_caption_and_its_offsets() -> None:
    (caption,) = captions(phrases("glass", "wine glass"), count=words, limit=256)
    assert caption.text == "glass. wine glass."
    assert [caption.text[low:high] for low, high in caption.spans] == ["glass", "wine glass"]


@pytest.mark.parametrize(
    ("limit", "texts"),
    [
        (256, ["a. b b. c. d d d."]),
        (12, ["a. b b. c.", "d d d."]),  # 2 + 2 + 3 + 2 = 9, + 4 = 13
        (13, ["a. b b. c. d d d."]),
        (6, ["a.", "b b.", "c.", "d d d."]),
    ],
)
def test_packing(limit: int, texts: list[str]) -> None:
    packed = captions(phrases("a", "b b", "c", "d d d"), count=words, limit=limit)
    assert [caption.text for caption in packed] == texts


def test_a_name_too_long_alone() -> None:
    with pytest.raises(BadInput, match=r"'d d d': 4 tokens with its full stop, .* at most 3"):
        captions(phrases("a", "d d d"), count=words, limit=5)


@given(
    st.lists(st.text("ab ", min_size=1, max_size=12).map(lambda t: " ".join(t.split()) or "a"), max_size=30)
)
def test_packing_keeps_every_name_in_order_within_the_limit(texts: list[str]) -> None:
    asked = phrases(*texts)
    packed = captions(asked, count=words, limit=12)
    assert [phrase for caption in packed for phrase in caption.phrases] == asked
    needs = [sum(words(p.text) + 1 for p in caption.phrases) + 2 for caption in packed]
    assert all(need <= 12 for need in needs)
    for (_, later), need in zip(pairwise(packed), needs, strict=False):
        assert need + words(later.phrases[0].text) + 1 > 12  # the next name would not have fitted


def test_spans_are_by_place_not_by_word() -> None:
    (caption,) = captions(phrases("glass", "wine glass"), count=words, limit=256)
    offsets = [(0, 0), (0, 5), (5, 6), (7, 11), (12, 17), (17, 18), (0, 0)]
    assert token_spans(caption, offsets) == [[1], [3, 4]]
    with pytest.raises(BadInput, match="'wine glass': the tokenizer keeps nothing"):
        token_spans(caption, offsets[:3])
