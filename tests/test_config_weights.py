"""The embedded weights that a config's models need: looked at before any work, and no others."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config import Request, load_plan
from pipeline.engine.faults import BadPlan
from teachers.tiny import listing

SAM = {"use": "sam", "sam": "tiny"}
AWARE = {"use": "class_aware_sam", "sam": "tiny", "text": "tiny"}
GROUNDER = {"use": "tiny_grounder"}
STUDENT = {"use": "mask2former", "variant": "tiny"}
ALIGNED = {"use": "blo_inst", "sam": "tiny", "detector": "fcos_tiny"}
STAGE = {"sam": "pseudo_label", "class_aware_sam": "pseudo_label"} | {
    "tiny_grounder": "propose",
    "mask2former": "train_student",
    "blo_inst": "train_student",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the embedded weights that stands for them."""
    monkeypatch.setattr(listing, "FOLDER", shutil.copytree(listing.FOLDER, tmp_path / "weights"))
    return listing.FOLDER


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def write(folder: Path, model: dict[str, object]) -> Path:
    """A config with one stage, which uses the model; beside it lies one of each other kind that no stage uses."""
    content = {
        "name": "c",
        "data": {"source": "toyworld", "train": 8, "val": 2},
        "masks": "10%",
        "models": {"mine": model, "a": AWARE, "b": GROUNDER, "c": STUDENT, "d": ALIGNED},
        "stages": [{STAGE[str(model["use"])]: {"model": "mine"}}],
    }
    file = folder / "stages.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.mark.parametrize("damage", [truncate, Path.unlink], ids=["truncated", "absent"])
@pytest.mark.parametrize(
    ("model", "name", "key"),
    [
        (SAM, listing.SAM, "sam"),
        (AWARE, listing.SAM, "sam"),
        (AWARE, listing.TEXT, "text"),
        (GROUNDER, listing.GROUNDER, "use"),
        (GROUNDER, listing.TEXT, "use"),
        (STUDENT, listing.STUDENT, "variant"),
        (ALIGNED, listing.SAM, "sam"),
        (ALIGNED, listing.DETECTOR, "detector"),
    ],
)
def test_a_file_that_is_not_as_listed(tmp_path, folder, damage, model, name, key) -> None:
    path = folder / f"{name}.safetensors"
    damage(path)
    with pytest.raises(BadPlan) as caught:
        load_plan(Request(write(tmp_path, model), device="cpu"))
    (found,) = caught.value.problems
    what = "nothing" if damage is Path.unlink else "[0-9a-f]{64}"
    expected = (
        f"models.mine.{key}: {path}: expected sha256 {listing.digest_of(name)}, as weights.json lists, found "
    )
    assert re.fullmatch(re.escape(expected) + what, found), found


@pytest.mark.parametrize(
    ("model", "unused"),
    [
        (SAM, (listing.TEXT, listing.GROUNDER, listing.STUDENT)),
        (AWARE, (listing.GROUNDER, listing.STUDENT)),
        (AWARE | {"class_aware": False}, (listing.TEXT, listing.GROUNDER, listing.STUDENT)),
        (GROUNDER, (listing.SAM, listing.STUDENT)),
        (STUDENT, (listing.SAM, listing.TEXT, listing.GROUNDER, listing.DETECTOR)),
        (ALIGNED, (listing.TEXT, listing.GROUNDER, listing.STUDENT)),
        (STUDENT | {"from_scratch": True}, (listing.SAM, listing.TEXT, listing.GROUNDER, listing.STUDENT)),
    ],
)
def test_a_file_that_no_stage_needs(tmp_path, folder, model, unused) -> None:
    for name in unused:
        (folder / f"{name}.safetensors").unlink()
    assert load_plan(Request(write(tmp_path, model), device="cpu")).stages


def test_without_the_listing(tmp_path, folder) -> None:
    (folder / listing.LISTING).unlink()
    with pytest.raises(BadPlan) as caught:
        load_plan(Request(write(tmp_path, SAM), device="cpu"))
    (found,) = caught.value.problems
    assert found.startswith(f"models.mine.sam: {folder / listing.LISTING}: no such file")


def test_all_files_are_told_at_once(tmp_path, folder) -> None:
    for name in (listing.GROUNDER, listing.TEXT):
        (folder / f"{name}.safetensors").unlink()
    with pytest.raises(BadPlan) as caught:
        load_plan(Request(write(tmp_path, GROUNDER), device="cpu"))
    assert [line.split(":")[1] for line in caught.value.problems] == [
        f" {folder / name}.safetensors" for name in (listing.GROUNDER, listing.TEXT)
    ]


def test_it_is_all_that_is_told_of_the_stages(tmp_path, folder) -> None:
    (folder / f"{listing.GROUNDER}.safetensors").unlink()
    file = write(tmp_path, GROUNDER)
    content = yaml.safe_load(file.read_text())
    content["stages"] += [{"pseudo_label": {"model": "a"}}, {"calibrate": {"model": "a", "proposer": "mine"}}]
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(BadPlan) as caught:
        load_plan(Request(file, device="cpu"))
    assert [line.split(":")[0] for line in caught.value.problems] == ["models.mine.use"]


@pytest.mark.parametrize("command", [["check"], ["run", "--workers=0"]], ids=["check", "run"])
def test_nothing_is_begun(tmp_path, folder, monkeypatch, command) -> None:
    monkeypatch.chdir(tmp_path)
    truncate(folder / "tiny_sam.safetensors")
    done = CliRunner().invoke(app, [*command, str(write(tmp_path, SAM)), "--device=cpu"])
    assert done.exit_code == 2
    assert "error: models.mine.sam: " in done.stderr
    assert not (tmp_path / "runs").exists()
