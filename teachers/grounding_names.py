"""Class names as a grounding detector reads them: normalised, packed into captions, found again by offsets."""

import re
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from pipeline.data.errors import BadInput
from pipeline.data.records import Ontology

SEPARATOR = ". "  # "." is the token that keeps names from seeing each other
_FRAME_TOKENS = 2  # [CLS] and [SEP]


@dataclass(frozen=True)
class Phrase:
    """A normalised name and the class that a box of it gets."""

    text: str
    class_id: int


@dataclass(frozen=True)
class Caption:
    """One text prompt: `spans[i]` are the character offsets [start, end) of `phrases[i]` in `text`."""

    text: str
    phrases: tuple[Phrase, ...]
    spans: tuple[tuple[int, int], ...]


def normalise(name: str) -> str:
    """Lower case, "_" as a space, the first of several synonyms ("/", ";"), without "(...)", "." and "?".

    Full stops and question marks separate names in the model's own text mask. Raises BadInput when nothing is left.
    """
    text = re.sub(r"\([^)]*\)", " ", name.lower())
    text = re.split(r"[/;]", text.replace("_", " "))[0]
    text = " ".join(re.sub(r"[.?]", "", text).split())
    if not text:
        raise BadInput(f"class name {name!r}: nothing is left of it as a text prompt; rename the class")
    return text


class Vocabulary:
    """The normalised names of an ontology, and which of several classes of one name a box gets."""

    def __init__(self, ontology: Ontology) -> None:
        self._text = {category.id: normalise(category.name) for category in ontology.categories}
        same: dict[str, list[int]] = {}
        for class_id, text in self._text.items():
            same.setdefault(text, []).append(class_id)
        for text, ids in same.items():
            if len(ids) > 1:
                warnings.warn(
                    f"classes {ids} are all {text!r} to the proposer: a box of it gets the one among the image's tags, "
                    f"else {ids[0]}",
                    stacklevel=2,
                )

    def phrases(self, class_ids: Sequence[int], tags: Collection[int] | None) -> tuple[Phrase, ...]:
        """One phrase for each distinct name, in the ontology's order; KeyError for an unknown id.

        Of several asked classes of one name the first among the tags is taken, else the first.
        """
        unknown = [class_id for class_id in class_ids if class_id not in self._text]
        if unknown:
            raise KeyError(f"no classes with ids {unknown}; known ids: {tuple(self._text)}")
        asked: dict[str, list[int]] = {}
        for class_id, text in self._text.items():
            if class_id in class_ids:
                asked.setdefault(text, []).append(class_id)
        return tuple(
            Phrase(text, next((i for i in ids if tags is not None and i in tags), ids[0]))
            for text, ids in asked.items()
        )


def captions(phrases: Sequence[Phrase], *, count: Callable[[str], int], limit: int) -> list[Caption]:
    """Pack whole names, in order, into as few captions "a. b. c." as next-fit gives, each of at most `limit` tokens.

    `count` gives the tokens of a name alone. Raises BadInput for a name that exceeds the limit by itself.
    """
    packed: list[list[Phrase]] = []
    room = 0
    for phrase in phrases:
        needs = count(phrase.text) + 1
        if needs > limit - _FRAME_TOKENS:
            raise BadInput(
                f"class name {phrase.text!r}: {needs} tokens with its full stop, the text prompt holds at most "
                f"{limit - _FRAME_TOKENS}"
            )
        if needs > room:
            packed.append([])
            room = limit - _FRAME_TOKENS
        packed[-1].append(phrase)
        room -= needs
    return [_caption(chunk) for chunk in packed]


def _caption(phrases: Sequence[Phrase]) -> Caption:
    spans, start = [], 0
    for phrase in phrases:
        spans.append((start, start + len(phrase.text)))
        start += len(phrase.text) + len(SEPARATOR)
    text = SEPARATOR.join(phrase.text for phrase in phrases) + SEPARATOR.strip()
    return Caption(text, tuple(phrases), tuple(spans))


def token_spans(caption: Caption, offsets: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The token positions of each phrase, from the tokens' character offsets (special tokens have empty ones).

    Raises BadInput for a phrase of which the tokenizer keeps nothing.
    """
    spans = []
    for phrase, (start, end) in zip(caption.phrases, caption.spans, strict=True):
        tokens = [i for i, (low, high) in enumerate(offsets) if start <= low < high <= end]
        if not tokens:
            raise BadInput(f"class name {phrase.text!r}: the tokenizer keeps nothing of it; rename the class")
        spans.append(tokens)
    return spans
