"""BLO-Inst from the command line, with the embedded SAM: trained on a COCO file, asked about a folder, scored."""

import json
from functools import partial
from pathlib import Path

import pytest
from click.testing import Result
from colours import take_the_place_of_fcos
from little_pictures import ONTOLOGY, draw, write_coco
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.engine import drive
from students.card import read_card
from students.catalog import load_artifact

# With a detector that finds both things in both pictures; the embedded SAM knows such shapes already.
ENOUGH = {"pretrain_epochs": 0, "steps": 2, "batch_size": 2, "order": "second"}


def pipeline(*arguments: object) -> Result:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.stderr
    return done


@pytest.fixture
def truth(images: Path, tmp_path: Path) -> Path:
    return write_coco(tmp_path / "truth.json", [draw(index, images) for index in range(1, 3)])


def test_train_predict_and_evaluate(
    images: Path, truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_the_place_of_fcos(monkeypatch)
    monkeypatch.setattr(drive, "Options", partial(drive.Options, workers=0))  # in this process, where it is
    settings = [f"--set=models.student.{key}={value}" for key, value in ENOUGH.items()]
    where = [f"--out={tmp_path / 'run'}", f"--store={tmp_path / 'store'}", "--device=cpu"]
    trained = pipeline("train", "blo_inst", "--json", truth, "--images", images, *settings, *where)
    (artifact,) = (Path(line[9:]) for line in trained.stdout.splitlines() if line.startswith("student: "))
    card = read_card(artifact)
    assert (card.use, card.categories) == ("blo_inst", ONTOLOGY.categories)
    assert card.settings.items() >= ENOUGH.items()
    assert load_artifact(artifact, device="cpu")

    found = tmp_path / "found.json"
    asked = pipeline("predict", images, "--student", artifact, "--json", truth, "--out", found)
    results = json.loads(found.read_text())
    assert asked.stdout == f"{found}: {len(results)} instances in 2 images\n"
    assert {one["image_id"] for one in results} == {1, 2}
    assert {one["category_id"] for one in results} == set(ONTOLOGY.ids)
    assert {tuple(one["segmentation"]["size"]) for one in results} == {(96, 128)}

    of_file = json.loads(pipeline("evaluate", "--json", truth, "--results", found).stdout)
    of_student = json.loads(
        pipeline("evaluate", "--json", truth, "--images", images, "--student", tmp_path / "run").stdout
    )
    assert of_file == of_student
    assert of_file["images"] == 2
    assert of_file["AP50"] >= of_file["AP"] > 0.5
