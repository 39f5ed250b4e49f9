"""Fitting AM-SAM: the levels see their own halves alone, a broken fit ends in the same bits, few masks are learned."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from few_shots import (
    DISC,
    ONTOLOGY,
    Attempts,
    Listed,
    few,
    fit,
    new_teacher,
    same,
    sample_of,
    shot,
    write_boxes,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.data.errors import BadInput
from pipeline.data.masks import iou_matrix
from pipeline.engine.context import Stopped
from teachers import am_sam_phases
from teachers.am_sam import assembled
from teachers.am_sam_artifact import read_am_sam
from teachers.am_sam_phases import Bench, Learner
from teachers.am_sam_settings import AmSamSettings
from teachers.fcos import build_fcos_tiny
from teachers.fitted_detector import WEIGHTS, open_detector
from teachers.sam.load import load_sam
from teachers.sam.predictor import SamPredictor

LEVELS = ("lower", "upper")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...]]]:
    """Which places each level's loss is asked about, in order."""
    heard: list[tuple[str, tuple[int, ...]]] = []
    step = am_sam_phases.bilevel_step

    def listening(lower, upper, lower_loss, upper_loss, **more):  # type: ignore[no-untyped-def]
        def tagged(level, loss):  # type: ignore[no-untyped-def]
            def call() -> Tensor:
                heard.append((level, ()))
                return loss()

            return call

        return step(lower, upper, tagged("lower", lower_loss), tagged("upper", upper_loss), **more)

    loss = Bench.loss

    def told(self: Bench, places: Sequence[int]) -> Tensor:
        heard[-1] = (heard[-1][0], tuple(places))
        return loss(self, places)

    monkeypatch.setattr(am_sam_phases, "bilevel_step", listening)
    monkeypatch.setattr(Bench, "loss", told)
    return heard


@pytest.mark.parametrize("order", ["first", "second"])
def test_each_level_learns_from_its_own_half_and_every_image_is_used(
    seen: list[tuple[str, tuple[int, ...]]], tmp_path: Path, order: str
) -> None:
    records = few(tmp_path, 5)
    fit(records, tmp_path / "a", tmp_path, order=order)
    card = read_am_sam(tmp_path / "a" / "out")
    asked = {level: [p for own, places in seen if own == level for p in places] for level in LEVELS}
    ids = {level: Counter(records[p].image_id for p in asked[level]) for level in LEVELS}
    assert set(ids["lower"]) == set(card.lower)
    assert set(ids["upper"]) == set(card.upper)
    assert not set(card.lower) & set(card.upper)
    # 3 epochs of 3 steps: each image of D1 thrice, those of D2 equally often but for one; second order asks D1 thrice.
    assert set(ids["lower"].values()) == {3 if order == "first" else 9}
    assert set(ids["upper"].values()) == {4, 5}


@pytest.fixture
def last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of the last epoch are kept, whatever D2 says."""
    monkeypatch.setattr(Learner, "take_best", lambda _: None)


@pytest.mark.usefixtures("last")
@pytest.mark.parametrize("mode", ["blo_sam", "single_level"])
@pytest.mark.parametrize(
    ("lr", "lr_prompt", "reached"),
    [(5e-3, 1e-30, {False}), (1e-30, 1e-3, {True}), (5e-3, 1e-3, {False, True})],
    ids=["theta", "phi", "both"],
)
def test_gradients_reach_only_what_each_level_owns(
    tmp_path: Path, mode: str, lr: float, lr_prompt: float, reached: set[bool]
) -> None:
    """With the other level standing still."""
    records = few(tmp_path)
    still: dict[str, object] = {"lr": 1e-30, "lr_prompt": 1e-30, "weight_decay": 0, "mode": mode}
    _, before = fit(records, tmp_path / "a", tmp_path, **still)
    _, after = fit(records, tmp_path / "b", tmp_path, **{**still, "lr": lr, "lr_prompt": lr_prompt})
    names = {name for name in before if (before[name] - after[name]).abs().max() > 1e-6}
    assert {"prompt_encoder" in name for name in names} == reached


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "blo_sam", "order": "second"},
        {"mode": "single_level"},
        {"mode": "am_sam", "boxes": "file", "calibration": "learned", "prompt": "image"},
    ],
    ids=str,
)
@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_broken_fit_ends_in_the_same_bits(
    tmp_path: Path, settings: dict[str, object], stop_after: int
) -> None:
    records = few(tmp_path)
    if settings.get("boxes") == "file":
        settings = {**settings, "box_file": write_boxes(tmp_path / "boxes.json", records)}
    _, whole = fit(records, tmp_path / "a", tmp_path, **settings)
    attempts = Attempts(tmp_path / "b", tmp_path)
    with pytest.raises(Stopped):
        new_teacher(**settings).fit(Listed(records), attempts.context("first", stop_after=stop_after))
    new_teacher(**settings).fit(Listed(records), attempts.context())
    assert same(load_file(tmp_path / "b/out" / WEIGHTS), whole)
    for name in ("loss.json", "dice.json", "teacher.json"):
        assert (tmp_path / "b/out" / name).read_bytes() == (tmp_path / "a/out" / name).read_bytes()


@pytest.mark.usefixtures("last")
def test_a_fit_follows_from_its_seed_and_settings(tmp_path: Path) -> None:
    records = few(tmp_path)
    _, one = fit(records, tmp_path / "a", tmp_path)
    _, again = fit(records, tmp_path / "b", tmp_path)
    assert same(one, again)
    for name, other in {"c": {"order": "second"}, "d": {"mode": "single_level"}, "e": {"rank": 3}}.items():
        _, found = fit(records, tmp_path / name, tmp_path, **other)
        assert not same(one, found), other


def test_the_best_epoch_on_d2_is_kept(tmp_path: Path) -> None:
    metrics, _ = fit(few(tmp_path), tmp_path / "a", tmp_path)
    curve = json.loads((tmp_path / "a/out/dice.json").read_text())
    assert len(curve) == 4
    assert metrics["dice"] == pytest.approx(max(curve), abs=1e-5)
    assert metrics["best_epoch"] == curve.index(max(curve))
    card = read_am_sam(tmp_path / "a/out")
    assert (card.best_epoch, card.dice) == (metrics["best_epoch"], metrics["dice"])


def small_detector(path: Path) -> Path:
    """A tiny FCOS that is new everywhere, so it may find nothing."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        save_file(build_fcos_tiny(2).model.state_dict(), path)
    return path


def test_a_detector_is_tuned_along_and_goes_into_the_artifact(tmp_path: Path) -> None:
    records = few(tmp_path)
    settings: dict[str, object] = {
        "mode": "am_sam",
        "detector_weights": small_detector(tmp_path / "detector.safetensors"),
        "detector_epochs": 2,
        "score": 0.0,
    }
    metrics, weights = fit(records, tmp_path / "a", tmp_path, **settings)
    assert metrics["prompts"] == 8
    assert any(name.startswith("detector.") for name in weights)
    detector, facts = open_detector(tmp_path / "a/out")
    assert facts.categories == ONTOLOGY.categories
    assert detector is not None
    losses = json.loads((tmp_path / "a/out/loss.json").read_text())
    assert {name: {half: len(own) for half, own in told.items()} for name, told in losses.items()} == {
        "detector": {"loss": 2},
        "masks": {"loss": 6, "loss_of_d1": 6},
    }
    attempts = Attempts(tmp_path / "b", tmp_path)
    for stop_after in (1, 2):  # within the detector's phase, and within the levels'
        with pytest.raises(Stopped):
            new_teacher(**settings).fit(
                Listed(records), attempts.context(str(stop_after), stop_after=stop_after)
            )
    new_teacher(**settings).fit(Listed(records), attempts.context())
    assert same(load_file(tmp_path / "b/out" / WEIGHTS), weights)
    asked = new_teacher(
        artifact=tmp_path / "a/out", **{**settings, "boxes": "fitted", "detector_weights": None}
    )
    sample = sample_of(shot(7, tmp_path), tmp_path)
    same_asked = new_teacher(artifact=tmp_path / "a/out", **settings)
    assert asked.label([sample]) == same_asked.label([sample])
    with pytest.raises(BadInput, match="fitted are those of a tuned teacher"):
        asked.fit(Listed(records), attempts.context("more"))


def test_four_masks_are_learned(tmp_path: Path) -> None:
    """By the embedded SAM, with the boxes of the truth: Dice above 0.95 on D1 and D2."""
    records = few(tmp_path, classes=(3,), size=(96, 128))
    boxes = write_boxes(tmp_path / "boxes.json", records)
    own = AmSamSettings.model_validate({"boxes": "file", "box_file": boxes, "epochs": 12})
    context = Attempts(tmp_path / "a", tmp_path, DISC).context()
    teacher = assembled(own, SamPredictor(load_sam("tiny")), ontology=DISC)
    metrics = teacher.fit(Listed(records), context)
    assert isinstance(metrics["dice"], float)
    assert metrics["dice"] > 0.95
    tuned = assembled(own, SamPredictor(load_sam("tiny")), ontology=DISC, artifact=context.out)
    for record in records:
        (found,) = tuned.label([sample_of(record, tmp_path)])[0]
        assert found.rle is not None
        (true,) = record.instances
        assert true.rle is not None
        overlap = float(iou_matrix([true.rle], [found.rle])[0, 0])
        assert 2 * overlap / (1 + overlap) > 0.95
