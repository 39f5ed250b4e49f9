"""Tuning: it learns, it goes on after a kill with the same bits, it writes only what it trained."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam
from tuning_cases import (
    SETTINGS,
    Run,
    Tuned,
    equal,
    reserved_after,
    weakly,
)

from pipeline.data.errors import BadInput
from pipeline.data.masks import decode, encode
from pipeline.data.records import (
    Record,
)
from pipeline.engine.context import Stopped
from teachers.heads import load_head, read_teacher
from teachers.settings import ClassAwareSettings


def test_it_learns_and_says_so(run_tune: Callable[..., Tuned], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"steps": 24, "lr": 3e-3, "points": 128})
    metrics, heads = run_tune(reserved_after(4, tmp_path), Run(tmp_path).context("out"), settings)
    assert set(heads) == {"box", "point", "point_box", "plain_box"}
    for variant in heads:
        assert metrics[f"loss_last_{variant}"] < 0.9 * metrics[f"loss_first_{variant}"]
    curves = json.loads((tmp_path / "out/loss.json").read_text())["."]
    assert {variant: len(curve) for variant, curve in curves.items()} == dict.fromkeys(heads, 24)
    teacher = read_teacher(tmp_path / "out")
    assert (teacher.zero_shot, teacher.images, teacher.instances, teacher.folds) == (False, 4, 8, ())


def test_the_file_holds_what_was_trained(
    run_tune: Callable[..., Tuned], make_sam: Callable[[int], Sam], tmp_path: Path
) -> None:
    _, heads = run_tune(reserved_after(2, tmp_path), Run(tmp_path).context("out"))
    decoder = {f"decoder.{name}" for name in make_sam(0).mask_decoder.state_dict()}
    branch = {name for name in heads["box"] if not name.startswith("decoder.")}
    assert set(heads["box"]) - branch == decoder
    assert {
        "branch.zero.weight",
        "branch.project.bias",
        "branch.trainable.point_embeddings.1.weight",
    } <= branch
    assert not any("mask_downscaling" in name or "gaussian" in name for name in branch)
    loaded = load_head(make_sam(0), tmp_path / "out", "box", settings=SETTINGS, text_width=4)
    assert torch.equal(loaded.decoder.iou_token.weight, heads["box"]["decoder.iou_token.weight"])
    assert loaded.branch is not None
    assert torch.equal(loaded.branch.zero.weight, heads["box"]["branch.zero.weight"])
    assert loaded.branch.zero.weight.abs().sum() > 0
    assert not any(value.requires_grad for value in loaded.decoder.parameters())


@pytest.mark.parametrize(
    ("stop_after", "more"),
    [
        (1, {}),
        (8, {}),
        (26, {}),
        (13, {"lora": 2}),
        (42, {"self_training": 0.5}),
        (58, {"self_training": 0.5, "lora": 2, "box_jitter": 0.1}),
    ],
)
def test_same_bits_after_a_stop(
    run_tune: Callable[..., Tuned], tmp_path: Path, stop_after: int, more: dict[str, object]
) -> None:
    records = [*reserved_after(3, tmp_path), *(weakly(i, tmp_path) for i in (10, 11))]
    settings = SETTINGS.model_copy(update=more)
    (tmp_path / "whole").mkdir()
    whole = Run(tmp_path / "whole").context("out")
    expected = run_tune(records, replace(whole, images_root=tmp_path), settings)
    run = Run(tmp_path, stop_after)
    with pytest.raises(Stopped):
        run_tune(records, run.context("first"), settings)
    run.stop_after = None
    again = run_tune(records, run.context("second"), settings)
    assert equal(again[1], expected[1])
    assert again[0] == expected[0]
    assert (tmp_path / "second/loss.json").read_text() == (tmp_path / "whole/out/loss.json").read_text()


class Killed(BaseException):
    """Stands for a kill: no handler runs, nothing is saved."""


def test_same_bits_after_a_kill_between_checkpoints(run_tune: Callable[..., Tuned], tmp_path: Path) -> None:
    records = reserved_after(3, tmp_path)
    (tmp_path / "whole").mkdir()
    expected = run_tune(records, replace(Run(tmp_path / "whole").context("out"), images_root=tmp_path))
    run = Run(tmp_path)
    steps: list[int] = []

    def die(done: int, _total: int, note: str) -> None:
        if note == "point" and done not in steps:
            steps.append(done)
            if len(steps) == 6:  # five steps into the second head: three are saved
                raise Killed

    with pytest.raises(Killed):
        run_tune(records, replace(run.context("first"), progress=die))
    assert equal(run_tune(records, run.context("second"))[1], expected[1])


def test_seed_and_cache_limit(run_tune: Callable[..., Tuned], tmp_path: Path) -> None:
    records = reserved_after(3, tmp_path)
    results = []
    for name, seed, cache_gb in (("a", 0, 1.0), ("b", 0, 5e-6), ("c", 1, 1.0)):
        (tmp_path / name).mkdir()
        context = replace(Run(tmp_path / name).context("out", seed=seed), images_root=tmp_path)
        results.append(
            run_tune(records, context, SETTINGS.model_copy(update={"cache_gb": cache_gb, "steps": 3}))[1]
        )
    assert (
        tmp_path / "b" / "work" / "scratch" / "embeddings.bin"
    ).stat().st_size == 4096  # one image of 32 x 8 x 8 float16
    assert equal(results[0], results[1])
    assert not equal(results[0], results[2])


@pytest.mark.parametrize(
    ("class_aware", "variants", "with_branch"),
    [
        (True, {"box", "point", "point_box"}, {"box", "point", "point_box"}),
        (False, {"box", "point", "point_box"}, set()),
        ("no_box", {"box", "point", "point_box", "plain_box"}, {"box", "point", "point_box"}),
    ],
)
def test_variants(
    run_tune: Callable[..., Tuned],
    tmp_path: Path,
    class_aware: bool | str,
    variants: set[str],
    with_branch: set[str],
) -> None:
    settings = ClassAwareSettings(**{**SETTINGS.model_dump(), "class_aware": class_aware, "steps": 1})
    _, heads = run_tune(reserved_after(2, tmp_path), Run(tmp_path).context("out"), settings)
    assert set(heads) == variants
    assert {v for v in heads if any(name.startswith("branch.") for name in heads[v])} == with_branch


def test_the_branch_can_learn_at_a_rate_of_its_own(run_tune: Callable[..., Tuned], tmp_path: Path) -> None:
    heads = {}
    for rate in (None, SETTINGS.lr, 0.1):
        settings = SETTINGS.model_copy(update={"branch_lr": rate, "steps": 2, "decay_at": 0.5})
        context = Run(tmp_path / str(rate)).context("out", root=tmp_path)
        heads[rate] = run_tune(reserved_after(2, tmp_path), context, settings)[1]["box"]
    assert equal({"box": heads[None]}, {"box": heads[SETTINGS.lr]})
    far, near = ({name: value.abs().max() for name, value in heads[rate].items()} for rate in (0.1, None))
    # AdamW's first step is of the rate, its second, at the dropped rate, of a tenth of it at most, and some more.
    assert 0.05 < far["branch.zero.weight"] < 0.12
    assert near["branch.zero.weight"] < 0.002
    moved = (heads[0.1]["decoder.iou_token.weight"] - heads[None]["decoder.iou_token.weight"]).abs().max()
    assert moved < 0.003  # the decoder goes at its own rate, to another place


def widened(record: Record) -> Record:
    """A record that is one column wider than its photo."""
    masks = (np.pad(decode(instance.rle), ((0, 0), (0, 1))) for instance in record.instances)
    instances = (replace(i, rle=encode(mask)) for i, mask in zip(record.instances, masks, strict=True))
    return replace(record, width=65, instances=tuple(instances))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda record: replace(record, uri="gone.png"), "gone.png"),
        (widened, "expected 65x48, found 64x48"),
        (lambda record: replace(record, sha256="0" * 64), "changed since ingest"),
    ],
)
def test_bad_input(
    run_tune: Callable[..., Tuned],
    tmp_path: Path,
    break_it: Callable[[Record], Record],
    message: str,
) -> None:
    records = reserved_after(2, tmp_path)
    records[0] = break_it(records[0])
    with pytest.raises(BadInput, match=message):
        run_tune(records, Run(tmp_path).context("out"))


def test_a_loss_that_explodes_stops_the_job(run_tune: Callable[..., Tuned], tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"lr": 1e30})
    with pytest.raises(BadInput, match="a lower lr may help"):
        run_tune(reserved_after(2, tmp_path), Run(tmp_path).context("out"), settings)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "box.safetensors"),
        (lambda path: path.write_bytes(b"x"), "not weights of this model"),
    ],
)
def test_damaged_heads_are_refused(
    run_tune: Callable[..., Tuned],
    make_sam: Callable[[int], Sam],
    tmp_path: Path,
    spoil: Callable[[Path], None],
    message: str,
) -> None:
    run_tune(
        reserved_after(2, tmp_path), Run(tmp_path).context("out"), SETTINGS.model_copy(update={"steps": 1})
    )
    with pytest.raises(BadInput, match=r"expected .* tensors, found"):
        load_head(
            make_sam(0),
            tmp_path / "out",
            "box",
            settings=SETTINGS.model_copy(update={"class_aware": False}),
            text_width=4,
        )
    spoil(tmp_path / "out/box.safetensors")
    with pytest.raises(BadInput, match=message):
        load_head(make_sam(0), tmp_path / "out", "box", settings=SETTINGS, text_width=4)
