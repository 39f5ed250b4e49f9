"""What a fit of AM-SAM says where there is little to learn from or a stop is asked for, and what opening one leaves."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from few_shots import DISC, ONTOLOGY, Attempts, Listed, few, fit, new_teacher, sample_of, shot, write_boxes

from pipeline.data.errors import BadInput
from pipeline.data.masks import encode
from pipeline.data.records import Origin, Prompt, Record, Role
from pipeline.engine.context import Stopped
from teachers.am_sam import build_am_sam
from teachers.am_sam_artifact import read_am_sam
from teachers.am_sam_settings import AmSamSettings

PROPOSED = {"mode": "am_sam", "boxes": "proposals"}


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
def test_too_few_masks_are_told_and_leave_plain_sam(
    tmp_path: Path, records: Callable[[Path], list[Record]], found: int
) -> None:
    context = Attempts(tmp_path / "a", tmp_path).context()
    metrics = new_teacher().fit(Listed(records(tmp_path)), context)
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


def test_a_class_that_the_ontology_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"image 1 \(1\.png\): class id 8 is not in the ontology"):
        fit(few(tmp_path), tmp_path / "a", tmp_path, ontology=DISC)


def proposing(record: Record, score: float) -> Record:
    return replace(record, proposals=(Prompt(Origin.DINO, (4.0, 4.0, 40.0, 40.0), class_id=3, score=score),))


def test_proposals_on_the_records_prompt(tmp_path: Path) -> None:
    records = [proposing(record, 0.9) if record.image_id < 4 else record for record in few(tmp_path)]
    metrics, _ = fit(records, tmp_path / "a", tmp_path, **PROPOSED)
    assert {name: metrics[name] for name in ("prompts", "prompts_without_box", "images_without_box")} == {
        "prompts": 8,
        "prompts_without_box": 5,
        "images_without_box": 1,
    }
    assert "warning" not in metrics
    listed = json.loads((tmp_path / "a/out/boxes.json").read_text())
    assert [one["origin"] for one in listed] == ["dino", "image"] * 3 + ["image"] * 2


@pytest.mark.parametrize("score", [0.125, 0.0])
def test_a_fit_without_any_box_is_told(tmp_path: Path, score: float) -> None:
    records = [proposing(record, score) for record in few(tmp_path)]
    metrics, _ = fit(records, tmp_path / "a", tmp_path, **PROPOSED)
    assert metrics["images_without_box"] == 4
    assert str(metrics["warning"]).startswith("no box was found on any image")
    assert f"highest score is {score:.3f}, and `score` 0.25; other boxes" in str(metrics["warning"])


def test_a_fit_without_a_box_where_none_is_wanted_is_not(tmp_path: Path) -> None:
    metrics, _ = fit(few(tmp_path), tmp_path / "a", tmp_path)
    assert "warning" not in metrics
    assert "prompts" not in metrics


@pytest.mark.parametrize(
    "note",
    ["judging, 0 of 2 images", "judging, 1 of 2 images", "looking for boxes"],
)
def test_what_is_between_and_after_the_steps_can_be_stopped(tmp_path: Path, note: str) -> None:
    """Nothing is left but the states, and the next attempt ends with the same bytes."""
    records = few(tmp_path)
    boxes = write_boxes(tmp_path / "boxes.json", records)
    settings = {"mode": "am_sam", "boxes": "file", "box_file": boxes}
    fit(records, tmp_path / "a", tmp_path, **settings)
    attempts, told = Attempts(tmp_path / "b", tmp_path), list[str]()
    context = replace(
        attempts.context("first"),
        progress=lambda *said: told.append(said[2]),
        should_stop=lambda: told[-1:] == [note],
    )
    with pytest.raises(Stopped):
        new_teacher(**settings).fit(Listed(records), context)
    assert not list(context.out.iterdir())
    new_teacher(**settings).fit(Listed(records), attempts.context())
    for name in ("model.safetensors", "teacher.json", "boxes.json", "loss.json", "dice.json"):
        assert (tmp_path / "b/out" / name).read_bytes() == (tmp_path / "a/out" / name).read_bytes()


def test_opening_a_teacher_leaves_the_random_numbers_of_others_alone(tmp_path: Path) -> None:
    own = AmSamSettings.model_validate({"mode": "blo_sam", "epochs": 1})
    context = Attempts(tmp_path / "a", tmp_path).context()
    build_am_sam(own, ontology=ONTOLOGY, device="cpu", artifact=None).fit(Listed(few(tmp_path, 2)), context)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    build_am_sam(own, ontology=ONTOLOGY, device="cpu", artifact=context.out)
    assert torch.equal(torch.rand(3), expected)
