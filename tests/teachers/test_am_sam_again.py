"""AM-SAM's second round: which weak images it learns from, that D2 alone decides what is kept, and that it resumes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from few_shots import Attempts, Listed, few, fit, new_teacher, same, shot, write_boxes
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.data.masks import encode
from pipeline.data.records import Instance, Record, Role, Source
from pipeline.engine.context import Stopped
from teachers.am_sam_again import own_masks
from teachers.am_sam_artifact import read_am_sam
from teachers.am_sam_phases import Bench
from teachers.am_sam_settings import AmSamSettings
from teachers.fitted_detector import WEIGHTS
from teachers.protocols import Sample

SHARE = 0.5


def weak(image_id: int, root: Path, **more: object) -> Record:
    return replace(shot(image_id, root, role=Role.WEAK), instances=(), **more)  # type: ignore[arg-type]


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    """Four shots and six weak images."""
    return [*few(tmp_path), *(weak(number, tmp_path) for number in range(11, 17))]


@pytest.fixture
def lower(monkeypatch: pytest.MonkeyPatch) -> list[frozenset[int]]:
    """The places of D1 and of D2 of each bench that a loss was asked of, in order."""
    heard: list[frozenset[int]] = []
    loss = Bench.loss

    def told(self: Bench, places: list[int]) -> Tensor:
        heard.append(frozenset(places))
        return loss(self, places)

    monkeypatch.setattr(Bench, "loss", told)
    return heard


def test_the_second_round_is_of_d1_and_own_masks_and_d2_judges_it(
    records: list[Record], lower: list[frozenset[int]], tmp_path: Path
) -> None:
    metrics, _ = fit(records, tmp_path / "a", tmp_path, self_training=SHARE)
    card = read_am_sam(tmp_path / "a/out")
    assert metrics["own_masks"] == 3
    upper = {place for place, record in enumerate(records) if record.image_id in card.upper}
    assert set(card.lower) | set(card.upper) == {1, 2, 3, 4}
    first, second = lower[:12], lower[12:]  # two rounds of 6 steps, a batch of each half in each
    assert frozenset().union(*first) == {0, 1, 2, 3}
    assert frozenset().union(*second[0::2]) <= {4, 5, 6} | ({0, 1, 2, 3} - upper)
    assert frozenset().union(*second[0::2]) & {4, 5, 6}
    assert frozenset().union(*second[1::2]) == upper
    losses = json.loads((tmp_path / "a/out/loss.json").read_text())
    assert {name: len(own["loss"]) for name, own in losses.items()} == {"masks": 6, "again": 6}
    assert len(json.loads((tmp_path / "a/out/dice.json").read_text())) == 8
    assert metrics["steps"] == 12


def test_what_does_not_help_by_d2_is_not_kept(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As good as before is not better; better is."""
    _, alone = fit(records, tmp_path / "a", tmp_path)
    judged: list[float] = []

    def dice(*_: object) -> float:
        judged.append(0.5 if len(judged) < 4 else later)
        return judged[-1]

    monkeypatch.setattr(Bench, "dice", dice)
    for later, kept, best in ((0.5, 0.5, 0), (0.6, 0.6, 4)):
        judged.clear()
        metrics, _ = fit(records, tmp_path / f"b{later}", tmp_path, self_training=SHARE)
        assert (metrics["dice"], metrics["best_epoch"]) == (pytest.approx(kept), best)
        assert metrics["dice_before"] == pytest.approx(0.5)
    assert alone.keys() == load_file(tmp_path / "b0.5/out" / WEIGHTS).keys()


def test_without_a_weak_image_there_is_no_second_round(tmp_path: Path) -> None:
    records = few(tmp_path)
    _, alone = fit(records, tmp_path / "a", tmp_path)
    metrics, found = fit(
        [*records, weak(9, tmp_path, dropped="why")], tmp_path / "b", tmp_path, self_training=1
    )
    assert same(alone, found)
    assert (metrics["own_masks"], metrics["steps"]) == (0, 6)
    assert len(json.loads((tmp_path / "b/out/dice.json").read_text())) == 4


@pytest.mark.parametrize("stop_after", [4, 7, 10])
def test_a_broken_fit_of_two_rounds_ends_in_the_same_bits(
    records: list[Record], tmp_path: Path, stop_after: int
) -> None:
    boxes = write_boxes(tmp_path / "boxes.json", [*records, *(shot(n, tmp_path) for n in range(11, 17))])
    settings = {"mode": "am_sam", "boxes": "file", "box_file": boxes, "self_training": SHARE}
    _, whole = fit(records, tmp_path / "a", tmp_path, **settings)
    attempts = Attempts(tmp_path / "b", tmp_path)
    with pytest.raises(Stopped):
        new_teacher(**settings).fit(Listed(records), attempts.context("first", stop_after=stop_after))
    new_teacher(**settings).fit(Listed(records), attempts.context())
    assert same(load_file(tmp_path / "b/out" / WEIGHTS), whole)
    for name in ("loss.json", "dice.json", "teacher.json", "boxes.json"):
        assert (tmp_path / "b/out" / name).read_bytes() == (tmp_path / "a/out" / name).read_bytes()


def test_labelling_weak_images_can_be_stopped(records: list[Record], tmp_path: Path) -> None:
    told: list[str] = []
    context = replace(
        Attempts(tmp_path / "a", tmp_path).context(),
        progress=lambda *said: told.append(said[2]),
        should_stop=lambda: told[-1:] == ["labelling weak images"],
    )
    with pytest.raises(Stopped, match="stopped while labelling weak images"):
        new_teacher(self_training=SHARE).fit(Listed(records), context)
    assert not list(context.out.iterdir())


MASK = encode(np.eye(48, 64, dtype=np.bool_))


def labels(batch: list[Sample]) -> list[list[Instance]]:
    """Two masks on image 1, of 0.9 and 0.5; one on the others, of a tenth of their number; on image 8 none."""
    found = []
    for sample in batch:
        number = sample.record.image_id
        scores = {1: (0.9, 0.5), 8: ()}.get(number, (number / 10,))
        masks = [Instance(Source.TEACHER, 3, rle=MASK, score=score) for score in scores]
        found.append([*masks, Instance(Source.TEACHER, 8, score=0.0, dropped="empty mask")])
    return found


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0, []), (0.25, [9]), (0.5, [1, 9]), (0.75, [1, 6, 9]), (1, [1, 2, 6, 9])],
)
def test_the_surest_images_are_kept(tmp_path: Path, share: float, expected: list[int]) -> None:
    """Of those on which something was found: on the mean of its masks image 1 has 0.7."""
    weaks = [weak(number, tmp_path) for number in (9, 8, 6, 2, 1)]
    others = [shot(20, tmp_path), weak(21, tmp_path, dropped="why"), shot(22, tmp_path, role=Role.RESERVED)]
    context = Attempts(tmp_path / "a", tmp_path).context()
    found = own_masks([*weaks, *others], labels, context, share=share)  # type: ignore[arg-type]
    assert [record.image_id for record in found] == expected
    assert all(instance.rle == MASK for record in found for instance in record.instances)


def test_one_level_has_nothing_that_judges() -> None:
    with pytest.raises(ValidationError, match="self_training wants a D2 that judges it"):
        AmSamSettings.model_validate({"mode": "single_level", "self_training": 0.5})
