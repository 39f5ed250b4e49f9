"""What a config with `--weak=none` or `class` cannot do, as its labels have no place: told before any work."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from pipeline.config import Request, load_plan
from pipeline.engine.faults import BadPlan

MODELS = {
    "teacher": {"use": "class_aware_sam", "sam": "tiny", "text": "tiny"},
    "finder": {"use": "tiny_grounder"},
    "fake": {"use": "fake_proposer"},
}
PROPOSE = {"propose": {"model": "finder"}}
LABEL = {"pseudo_label": {"model": "teacher"}}
TUNE = {"finetune_teacher": {"model": "teacher", "steps": 3}}
BOTH = (PROPOSE, LABEL)
TOYS = {"source": "toyworld", "train": 8, "val": 2}
FOLDER = {"source": "folder", "images": "photos"}
SQUARE = [[0, 0, 3, 0, 3, 3]]


def problems(folder: Path, stages: Sequence[Mapping[str, object]], **top: object) -> list[str]:
    """What is wrong with a config; nothing for one that can be run."""
    config = {"name": "c", "masks": "0%", "models": MODELS, "stages": list(stages), **top}
    file = folder / "stages.yaml"
    file.write_text(yaml.safe_dump(copy.deepcopy(config)))
    try:
        load_plan(Request(file, device="cpu", data_root=folder))
    except BadPlan as bad:
        return list(bad.problems)
    return []


def write_set(
    folder: Path, names: Sequence[str], *, masks: Sequence[int], crowd: Sequence[int], tags: Sequence[int]
) -> dict[str, object]:
    """A photo with masks and crowd regions of some classes (from 1) and tags of others; the `data:` that names it."""
    (folder / "photos").mkdir()
    (folder / "photos" / "1.png").touch()
    found = [(class_id, 0) for class_id in masks] + [(class_id, 1) for class_id in crowd]
    annotations = [
        {"id": n, "image_id": 1, "category_id": class_id, "iscrowd": many, "segmentation": SQUARE}
        for n, (class_id, many) in enumerate(found, 1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 4, "height": 4, "tags": list(tags)}],
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, 1)],
    }
    (folder / "train.json").write_text(json.dumps(content))
    return {"source": "coco", "json": "train.json", "images": "photos"}


TWO = ("person", "unicorn")
ONE: Mapping[str, Sequence[int]] = {"masks": (1,), "crowd": (), "tags": ()}


@pytest.mark.parametrize(
    ("weak", "names", "more", "expected"),
    [
        ("none", TWO, {}, "'unicorn'"),  # every class is looked for
        ("class", TWO, {"masks": (1, 2)}, "'unicorn'"),
        ("class", TWO, {"tags": (1, 2)}, "'unicorn'"),
        ("class", TWO, {}, ""),  # listed, and looked for nowhere
        ("class", TWO, {"crowd": (2,)}, ""),
        ("point+class", TWO, {"masks": (1, 2)}, ""),
        ("box+class", TWO, {"masks": (1, 2)}, ""),
        ("none", ("Wheel", "sea_animal", "house (small)", "bike/cycle"), {}, ""),
        ("none", ("a", "b", "car", "c"), {}, "'a', 'b', 'c'"),
        ("none", ("a", "b", "c", "d", "e"), {}, "'a', 'b', 'c' and 2 more"),
        ("none", ("car", "(car)"), {}, "'(car)'"),  # nothing is left of it as a prompt
    ],
)
def test_names_that_the_embedded_proposer_does_not_know(
    tmp_path: Path, weak: str, names: Sequence[str], more: Mapping[str, Sequence[int]], expected: str
) -> None:
    data = write_set(tmp_path, names, **{**ONE, **more})
    found = problems(tmp_path, BOTH, data=data, weak=weak)
    line = (
        f"propose.model: with weak: {weak}, {expected} should be found by 'finder', but the embedded proposer knows "
        "the names of toyworld only; use grounding_dino, or label points or boxes"
    )
    assert found == [line] * bool(expected)


@pytest.mark.parametrize(
    ("data", "stages", "refused"),
    [
        (TOYS, BOTH, False),
        (TOYS | {"world": "pretrain"}, BOTH, True),
        (FOLDER | {"classes": {"car": 1}}, BOTH, False),
        (FOLDER | {"classes": {"hut": 1}}, BOTH, True),
        (FOLDER | {"classes": {"hut": 1}}, ({"propose": {"model": "fake"}}, LABEL), False),
        (FOLDER | {"classes": {"hut": 1}}, ({"export": {}},), False),
    ],
    ids=["demo", "pretrain", "known folder", "unknown folder", "another proposer", "no proposer"],
)
def test_names_of_other_sources(
    tmp_path: Path, data: Mapping[str, object], stages: Sequence[Mapping[str, object]], refused: bool
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").touch()
    found = problems(tmp_path, stages, data=data, weak="none")
    assert ["knows the names of toyworld only" in line for line in found] == [True] * refused


def test_unknown_names_are_told_with_the_rest(tmp_path: Path) -> None:
    data = write_set(tmp_path, TWO, **ONE)
    found = problems(
        tmp_path, (*BOTH, {"filter": {"min_aera": 3}}), data=data | {"images": "none"}, weak="none"
    )
    assert [line.split(":")[0] for line in found] == [
        *(str(tmp_path / "none"), "stages.2.filter.min_aera", "propose.model")
    ]


@pytest.mark.parametrize(
    ("weak", "share", "stages", "refused"),
    [
        ("none", 0.3, (TUNE, *BOTH), True),
        ("class", 0.3, (TUNE, *BOTH), True),
        ("point+class", 0.3, (TUNE, *BOTH), False),
        ("box+class", 0.3, (TUNE, *BOTH), False),
        ("class", 0.0, (TUNE, *BOTH), False),
        ("class", 0.3, BOTH, False),  # nothing is tuned
    ],
)
def test_self_training_needs_labels_with_a_place(
    tmp_path: Path, weak: str, share: float, stages: Sequence[Mapping[str, object]], refused: bool
) -> None:
    models = {**MODELS, "teacher": {**MODELS["teacher"], "self_training": share}}
    expected = (
        f"models.teacher.self_training: expected weak: point+class or box+class, found {weak}: there is no localised "
        "weak label to learn from"
    )
    assert problems(tmp_path, stages, data=TOYS, weak=weak, models=models) == [expected] * refused
