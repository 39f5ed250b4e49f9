"""A second round of tuning on the teacher's own surest masks."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tuning_cases import SETTINGS, Run, Tuned, equal, reserved_after, scene, weakly

from pipeline.data.records import (
    Instance,
    Source,
    WeakKind,
)
from teachers.fit_head import HeadTrainer
from teachers.protocols import Sample
from teachers.sam_teacher import SamTeacher
from teachers.self_training import certainty, surest


def test_the_surest_masks_of_weak_images_are_learned_from_too(
    run_tune: Callable[..., Tuned], tmp_path: Path
) -> None:
    records = reserved_after(3, tmp_path)
    weak = [
        weakly(i, tmp_path, kind)
        for i, kind in ((10, WeakKind.BOX), (11, WeakKind.POINT), (12, WeakKind.CLASS))
    ]
    dropped = replace(weakly(13, tmp_path), dropped="why")
    plain, first = run_tune(records, Run(tmp_path / "a").context("out", root=tmp_path))
    settings = SETTINGS.model_copy(update={"self_training": 0.5})
    run = Run(tmp_path / "b").context("out", root=tmp_path)
    metrics, second = run_tune([*records, *weak, dropped], run, settings)
    assert metrics["own_masks"] == 2  # half of four; nothing says where the third image's things are
    assert not equal(first, second)
    curves = json.loads((tmp_path / "b/out/loss.json").read_text())["."]
    assert {len(curve) for curve in curves.values()} == {2 * SETTINGS.steps}
    assert (
        curves["box"][: SETTINGS.steps] == json.loads((tmp_path / "a/out/loss.json").read_text())["."]["box"]
    )
    nothing, same = run_tune([*records, weak[2]], Run(tmp_path / "c").context("out", root=tmp_path), settings)
    assert "own_masks" not in nothing
    assert equal(first, same)
    assert plain["images"] == metrics["images"] == 3


def test_the_second_round_goes_on_from_the_first(
    run_tune: Callable[..., Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [*reserved_after(3, tmp_path), weakly(10, tmp_path)]
    _, first = run_tune(records, Run(tmp_path / "a").context("out", root=tmp_path))
    run = HeadTrainer.run

    def idle(self: HeadTrainer, *rest: object) -> None:
        if not self._task.name.endswith("/again"):
            run(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(HeadTrainer, "run", idle)
    settings = SETTINGS.model_copy(update={"self_training": 1.0})
    _, second = run_tune(records, Run(tmp_path / "b").context("out", root=tmp_path), settings)
    assert equal(first, second)


@pytest.mark.parametrize(("share", "kept"), [(0.25, [2]), (0.5, [0, 2]), (1.0, [0, 1, 2, 3])])
def test_the_surest_are_those_with_the_highest_certainty(
    tmp_path: Path, share: float, kept: list[int]
) -> None:
    records = [weakly(i, tmp_path) for i in (10, 11)]
    sure = iter([0.7, 0.2, 0.9, 0.6])

    def label(batch: Sequence[Sample]) -> list[list[Instance]]:
        truths = [scene(sample.record.image_id, tmp_path).instances for sample in batch]
        return [[replace(i, source=Source.TEACHER, pred_iou=next(sure)) for i in truth] for truth in truths]

    found = surest(records, label, root=tmp_path, share=share, first=5, heed_stop=lambda: None)
    every = [
        (5 + image, i.rle) for image, record in enumerate((10, 11)) for i in scene(record, tmp_path).instances
    ]
    assert [(target.image, target.rle) for target in found] == [every[row] for row in kept]


def test_with_few_masks_every_fold_has_its_own_second_round(
    run_tune: Callable[..., Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And labels with its own first one: the whole teacher has seen what the fold is to be judged on."""
    asked: list[str] = []
    labeller = SamTeacher._labeller

    def noted(self: SamTeacher, folder: Path) -> object:
        asked.append(folder.relative_to(tmp_path / "out").as_posix())
        return labeller(self, folder)

    monkeypatch.setattr(SamTeacher, "_labeller", noted)
    records = [scene(i, tmp_path) for i in range(3)] + [weakly(10, tmp_path)]
    run_tune(records, Run(tmp_path).context("out"), SETTINGS.model_copy(update={"self_training": 1.0}))
    curves = json.loads((tmp_path / "out/loss.json").read_text())
    assert {len(curve) for part in curves.values() for curve in part.values()} == {2 * SETTINGS.steps}
    assert len(curves) == 4
    assert sorted(asked) == [".", "folds/0", "folds/1", "folds/2"]


def test_certainty_is_the_product_of_what_is_known() -> None:
    made = Instance(Source.TEACHER, 3, pred_iou=0.8, stability=0.5)
    assert certainty(made) == pytest.approx(0.4)
    assert certainty(replace(made, stability=None)) == pytest.approx(0.8)
    assert certainty(Instance(Source.TEACHER, 3)) == 1
