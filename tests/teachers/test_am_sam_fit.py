"""Fitting AM-SAM: the levels see their own halves alone, a broken fit ends in the same bits, few masks end clearly."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from few_shots import DISC, ONTOLOGY, Attempts, Listed, new_teacher, sample_of, shot, write_boxes
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.data.errors import BadInput
from pipeline.data.masks import encode, iou_matrix
from pipeline.data.records import Ontology, Origin, Prompt, Record, Role
from pipeline.engine.context import Metrics, Stopped
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


def few(root: Path, count: int = 4, **more: object) -> list[Record]:
    return [shot(i, root, **more) for i in range(1, count + 1)]  # type: ignore[arg-type]


def fit(
    records: Sequence[Record], folder: Path, root: Path, *, ontology: Ontology = ONTOLOGY, **settings: object
) -> tuple[Metrics, dict[str, Tensor]]:
    context = Attempts(folder, root, ontology).context()
    metrics = new_teacher(ontology, **settings).fit(Listed(records), context)
    return metrics, load_file(context.out / WEIGHTS)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


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


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (lambda _: [], 0),
        (lambda root: few(root, 1), 1),
        (lambda root: [*few(root, 1), shot(2, root, classes=())], 1),
        (lambda root: [*few(root, 1), shot(2, root, role=Role.RESERVED)], 1),
        (lambda root: [*few(root, 1), replace(shot(2, root), dropped="why")], 1),
    ],
    ids=["no shot", "one shot", "one with a mask", "one reserved", "one in quarantine"],
)
def test_too_few_masks_are_told_and_leave_plain_sam(tmp_path: Path, records: object, found: int) -> None:
    context = Attempts(tmp_path / "a", tmp_path).context()
    metrics = new_teacher().fit(Listed(records(tmp_path)), context)  # type: ignore[operator]
    reason = f"tuning needs masks on 2 or more human-masked images, found {found}"
    assert metrics == {"zero_shot": reason, "images": found}
    card = read_am_sam(context.out)
    assert (card.zero_shot, card.reason) == (True, reason)
    teacher = new_teacher(artifact=context.out)
    sample = sample_of(shot(7, tmp_path), tmp_path)
    assert teacher.label([sample]) == new_teacher().label([sample])


def test_an_empty_mask_a_lone_class_and_sizes(tmp_path: Path) -> None:
    """An image whose only mask is empty is background; a class without a mask is not labelled; sizes may differ."""
    empty = shot(9, tmp_path, classes=())
    nothing = replace(shot(1, tmp_path).instances[0], rle=encode(np.zeros((48, 64), bool)))
    records = [
        shot(1, tmp_path, classes=(3,)),
        shot(2, tmp_path, classes=(3,), size=(100, 40)),
        shot(3, tmp_path, classes=(3,), size=(30, 31)),
        replace(empty, instances=(nothing,)),
    ]
    metrics, _ = fit(records, tmp_path / "a", tmp_path)
    assert metrics["images"] == 4
    assert metrics["classes_without_masks"] == 1
    assert read_am_sam(tmp_path / "a/out").taught == (3,)
    found = new_teacher(artifact=tmp_path / "a/out").label(
        [sample_of(shot(7, tmp_path), tmp_path, tags=(3, 8))]
    )[0]
    assert {instance.class_id for instance in found} <= {3}


def test_proposals_on_the_records_prompt(tmp_path: Path) -> None:
    def told(record: Record) -> Record:
        box = Prompt(Origin.DINO, (4.0, 4.0, 40.0, 40.0), class_id=3, score=0.9)
        return replace(record, proposals=(box,))

    records = [told(record) if record.image_id < 4 else record for record in few(tmp_path)]
    settings = {"mode": "am_sam", "boxes": "proposals"}
    metrics, _ = fit(records, tmp_path / "a", tmp_path, **settings)
    assert {name: metrics[name] for name in ("prompts", "prompts_without_box", "images_without_box")} == {
        "prompts": 8,
        "prompts_without_box": 5,
        "images_without_box": 1,
    }
    listed = json.loads((tmp_path / "a/out/boxes.json").read_text())
    assert [one["origin"] for one in listed] == ["dino", "image"] * 3 + ["image"] * 2


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
    assert [len(own) for own in losses] == [2, 6]
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


def test_a_class_that_the_ontology_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"image 1 \(1\.png\): class id 8 is not in the ontology"):
        fit(few(tmp_path), tmp_path / "a", tmp_path, ontology=DISC)


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
