"""Settings of BLO-Inst and the detectors they name: the paper's numbers, what is refused, what is in the key."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from small_blo import write_detector

from pipeline.data.errors import BadInput
from students import blo_settings as numbers
from students import catalog
from students.blo_settings import BloInstSettings
from teachers.catalog import ModelSpec
from teachers.detector_weights import new_detector
from teachers.detectors import FOUND_CONFIDENCE, FOUND_OVERLAP
from teachers.tiny.listing import SAM, digest_of

DEFAULTS = {
    "order": "first",
    "split": 0.5,
    "rank": 4,
    "match": "instance",
    "pretrain_epochs": 100,
    "epochs": 20,
    "steps": None,
    "patience": 0,
    "lr_detector": 1e-3,
    "lr_sam": 1e-3,
    "box": 0.3,
    "obj": 0.7,
    "cls": 0.3,
    "seg": 0.7,
    "confidence": 0.25,
    "overlap": 0.25,
    "focal": True,
    "trust_weights": True,
}
OF_THE_CODE = {
    "MOMENTUM": 0.937,
    "WEIGHT_DECAY": 5e-4,
    "LAST_RATE": 0.1,
    "CLIP": 10.0,
    "PROMPT_MOST": 300,
}


def spec(**settings: object) -> ModelSpec:
    return ModelSpec(name="aligned", use="blo_inst", settings=settings)


def test_the_defaults_are_the_papers_and_its_codes() -> None:
    found = BloInstSettings()
    assert {name: getattr(found, name) for name in DEFAULTS} == DEFAULTS
    assert {name: getattr(numbers, name) for name in OF_THE_CODE} == OF_THE_CODE
    assert (FOUND_CONFIDENCE, FOUND_OVERLAP) == (0.001, 0.6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "third"}, "order: Input should be 'joint', 'separate', 'first' or 'second'"),
        ({"match": "union"}, "match: Input should be"),
        ({"detector": "rtdetr"}, "detector: .*no detector 'rtdetr'; nearest: fcos_tiny"),
        ({"detector": "fcos_r5"}, "detector: .*no detector 'fcos_r5'; nearest: fcos_r50"),
        ({"detector": "yolo11"}, "detector: .*no detector 'yolo11'; nearest: yolo11"),
        ({"detector_sha256": "0" * 64}, "detector_sha256 is that of detector_weights, found none"),
        ({"detector_sha256": "0", "detector_weights": "a.pth"}, "detector_sha256: String should match"),
        ({"sam": "huge"}, "sam: Input should be"),
        ({"sha256": "12"}, "sha256: String should match"),
        ({"split": 0}, "split: Input should be greater than 0"),
        ({"split": 1}, "split: Input should be less than 1"),
        ({"rank": 0}, "rank: Input should be greater than or equal to 1"),
        ({"steps": 0}, "steps: Input should be greater than or equal to 1"),
        ({"epochs": -1}, "epochs: Input should be greater"),
        ({"pretrain_epochs": -1}, "pretrain_epochs: Input should be greater"),
        ({"patience": -1}, "patience: Input should be greater"),
        ({"batch_size": 0}, "batch_size: Input should be greater"),
        ({"lr_sam": 0}, "lr_sam: Input should be greater than 0"),
        ({"lr_detector": float("nan")}, "lr_detector: Input should be a finite number"),
        ({"pretrain_lr": -1}, "pretrain_lr: Input should be greater than 0"),
        ({"confidence": 1.5}, "confidence: Input should be less than or equal to 1"),
        ({"overlap": -0.1}, "overlap: Input should be greater"),
        ({"seg": -1}, "seg: Input should be greater"),
        ({"cache_gb": -1}, "cache_gb: Input should be greater"),
        ({"checkpoint_every": 0}, "checkpoint_every: Input should be greater"),
        ({"focus": True}, "focus: Extra inputs are not permitted"),
        (
            dict.fromkeys(("box", "obj", "cls", "seg"), 0),
            "expected a weight above 0 among box, obj, cls and seg",
        ),
        ({"epochs": 0, "pretrain_epochs": 0}, "expected epochs or pretrain_epochs above 0"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_wrong_settings_are_told(settings: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=rf"models\.aligned.*{message}"):
        catalog.check(spec(**settings))


def test_all_wrong_settings_are_told_at_once_and_nothing_else() -> None:
    """A default that waits for another setting is not told as a mistake."""
    with pytest.raises(BadInput) as told:
        catalog.check(spec(rank=0, sam="x"))
    assert [part.split(":")[0] for part in str(told.value).split("; ")] == [
        "models.aligned.sam",
        "models.aligned.rank",
    ]


@pytest.mark.parametrize(
    ("settings", "focal"),
    [
        ({}, True),
        ({"detector": "fcos_r50"}, True),
        ({"detector": "yolo11n"}, False),
        ({"detector": "yolo11n", "focal": True}, True),
        ({"focal": False}, False),
    ],
    ids=str,
)
def test_the_loss_of_the_classes_is_the_detectors_own_unless_said(
    settings: dict[str, object], focal: bool
) -> None:
    assert BloInstSettings.model_validate(settings).focal is focal


IDLE: list[tuple[dict[str, object], str]] = [
    ({"order": "separate", "split": 0.3}, "split does nothing in order 'separate'"),
    ({"part": "prompt_encoder", "rank": 8}, "rank does nothing with part 'prompt_encoder'"),
    ({"order": "separate", "seg": 0, "patience": 2}, "patience does nothing with seg 0"),
    ({"order": "separate", "seg": 0, "part": "both"}, "part does nothing with seg 0"),
    ({"epochs": 0, "order": "second"}, "order does nothing without epochs"),
    ({"epochs": 0, "split": 0.8}, "split does nothing without epochs"),
    ({"epochs": 0, "seg": 0.1}, "seg does nothing without epochs"),
    ({"epochs": 7, "steps": 3}, "epochs does nothing beside steps: expected it unset, or 20"),
    ({"epochs": 0, "lr_sam": 0.1}, "lr_sam does nothing without epochs"),
    ({"pretrain_epochs": 0, "pretrain_lr": 0.1}, "pretrain_lr does nothing without pretrain_epochs"),
    ({"detector": "yolo11n", "obj": 0.1}, "obj does nothing with yolo11n, which has no such loss"),
    (
        {"order": "second", "seg": 0},
        "with seg 0 nothing is aligned: expected order 'separate', found 'second'",
    ),
    ({"seg": 0}, "with seg 0 nothing is aligned: expected order 'separate', found 'first'"),
    (
        {"detector": "yolo11n", "box": 0, "cls": 0, "seg": 0},
        "expected a weight above 0 among box, cls and seg",
    ),
    ({"box": 0, "obj": 0, "cls": 0}, "the detector alone would learn nothing: expected a weight above 0"),
    (
        {"detector": "yolo11n", "box": 0, "cls": 0},
        "the detector alone would learn nothing: expected a weight above 0 among box, cls",
    ),
]


@pytest.mark.parametrize(
    ("settings", "message"), IDLE, ids=lambda value: "+".join(value) if isinstance(value, dict) else ""
)
def test_what_would_do_nothing_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=rf"models\.aligned.*{message}"):
        catalog.check(spec(**settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"order": "separate", "seg": 0},
        {"order": "separate", "patience": 3},
        {"epochs": 0},
        {"steps": 3, "order": "second"},
        {"part": "prompt_encoder"},
        {"pretrain_epochs": 0, "box": 0, "obj": 0, "cls": 0},
        {"detector": "yolo11n"},
        {"detector": "yolo11n", "box": 0},
    ],
    ids=str,
)
def test_what_does_something_is_not(settings: dict[str, object]) -> None:
    """Nor what a card of a fitted student says, which has all settings."""
    found = BloInstSettings.model_validate(settings)
    assert BloInstSettings.model_validate(found.model_dump(mode="json")) == found


def test_all_that_does_nothing_is_told_at_once() -> None:
    with pytest.raises(
        BadInput, match=r"patience does nothing .*; pretrain_lr does nothing|pretrain_lr .*; patience"
    ):
        catalog.check(spec(order="separate", seg=0, patience=1, pretrain_epochs=0, pretrain_lr=0.5))


def test_the_identity_is_the_content_of_both_weights(tmp_path: Path) -> None:
    first, second = (
        write_detector(tmp_path / f"{name}.safetensors", seed=seed) for seed, name in enumerate("ab")
    )
    (tmp_path / "c.safetensors").write_bytes(first.read_bytes())
    found = [
        catalog.identity(spec(detector_weights=str(path)))
        for path in (first, second, tmp_path / "c.safetensors")
    ]
    assert found[0] == found[2] != found[1]
    assert {one["sam"] for one in found} == {digest_of(SAM)}
    with pytest.raises(BadInput) as told:
        catalog.identity(spec(detector_weights=str(tmp_path / "none"), sam="vit_b"))
    assert "checkpoint: vit_b needs the path" in str(told.value)
    assert f"detector_weights {tmp_path / 'none'}: no such file" in str(told.value)


def test_what_changes_no_bit_is_not_in_the_key() -> None:
    assert BloInstSettings.not_in_key >= {"checkpoint_every", "cache_gb", "detector_weights", "checkpoint"}
    assert catalog.batch_size(spec(batch_size=6)) == 6


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        BloInstSettings().rank = 3  # type: ignore[misc]


def test_a_detectors_weights_come_from_the_file_that_is_named(tmp_path: Path) -> None:
    path = write_detector(tmp_path / "detector.safetensors", classes=2)
    found = new_detector("fcos_tiny", 2, focal=True, weights=path).model.state_dict()
    given = load_file(path)
    assert found.keys() == given.keys()
    assert all(torch.equal(value, given[name]) for name, value in found.items())


def test_good_weights_pass_the_inspection(tmp_path: Path) -> None:
    catalog.inspect(spec(detector_weights=str(write_detector(tmp_path / "detector.safetensors", classes=9))))
