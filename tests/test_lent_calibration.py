"""`pipeline label --teacher=RUN`: the calibration of a run is used where it says something of the new masks."""

from pathlib import Path

import pytest

from pipeline.config import Request
from pipeline.data.errors import BadInput
from pipeline.found import Found
from pipeline.report.documents import CalibrationFile
from pipeline.standalone import Folder, plan_labelling

TEACHER = {"use": "fake_teacher"}
PROPOSER = {"use": "fake_proposer"}


@pytest.fixture
def calibrated(tmp_path: Path) -> Path:
    folder = tmp_path / "calibration"
    folder.mkdir()
    CalibrationFile(
        weak="none", why="", images=0, masks=0, kinds={}, calibrator=None, reliability=None, said=[], true=[],
        image_ids=[],
    ).write(folder / "calibration.json")  # fmt: skip
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"")
    return folder


def found(folder: Path, *, proposer: bool = True, limit: bool = False) -> Found:
    settings = {"filter": {"min_quality": 0.5}} if limit else {}
    own = PROPOSER if proposer else None
    return Found(TEACHER, {"teacher": folder, "calibration": folder}, own, settings, {"car": 1})


def lent(
    folder: Path, known: Found, *, weak: str = "none", proposer: str | None = None, **more: object
) -> set[str]:
    photos = Folder(folder.parent / "photos", {"car": 1})
    request = Request(Path(), weak=weak, device="cpu", **more)  # type: ignore[arg-type]
    return set(plan_labelling(known, proposer, photos, request).lent)


def test_it_is_lent_for_masks_made_alike(calibrated: Path) -> None:
    assert lent(calibrated, found(calibrated)) == {"teacher", "calibration"}
    assert lent(calibrated, found(calibrated, limit=True)) == {"teacher", "calibration"}
    without = Found(TEACHER, {"teacher": calibrated}, PROPOSER, {}, {"car": 1})
    assert lent(calibrated, without) == {"teacher"}


@pytest.mark.parametrize(
    ("known", "more", "why"),
    [
        ({}, {"proposer": "fake_proposer"}, "was calibrated with another proposer"),
        ({"proposer": False}, {"proposer": "fake_proposer"}, "was calibrated with another proposer"),
        (
            {},
            {"settings": ("models.teacher.delay=0.1",)},
            "was calibrated without --set=models.teacher.delay=0.1",
        ),
    ],
)
def test_it_is_not_lent_for_masks_made_otherwise(
    calibrated: Path, known: dict[str, bool], more: dict[str, object], why: str
) -> None:
    assert lent(calibrated, found(calibrated, **known), **more) == {"teacher"}  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=f"filter.min_quality, which {why}"):
        lent(calibrated, found(calibrated, limit=True, **known), **more)  # type: ignore[arg-type]


def test_another_kind_of_label_is_another_mask(calibrated: Path) -> None:
    file = CalibrationFile.read(calibrated / "calibration.json")
    file.model_copy(update={"weak": "point+class"}).write(calibrated / "calibration.json")
    assert lent(calibrated, found(calibrated)) == {"teacher"}
    with pytest.raises(BadInput, match=r"was calibrated for --weak=point\+class, not none"):
        lent(calibrated, found(calibrated, limit=True))
