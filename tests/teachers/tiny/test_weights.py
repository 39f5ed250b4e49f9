"""Embedded weights: what is written is what is read, and nothing else is."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.data.errors import BadInput
from teachers.tiny.listing import FOLDER, LISTING, digest_of
from teachers.tiny.weights import WeightFacts, load_weights, save_weights

FACTS = WeightFacts(command="python -m x", seed=1, steps=2, minutes=0.5, score={"AP50": 0.25}, needs={})
STATE = {"weight": torch.tensor([[0.5, -2.0], [1e-3, 0.0]]), "count": torch.tensor(7)}


def test_halves_come_back_as_floats_and_counts_as_counts(tmp_path: Path) -> None:
    path = save_weights("a", STATE, FACTS, tmp_path)
    loaded = load_weights("a", tmp_path)
    assert loaded["weight"].dtype == torch.float32
    torch.testing.assert_close(loaded["weight"], STATE["weight"].half().float(), rtol=0, atol=0)
    assert loaded["count"].item() == 7
    entry = json.loads((tmp_path / LISTING).read_text())["a.safetensors"]
    assert (entry["steps"], entry["score"], entry["sha256"]) == (2, {"AP50": 0.25}, digest_of("a", tmp_path))
    assert path.stat().st_size < 1000


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    paths = [save_weights("a", STATE, FACTS, tmp_path / str(i)) for i in range(4)]
    assert len({path.read_bytes() for path in paths}) == 1


def test_a_second_file_keeps_the_first_listed(tmp_path: Path) -> None:
    save_weights("a", STATE, FACTS, tmp_path)
    save_weights("b", STATE, FACTS, tmp_path)
    assert load_weights("a", tmp_path).keys() == load_weights("b", tmp_path).keys()


def test_a_file_made_for_other_weights_is_refused(tmp_path: Path) -> None:
    save_weights("text", STATE, FACTS, tmp_path)
    needs = WeightFacts("x", 0, 1, 1.0, {}, {"text": digest_of("text", tmp_path)})
    save_weights("grounder", STATE, needs, tmp_path)
    load_weights("grounder", tmp_path)
    save_weights("text", {"weight": torch.ones(1)}, FACTS, tmp_path)
    with pytest.raises(BadInput, match=r"grounder.safetensors: made for text of sha256"):
        load_weights("grounder", tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: (f / "a.safetensors").unlink(),
            r"a.safetensors: no such embedded weights; there are \[\]",
        ),
        (lambda f: (f / "a.safetensors").write_bytes(b"x"), "sha256 is .*, weights.json lists"),
        (lambda f: (f / LISTING).unlink(), "weights.json: no such file"),
        (lambda f: (f / LISTING).write_text("{}"), "no such embedded weights"),
    ],
    ids=["missing", "damaged", "no listing", "not listed"],
)
def test_bad_files(tmp_path: Path, spoil, message: str) -> None:
    save_weights("a", STATE, FACTS, tmp_path)
    spoil(tmp_path)
    with pytest.raises(BadInput, match=message):
        load_weights("a", tmp_path)


def test_values_beyond_fp16_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"w holds values beyond fp16, the largest is 7e\+04"):
        save_weights("a", {"w": torch.tensor([70_000.0])}, FACTS, tmp_path)


def test_every_embedded_file_is_listed_and_as_listed() -> None:
    listed = set(json.loads((FOLDER / LISTING).read_text()))
    assert {path.name for path in FOLDER.glob("*.safetensors")} == listed
    for name in listed:
        load_weights(name.removesuffix(".safetensors"))
