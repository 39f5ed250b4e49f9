"""AM-SAM from the command line, with the embedded SAM: tuned on few masks, asked about a folder; and in a run."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import Result
from few_shots import ONTOLOGY, shot
from safetensors.torch import save_file
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.data.coco import CocoWriter
from pipeline.data.records import Record, Role
from pipeline.engine.status import find_results
from students.pretrain_fcos import begin
from teachers.fcos import build_fcos_tiny

CONFIG = Path(__file__).parents[2] / "configs" / "am-sam.yaml"
LEAST = {"epochs": 1, "detector_epochs": 1, "score": 0.9}


def pipeline(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.stderr
    return done


def write_coco(path: Path, records: Sequence[Record]) -> Path:
    with CocoWriter(path, ONTOLOGY, info={}) as file:
        for record in records:
            file.add(record)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        save_file(begin(build_fcos_tiny(2)).model.state_dict(), tmp_path / "detector.safetensors")
    return tmp_path / "detector.safetensors"


def test_train_and_label(images: Path, detector: Path, tmp_path: Path) -> None:
    coco = write_coco(tmp_path / "coco.json", [shot(i, images) for i in range(1, 5)])
    given = {**LEAST, "detector_weights": detector}
    settings = [f"--set=models.teacher.{key}={value}" for key, value in given.items()]
    where = [f"--store={tmp_path / 'store'}", "--device=cpu"]
    run = tmp_path / "tuned"
    trained = pipeline(
        "train", "am_sam", "--json", coco, "--images", images, "--shots=2", f"--out={run}", *settings, *where
    )
    (artifact,) = (Path(line[9:]) for line in trained.stdout.splitlines() if line.startswith("teacher: "))
    card = json.loads((artifact / "teacher.json").read_text())
    assert len(card["lower"]) == len(card["upper"]) == 1
    assert "detector_weights" not in card["settings"]

    out = tmp_path / "labelled"
    labelled = pipeline("label", images, "--teacher", artifact, f"--out={out}", *where)
    found = json.loads((out / "export/coco/train.json").read_text())
    assert len(found["images"]) == 4
    assert [c["name"] for c in found["categories"]] == ["disc", "bar"]
    assert found["annotations"]
    assert all(one["pseudo"]["semantic"] for one in found["annotations"])
    boxless = sum(one["pseudo"]["prompt"]["origin"] == "image" for one in found["annotations"])
    assert f"{boxless} pseudo-masks were made without a box" in labelled.stderr
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert "proposer" not in config["models"]
    assert config["weak"] == "none"


def test_in_a_run_with_a_proposer_and_a_student(tmp_path: Path) -> None:
    config = {
        "name": "few",
        "data": {"source": "toyworld", "train": 8, "val": 1},
        "weak": "none",
        "shots": 3,
        "torch_threads": 1,
        "models": {
            "teacher": {"use": "am_sam", "boxes": "proposals", "epochs": 1, "split": "components"},
            "proposer": {"use": "tiny_grounder"},
            "student": {"use": "mask2former", "variant": "tiny"},
        },
        "stages": [
            {"finetune_teacher": {"model": "teacher", "steps": 1}},
            {"propose": {"model": "proposer"}},
            {"pseudo_label": {"model": "teacher"}},
            {"filter": {}},
            {"export": {}},
            {"train_student": {"model": "student", "steps": 1}},
            {"evaluate": {}},
            {"report": {}},
        ],
    }
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump(config))
    where = [f"--out={tmp_path / 'run'}", f"--store={tmp_path / 'store'}", "--device=cpu", "--workers=0"]
    pipeline("run", tmp_path / "stages.yaml", *where)
    resolved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert resolved["stages"][0]["finetune_teacher"]["proposer"] == "proposer"
    (teacher,) = find_results(tmp_path / "run", "finetune_teacher").values()
    listed = json.loads((teacher / "boxes.json").read_text())
    assert {one["origin"] for one in listed} == {"dino", "image"}
    found = json.loads((tmp_path / "run/export/coco/train.json").read_text())
    masks = [one for one in found["annotations"] if one.get("pseudo", {}).get("source") == "teacher"]
    assert masks
    assert not any(one["pseudo"].get("semantic") for one in masks)
    assert (tmp_path / "run/report/index.html").is_file()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ([], ["weights/sam_vit_b_01ec64.pth: no such file", "weights/fcos_resnet50_fpn_coco-99b0c9b7.pth"]),
        (["--set=models.teacher={use: am_sam, mode: blo_sam}"], []),
        (["--set=models.teacher.mode=blo_sam"], ["detector does nothing with boxes: none"]),
    ],
    ids=["as it is", "as it says without files", "a detector for nothing"],
)
def test_the_config_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], told: list[str]
) -> None:
    data = tmp_path / "DIR" / "human-seg"
    (data / "images").mkdir(parents=True)
    write_coco(data / "train.json", [shot(i, data / "images") for i in range(1, 10)])
    write_coco(data / "test.json", [replace(shot(10, data / "images"), split="val", role=Role.VAL)])
    monkeypatch.chdir(tmp_path)
    done = pipeline("check", CONFIG, "--data=DIR", "--device=cpu", *settings, code=2 if told else 0)
    for problem in told:
        assert problem in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["mask2former", "--shots=4"], "--shots: is of teachers"),
        (["mask2former", "--proposer=tiny_grounder"], "--proposer: is of teachers"),
        (
            ["class_aware_sam", "--proposer=tiny_grounder"],
            "'class_aware_sam' is tuned without boxes of others",
        ),
        (["am_sam", "--val-json=x.json"], "--val-json: is of students"),
        (["am_san"], "no student or tunable teacher, did you mean 'am_sam'"),
        (["am_sam", "--shots=9"], "asked for 9 of 3 train images with human masks, but only 3 have masks"),
        (["am_sam", "--set=models.teacher.boxes=proposals"], "proposer: expected a proposer, or a stage"),
        (["am_sam", "--set=models.teacher.boxes=file"], "expected a box_file with boxes: file, found none"),
        (["am_sam", "--set=models.teacher.detector=yolo"], "no detector 'yolo'"),
    ],
)
def test_what_cannot_be_trained_is_told(
    images: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    coco = write_coco(tmp_path / "coco.json", [shot(i, images) for i in range(1, 4)])
    where = [f"--out={tmp_path / 'run'}", f"--store={tmp_path / 'store'}", "--device=cpu"]
    done = pipeline("train", *arguments, "--json", coco, "--images", images, *where, code=2)
    assert told in done.stderr


TEACHER = {"use": "am_sam", "mode": "blo_sam"}
LABEL = {"pseudo_label": {"model": "teacher"}}
TUNE = {"finetune_teacher": {"model": "teacher"}}


@pytest.mark.parametrize(
    ("weak", "stages", "told"),
    [
        ("none", [TUNE, LABEL], ""),
        ("class", [TUNE, LABEL], ""),
        ("point+class", [TUNE, LABEL], "weak: expected none or class, as `am_sam` labels whole classes"),
        ("none", [TUNE, {"gate": {"model": "teacher"}}, LABEL], "`am_sam` has nothing to choose from"),
        (
            "none",
            [TUNE, LABEL, {"calibrate": {"model": "teacher"}}, {"filter": {}}],
            "expected a teacher of objects",
        ),
        (
            "none",
            [{"finetune_teacher": {"model": "teacher", "proposer": "p"}}, LABEL],
            "tuned without boxes of others",
        ),
        (
            "none",
            [TUNE, {"pseudo_label": {"model": "teacher", "tau": 0.2}}],
            "tau: `am_sam` has no such setting",
        ),
    ],
)
def test_stages_that_do_not_fit_it_are_told(
    tmp_path: Path, weak: str, stages: list[object], told: str
) -> None:
    config = {
        "name": "few",
        "data": {"source": "toyworld", "train": 8, "val": 1},
        "weak": weak,
        "shots": 3,
        "models": {"teacher": TEACHER, "p": {"use": "tiny_grounder"}},
        "stages": [*stages, {"export": {}}],
    }
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump(config))
    done = pipeline("check", tmp_path / "stages.yaml", "--device=cpu", code=2 if told else 0)
    assert told in done.stderr
