"""Calibrate: which images are labelled by which teacher, what is learned of the masks, what filter makes of it."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from evaluate_fakes import summary
from stage_fakes import (
    FakeProposer,
    FakeTeacher,
    Stream,
    box_rle,
    context,
    human,
    record,
    teacher,
    write_images,
)

from pipeline.data.errors import BadInput
from pipeline.data.records import RLE, Instance, Origin, Point, Prompt, Record, Role, Source, WeakKind
from pipeline.engine.stage import Stopped
from pipeline.report.documents import CalibrationFile, GateFile
from pipeline.stages import calibrate, gate
from pipeline.stages.calibrate import Calibrate, CalibrateConfig
from pipeline.stages.filter import Filter, FilterConfig
from teachers.catalog import ModelSpec
from teachers.gating import Fold, Scores
from teachers.protocols import Sample

SPEC = ModelSpec(name="model", use="fake")
PROPOSER = ModelSpec(name="proposer", use="fake")


@dataclass
class Doubter(FakeTeacher):
    """A tuned teacher: the mask of an image with an odd id is right and it knows that; the others' are half right."""

    zero_shot_reason: str | None = None
    folds: tuple[Fold, ...] = ()
    labelled: list[int] = field(default_factory=list)
    seen: list[Record] = field(default_factory=list)

    def label(self, batch: list[Sample]) -> list[list[Instance]]:
        self.labelled += [sample.record.image_id for sample in batch]
        self.seen += [sample.record for sample in batch]
        return [
            [_answer(i, sample.record.image_id % 2 == 1) for i in sample.record.instances] for sample in batch
        ]

    def compare(self, samples: list[Sample], *, seed: int) -> dict[str, Scores]:
        raise NotImplementedError

    asked = label_by = compare


def _answer(label: Instance, right: bool) -> Instance:
    rle = box_rle(2, 2, 10, 10) if right else box_rle(2, 2, 10, 4)
    prompt = Prompt(Origin.HUMAN, points=(Point(3, 3),), class_id=label.class_id)
    return replace(label, source=Source.TEACHER, rle=rle, prompt=prompt, pred_iou=0.9 if right else 0.2)


def masked(image_id: int, role: Role = Role.RESERVED) -> Record:
    return record(image_id, role, instances=(human(box_rle(2, 2, 10, 10)),))


@dataclass
class Run:
    """One calibration in a folder: its models by artifact, and which of its artifacts there are."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    models: dict[str | None, object]
    artifacts: tuple[str, ...] = ("teacher",)
    proposer: FakeProposer | None = None
    semantic: bool = False

    def __call__(self, items: list[Record], **more: object) -> CalibrationFile:
        for name in ("dataset", "teacher", "gate"):
            (self.folder / name).mkdir(exist_ok=True)
        summary(semantic=self.semantic).write(self.folder / "dataset" / "summary.json")
        GateFile({"box": gate.untuned("why")}).write(self.folder / "gate" / "gate.json")
        write_images(self.folder / "images", items)

        def load(_: object, __: object, *, artifact: Path | None) -> object:
            within = None if artifact is None else artifact.relative_to(self.folder / "teacher").as_posix()
            return self.models[within]

        self.monkeypatch.setattr(calibrate, "load_teacher", load)
        self.monkeypatch.setattr(calibrate, "load_proposer", lambda *_: self.proposer)
        settings = {"score": 0.3, "batch_size": 2, **{k: more.pop(k) for k in ("images",) if k in more}}
        config = CalibrateConfig(model=SPEC, proposer=PROPOSER if self.proposer else None, **settings)
        artifacts = {name: self.folder / name for name in ("dataset", *self.artifacts)}
        Calibrate(config).run(Stream(items), context(self.folder, artifacts=artifacts, **more))
        return CalibrationFile.read(self.folder / "out" / "calibration.json")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, monkeypatch, {".": Doubter(), None: Doubter()})


MANY = [masked(i, Role.HUMAN_MASKED if i > 20 else Role.RESERVED) for i in range(1, 31)]


def test_reserved_images_are_labelled_as_weakly_as_the_others(run: Run) -> None:
    model = run.models["."]
    assert isinstance(model, Doubter)
    found = run(MANY)
    assert sorted(model.labelled) == list(range(1, 21))
    (label,) = model.seen[0].instances
    assert (label.rle, label.box_xyxy, len(label.points)) == (None, None, 1)  # point+class
    assert (found.masks, found.images, found.why, found.weak) == (20, 20, "reserved masks", "point+class")
    assert found.reliability is not None
    assert found.reliability.correlation == pytest.approx(1, abs=0.2)
    assert found.reliability.error < 0.15
    assert sorted(set(found.true)) == [0.25, 1.0]


def test_what_is_published_is_of_masks_that_the_regression_has_not_seen(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    def fitted(known: np.ndarray, iou: np.ndarray, ids: np.ndarray) -> np.ndarray:
        seen.extend((known.shape, iou.shape, ids.shape))
        return np.linspace(0, 1, len(iou))

    monkeypatch.setattr(calibrate.calibration, "cross_fitted", fitted)
    found = run(MANY)
    assert found.said == np.linspace(0, 1, 20).tolist()
    assert seen == [(20, len(calibrate.calibration.FEATURES)), (20,), (20,)]
    assert found.reliability == calibrate.reliability(np.array(found.said), np.array(found.true))


def test_masks_that_match_no_object_are_worth_nothing(run: Run) -> None:
    stray = [replace(r, instances=(replace(r.instances[0], rle=box_rle(20, 15, 30, 20)),)) for r in MANY]
    assert set(run(stray).true) == {0.0}


def test_few_masks_are_cross_fitted_with_the_teachers_folds(run: Run) -> None:
    folds = (
        Fold(path="folds/0", held_out=tuple(range(1, 9))),
        Fold(path="folds/1", held_out=(9, 10, 11, 12)),
    )
    models = {".": Doubter(folds=folds), "folds/0": Doubter(), "folds/1": Doubter()}
    run.models = dict(models)
    found = run([masked(i, Role.HUMAN_MASKED) for i in range(1, 13)])
    assert [sorted(model.labelled) for model in models.values()] == [[], list(range(1, 9)), [9, 10, 11, 12]]
    assert (found.masks, found.why) == (12, "masks that a fold of the teacher left out")


@pytest.mark.parametrize("artifacts", [(), ("teacher",)])
def test_a_teacher_that_was_not_tuned_has_seen_no_mask(run: Run, artifacts: tuple[str, ...]) -> None:
    run.artifacts = artifacts
    run.models["."] = Doubter(zero_shot_reason="1 image")
    found = run(MANY)
    assert found.images == 30
    assert "not tuned" in found.why


def test_the_gate_has_its_say(run: Run) -> None:
    run.artifacts = ("teacher", "gate")
    run(MANY)
    model = run.models["."]
    assert isinstance(model, Doubter)
    assert model.chosen == {"box": "zero_shot"}


def test_proposals_are_made_as_for_the_others(run: Run) -> None:
    run.proposer = FakeProposer({3: 0.31})
    run(MANY)
    model = run.models["."]
    assert isinstance(model, Doubter)
    assert run.proposer.asked[0] == [3]
    assert [p.class_id for p in model.seen[0].proposals] == [3]
    run.proposer = FakeProposer({3: 0.29})
    run(MANY)
    assert model.seen[-1].proposals == ()


def test_of_many_images_some_are_drawn(run: Run) -> None:
    found = run(MANY, images=12)
    model = run.models["."]
    assert isinstance(model, Doubter)
    assert found.images == len(set(model.labelled)) == 12


@pytest.mark.parametrize(("count", "found"), [(0, "found 0 on 0"), (9, "found 9 on 9")])
def test_too_few_masks_calibrate_nothing_and_it_says_so(run: Run, count: int, found: str) -> None:
    file = run([masked(i) for i in range(1, count + 1)])
    assert (file.calibrator, file.reliability, file.said) == (None, None, [])
    least = "at least 10 masks on at least 2 images"
    assert file.why == f"expected {least} to learn from (reserved masks), {found}"


def test_it_stops_when_asked(run: Run) -> None:
    with pytest.raises(Stopped):
        run(MANY, should_stop=lambda: True)


def test_a_semantic_set_is_refused(run: Run) -> None:
    run.semantic = True
    with pytest.raises(BadInput, match="found one of semantic masks"):
        run(MANY)


def made(rle: RLE, pred_iou: float = 0.9) -> Instance:
    """A mask as the run's teacher makes it."""
    prompt = Prompt(Origin.HUMAN, points=(Point(3, 3),), class_id=3)
    return teacher(rle, pred_iou=pred_iou, weak_kind=WeakKind.POINT, prompt=prompt)


def filtered(run: Run, instance: Instance, **limits: float) -> Instance:
    stage = Filter(FilterConfig.model_validate({"preset": "custom"} | limits))
    stage.setup(context(run.folder, artifacts={"calibration": run.folder / "out"}))
    (out,) = stage([record(instances=(instance,))])
    return out.instances[0]


def test_filter_gives_masks_their_quality_and_cuts(run: Run) -> None:
    run(MANY)
    sure, doubtful = (made(box_rle(2, 2, 10, y), p) for y, p in ((10, 0.9), (4, 0.2)))
    qualities = [filtered(run, one).quality or 0.0 for one in (sure, doubtful)]
    assert qualities == pytest.approx([1, 0.25], abs=0.2)
    assert filtered(run, doubtful).dropped is None
    assert filtered(run, sure, min_quality=0.5).dropped is None
    reason = filtered(run, doubtful, min_quality=0.5).dropped or ""
    assert reason.startswith("quality 0.")
    assert reason.endswith("below 0.5")
    assert filtered(run, sure, precision=0.6).dropped is None
    assert filtered(run, doubtful, precision=0.6).dropped is not None
    assert filtered(run, doubtful, precision=0.2).dropped is None
    assert filtered(run, human(box_rle(2, 2, 10, 10))).quality is None
    assert filtered(run, teacher(None, dropped="empty mask")).quality is None


def test_a_precision_that_the_masks_cannot_promise_is_refused(run: Run) -> None:
    run(MANY)
    with pytest.raises(
        BadInput,
        match=r"0.99 cannot be promised with confidence 0.8 on 20 masks of 20 images; the most is 0\.\d+, for the",
    ):
        filtered(run, made(box_rle(2, 2, 10, 10)), precision=0.99, confidence=0.8)
    run([masked(1)])
    assert filtered(run, made(box_rle(2, 2, 10, 10))).quality is None
    for limit in ("precision", "min_quality"):
        with pytest.raises(BadInput, match="need calibrated masks: expected at least 10 masks"):
            filtered(run, made(box_rle(2, 2, 10, 10)), **{limit: 0.5})


def test_masks_unlike_those_that_were_calibrated_have_no_quality(run: Run) -> None:
    run(MANY)
    rle = box_rle(2, 2, 10, 10)
    of_a_file = replace(made(rle), prompt=None)
    of_a_box = replace(made(rle), weak_kind=WeakKind.BOX)
    for one in (of_a_file, of_a_box):
        assert filtered(run, one).quality is None
        assert filtered(run, one).dropped is None
        reason = "no calibrated quality: too few masks like it were calibrated"
        assert filtered(run, one, min_quality=0.1).dropped == reason
    assert filtered(run, made(rle)).quality is not None


def test_a_teacher_that_cannot_tell_what_it_was_fitted_on_is_refused(run: Run) -> None:
    run.models["."] = FakeTeacher()
    with pytest.raises(BadInput, match="nothing tells which masks model 'model' was not fitted on"):
        run(MANY)


def test_a_fold_that_was_not_tuned_is_left_out(run: Run) -> None:
    folds = (Fold(path="folds/0", held_out=tuple(range(1, 12))), Fold(path="folds/1", held_out=(12, 13)))
    untuned = Doubter(zero_shot_reason="no human mask outside the held-out images")
    run.models = {".": Doubter(folds=folds), "folds/0": Doubter(), "folds/1": untuned}
    assert run([masked(i, Role.HUMAN_MASKED) for i in range(1, 14)]).images == 11
    assert untuned.labelled == []


def test_without_calibrate_a_wanted_precision_is_refused(tmp_path: Path) -> None:
    stage = Filter(FilterConfig.model_validate({"preset": "custom", "precision": 0.5}))
    with pytest.raises(BadInput, match="no stage `calibrate` ran"):
        stage.setup(context(tmp_path))
