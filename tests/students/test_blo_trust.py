"""Pseudo-masks that are trusted less teach a BLO-Inst less if it is told to look at that, and as much if it is not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from little_pictures import MakeContext, draw
from safetensors.torch import load_file
from small_blo import new_student
from torch import Tensor

from pipeline.data.records import Record, Source
from students.blo_artifact import WEIGHTS
from students.blo_pair import Pair

pytestmark = pytest.mark.usefixtures("small_sam")
SURE, DOUBTED = 0.9, 0.2  # expected IoU with the truth
Fit = Callable[..., dict[str, Tensor]]


def pseudo(record: Record, disc: float) -> Record:
    """With masks that a teacher made; the disc's is trusted as said, the bar's is sure."""
    trust = (disc, SURE)
    made = zip(record.instances, trust, strict=True)
    return replace(
        record, instances=tuple(replace(one, source=Source.TEACHER, quality=value) for one, value in made)
    )


@pytest.fixture
def fit(images: Path, make_context: MakeContext, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    """The weights after one step on pictures whose discs are trusted so much."""
    monkeypatch.setattr(Pair, "take_best", lambda _: None)
    pictures = [draw(index, images) for index in range(4)]

    def train(disc: float, **settings: object) -> dict[str, Tensor]:
        context = make_context(f"disc-{disc}")
        student = new_student(trained, **{"steps": 1, "pretrain_epochs": 0, **settings})
        student.fit([pseudo(picture, disc) for picture in pictures], context)  # type: ignore[arg-type]
        return load_file(context.out / WEIGHTS)

    return train


def changed(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    """Of which networks some numbers differ."""
    return {name.split(".")[0] for name, value in one.items() if not torch.equal(value, other[name])}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # SAM's step comes first: what differs in it is from its own loss.
        ({}, {"sam", "detector"}),
        ({"seg": 0.0, "order": "separate"}, {"detector"}),
        ({"steps": None, "epochs": 0, "pretrain_epochs": 1}, {"detector"}),
        ({"trust_weights": False}, set()),
    ],
    ids=["both", "the detector's own losses", "the detector alone", "not looked at"],
)
def test_trust_weighs_the_losses(fit: Fit, settings: dict[str, object], expected: set[str]) -> None:
    assert changed(fit(SURE, **settings), fit(DOUBTED, **settings)) == expected
