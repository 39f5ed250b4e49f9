"""BLO-Inst on what teaches it nothing, with a SAM of 64 px: refused, or learned from with a word about it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from little_pictures import MakeContext, draw
from safetensors.torch import load_file
from small_blo import LEAST, new_student, write_detector

from pipeline.data.errors import BadInput
from pipeline.data.records import Category, Ontology
from students.blo_artifact import WEIGHTS
from students.blo_inst import BloInst
from students.blo_settings import BloInstSettings

pytestmark = pytest.mark.usefixtures("small_sam")


@pytest.mark.parametrize(
    ("count", "empty", "settings", "message"),
    [
        (1, (), {}, "expected 2 images or more, one for each level; found 1"),
        (3, (0, 1), {}, "expected 2 images or more, one for each level; found 1"),
        (3, (0, 1, 2), {}, "none of 3 images has a mask of a known class"),
        (3, (0, 1), {"filter_empty": False}, "none of (SAM's|the detector's) [12] images has an object"),
        (3, (0, 1, 2), {"filter_empty": False}, "none of SAM's 2 images has an object"),
        (
            3,
            (0, 1, 2),
            {"filter_empty": False, "order": "separate"},
            "none of the 3 images has an object; exp",
        ),
    ],
    ids=["one image", "one with masks", "no masks", "a half without", "no objects", "none for all"],
)
def test_data_that_teaches_nothing_is_refused(
    images: Path,
    make_context: MakeContext,
    trained: Path,
    count: int,
    empty: tuple[int, ...],
    settings: dict[str, object],
    message: str,
) -> None:
    records = [draw(index, images) for index in range(count)]
    records = [replace(r, instances=()) if r.image_id in empty else r for r in records]
    with pytest.raises(BadInput, match=message):
        new_student(trained, **settings).fit(records, make_context("run"))


@pytest.mark.parametrize(
    "settings", [{"order": "separate"}, {"steps": None, "epochs": 0, "pretrain_epochs": 1}], ids=str
)
@pytest.mark.parametrize("empty", [False, True])
def test_one_image_teaches_what_learns_from_all(
    images: Path, make_context: MakeContext, trained: Path, settings: dict[str, object], empty: bool
) -> None:
    """Where no level has images of its own no half is needed; what is judged is all there is."""
    records = [draw(0, images), *([replace(draw(1, images), instances=())] if empty else [])]
    metrics = new_student(trained, filter_empty=False, **settings).fit(records, make_context("run"))
    assert metrics["images_of_sam"] == metrics["images_of_detector"] == len(records)
    assert 0 < metrics["missed_of_sam"] == metrics["missed_of_detector"] <= np.log(2)
    assert "warning" not in metrics


@pytest.mark.parametrize("order", ["joint", "separate", "first", "second"])
def test_empty_images_and_a_detector_that_finds_nothing_are_learned_from(
    images: Path, make_context: MakeContext, tmp_path: Path, order: str
) -> None:
    records = [draw(index, images) for index in range(4)]
    records = [replace(r, instances=()) if r.image_id in (1, 3) else r for r in records]
    weights = write_detector(tmp_path / "new.safetensors")
    context = make_context("run")
    settings = {
        "order": order,
        "filter_empty": False,
        "confidence": 0.9,
        "pretrain_epochs": 0,
        "batch_size": 1,
    }
    metrics = new_student(weights, **settings).fit(records, context)
    assert str(metrics["warning"]).startswith("the detector found no object of its half at any epoch")
    surest = float(metrics["surest"])  # type: ignore[arg-type]
    assert (
        f"its highest score is {surest:.3f}, and `confidence` 0.9; more pretrain_epochs" in metrics["warning"]
    )
    assert 0 < surest < 0.9
    assert metrics["best_epoch"] == -1
    assert all(np.isfinite(value) for value in metrics.values() if not isinstance(value, str))
    state = load_file(context.out / WEIGHTS)
    assert all(value.isfinite().all() for value in state.values())


def test_boxes_that_fit_no_object_are_told(
    images: Path, make_context: MakeContext, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their scores are high enough: more training of the detector, not a lower confidence, is what may help."""
    monkeypatch.setattr("students.blo_objective.MATCHED", 1.1)
    records = [draw(index, images) for index in range(3)]
    metrics = new_student(trained, pretrain_epochs=0).fit(records, make_context("run"))
    assert "none of its boxes overlaps one of its class by half" in str(metrics["warning"])


def test_a_detector_alone_is_no_reason_to_warn(
    images: Path, make_context: MakeContext, tmp_path: Path
) -> None:
    records = [draw(index, images) for index in range(3)]
    weights = write_detector(tmp_path / "new.safetensors")
    for name, settings in (("a", {"order": "separate", "seg": 0}), ("b", {"steps": None, "epochs": 0})):
        assert "warning" not in new_student(weights, **settings).fit(records, make_context(name))


def test_bad_records_are_refused(images: Path, make_context: MakeContext, trained: Path) -> None:
    records = [draw(index, images) for index in range(2)]
    with pytest.raises(BadInput, match=r"lost\.png"):
        new_student(trained).fit(
            [*records, replace(records[0], image_id=9, uri="lost.png")], make_context("run")
        )
    own = BloInstSettings.model_validate({"detector_weights": trained, **LEAST})
    wrong = BloInst(own, ontology=Ontology((Category(1, "disc"),)), device="cpu")
    with pytest.raises(BadInput, match="class id 3 is not in the ontology"):
        wrong.fit(records, make_context("other"))
