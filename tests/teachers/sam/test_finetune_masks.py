"""Which masks a tuning learns from: few are folded, reserved ones are left alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tuning_cases import SETTINGS, Run, Tuned, equal, reserved_after, scene

from teachers.heads import read_teacher


@pytest.mark.parametrize("count", [2, 3, 7])
def test_few_masks_are_folded(run_tune: Callable[..., Tuned], tmp_path: Path, count: int) -> None:
    settings = SETTINGS.model_copy(update={"steps": 1})
    records = [scene(i, tmp_path) for i in range(count)]
    metrics, _ = run_tune(records, Run(tmp_path).context("out"), settings)
    teacher = read_teacher(tmp_path / "out")
    assert metrics["folds"] == len(teacher.folds) == min(5, count)
    held_out = [image_id for fold in teacher.folds for image_id in fold.held_out]
    assert sorted(held_out) == list(range(count))
    for fold in teacher.folds:
        own = read_teacher(tmp_path / "out" / fold.path)
        assert (own.images, own.instances) == (count - len(fold.held_out), 2 * (count - len(fold.held_out)))
        assert {p.stem for p in (tmp_path / "out" / fold.path).glob("*.safetensors")} == set(
            settings.variants
        )


def test_no_folds_where_nobody_asks_for_them(run_tune: Callable[..., Tuned], tmp_path: Path) -> None:
    records = [scene(i, tmp_path) for i in range(3)]
    both = [
        run_tune(records, Run(tmp_path / str(on)).context("out", root=tmp_path), settings)
        for on, settings in ((on, SETTINGS.model_copy(update={"cross_fit": on})) for on in (True, False))
    ]
    assert [metrics["folds"] for metrics, _ in both] == [3, 0]
    assert read_teacher(tmp_path / "False/out").folds == ()
    assert equal(both[0][1], both[1][1])


def test_a_fold_does_not_see_what_it_holds_out(run_tune: Callable[..., Tuned], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"steps": 3})
    records = [scene(i, tmp_path) for i in range(3)]
    run_tune(records, Run(tmp_path).context("out"), settings)
    fold = read_teacher(tmp_path / "out").folds[0]
    changed = [replace(r, instances=r.instances[:1]) if r.image_id in fold.held_out else r for r in records]
    (tmp_path / "b").mkdir()
    run_tune(changed, replace(Run(tmp_path / "b").context("out"), images_root=tmp_path), settings)
    for name, same in ((fold.path, True), (".", False)):
        one, other = (
            load_file(root / "out" / name / "box.safetensors") for root in (tmp_path, tmp_path / "b")
        )
        assert all(torch.equal(one[key], other[key]) for key in one) is same


@pytest.mark.parametrize(("images", "masks"), [(0, 0), (1, 2), (3, 0)])
def test_too_few_masks_mean_zero_shot(
    run_tune: Callable[..., Tuned], tmp_path: Path, images: int, masks: int
) -> None:
    records = [scene(i, tmp_path) for i in range(images)]
    records = records if masks else [replace(record, instances=()) for record in records]
    metrics, heads = run_tune(records, Run(tmp_path).context("out"))
    teacher = read_teacher(tmp_path / "out")
    assert heads == {}
    assert teacher.zero_shot
    assert teacher.reason == metrics["zero_shot"]
    assert f"found {images} with {masks} masks" in str(teacher.reason)


def test_reserved_masks_are_never_learnt_from(run_tune: Callable[..., Tuned], tmp_path: Path) -> None:
    records = reserved_after(2, tmp_path)
    (tmp_path / "2.png").unlink()  # the reserved image: reading it would fail
    metrics, _ = run_tune(records, Run(tmp_path).context("out"), SETTINGS.model_copy(update={"steps": 1}))
    assert (metrics["images"], metrics["instances"]) == (2, 4)
