"""Grounding DINO's architecture at the tiny grounder's size: it knows the words, learns, and its boxes are scored."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import tiny_dino
from teachers.grounding import SPECIAL_TOKENS
from teachers.tiny.command import STRANGERS
from teachers.tiny.recipe import step_rng
from teachers.tiny.train_grounder import NAMES


def test_every_name_is_words_that_the_tokenizer_knows() -> None:
    words = tiny_dino.tokenizer()
    assert words.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(SPECIAL_TOKENS.values())
    for name in (*STRANGERS, *(n for own in NAMES for n in own)):
        assert words.unk_token_id not in words(name)["input_ids"]


def test_a_caption_names_each_class_at_its_place() -> None:
    phrases = tiny_dino._caption(step_rng(0, 1)).removesuffix(" .").split(" . ")
    assert all(phrase in names for phrase, names in zip(phrases, NAMES, strict=False))
    assert set(phrases[len(NAMES) :]) <= set(STRANGERS)


def test_it_learns_and_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tiny_dino, "BATCH", 2)
    monkeypatch.setattr(tiny_dino.torch, "set_num_threads", lambda _: None)
    options = f"tiny_dino --workdir {tmp_path} --steps 26 --count 4 --evaluate 1"
    monkeypatch.setattr("sys.argv", options.split())
    assert tiny_dino.main() == 0
    line = json.loads(capsys.readouterr().out)
    assert line["steps"] == 26
    assert 0 <= line["AP"] <= line["AP50"] <= 1
    (first,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert np.isfinite(first["loss"])
