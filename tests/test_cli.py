import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from pipeline import commands, standalone
from pipeline.cli import app
from pipeline.data.coco import CocoFile
from pipeline.data.masks import encode
from pipeline.engine.rundir import RunFolder
from pipeline.found import Found
from pipeline.report.documents import MetricsFile, PseudoQuality, StudentScore
from pipeline.summary import summary

STAGES = Path(__file__).parents[1] / "stages.yaml"
CATEGORIES = [{"id": 7, "name": "square"}]


def square(at, size=4):
    mask = np.zeros((16, 20), bool)
    mask[at : at + size, at : at + size] = True
    return encode(mask)


def annotation(number, image_id, at):
    rle = square(at)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 7,
        "bbox": [at, at, 4, 4],
        "area": 16,
        "iscrowd": 0,
        "segmentation": {"size": list(rle.size), "counts": rle.counts},
    }


@pytest.fixture
def photos(tmp_path):
    """A COCO file of four photos with a square each, and its image folder."""
    folder = tmp_path / "photos"
    folder.mkdir()
    images = []
    for number in range(1, 5):
        Image.new("RGB", (20, 16), (number, 0, 0)).save(folder / f"{number}.png")
        images.append({"id": number * 10, "file_name": f"{number}.png", "width": 20, "height": 16})
    annotations = [annotation(n, n * 10, n) for n in range(1, 5)]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": images, "categories": CATEGORIES, "annotations": annotations}))
    return path, folder


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """A function that runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMNIMASK_DATA", raising=False)

    def run(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments])

    return run


@pytest.fixture
def config(tmp_path, photos):
    coco, folder = photos
    file = tmp_path / "stages.yaml"
    content = {
        "name": "small",
        "data": {"source": "coco", "json": coco.name, "images": folder.name},
        "weak": "box+class",
        "masks": "50%",
        "stages": [{"filter": {}}, {"export": {}}],
    }
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
def student(tmp_path):
    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "student.json").write_text("{}")
    return folder


def test_help_is_quick_to_import():
    code = "import sys, pipeline.cli; print([m for m in ('torch', 'pyarrow', 'numpy') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_checking_a_config_imports_no_torch(tmp_path):
    """It takes seconds; a machine without a GPU driver needs it for nothing before the work starts."""
    code = (
        "import sys; from pathlib import Path; from pipeline.config import Request, load_plan;"
        f"load_plan(Request(Path({str(STAGES)!r}), device='cpu')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


def test_the_end_of_a_run_tells_what_came_out(tmp_path):
    pseudo = PseudoQuality(
        images=3,
        instances=10,
        pseudo_masks=9,
        dropped=0,
        miou=0.51249,
        miou_images=0.5,
        misses=2,
        false_positives=1,
        by_class={},
        by_origin={},
    )
    score = StudentScore(images=4, AP=0.25, AP50=0.5)
    images = {"weak": 3}
    metrics = MetricsFile(
        seed=0, weak="class", images=images, semantic=False, pseudo=pseudo, students={"student": score}
    )
    metrics.write(tmp_path / "metrics.json")
    (tmp_path / "cost.txt").write_text("the bill\n")
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").touch()
    assert summary(tmp_path).splitlines() == [
        "pseudo-masks: mIoU 0.512 over the 10 objects of 3 images; 2 missed, 1 of 9 masks too many",
        "student: AP 0.250, AP50 0.500 on 4 images",
        "the bill",
        f"see {tmp_path / 'report' / 'index.html'}",
    ]


def test_all_commands_are_there(cli):
    there = {"run", "check", "status", "train", "label", "predict", "evaluate", "validate", "export"}
    there |= {"cost", "models"}
    assert set(get_command(app).commands) == there
    assert all(cli(name, "--help").exit_code == 0 for name in there)


def test_run_status_export_and_run_again(cli, config, tmp_path):
    first = cli("run", config, "--workers", 0)
    assert (first.exit_code, first.stdout) == (
        0,
        "runs/small-box+class: complete\nsee runs/small-box+class/export/coco\n",
    )
    again = cli("run", config, "--workers", 0)
    assert again.exit_code == 0
    assert again.stdout.startswith("runs/small-box+class: complete already, nothing to do\n")
    run = tmp_path / "runs" / "small-box+class"
    assert json.loads((run / "run.json").read_text())["data_root"] == str(tmp_path)
    status = cli("status", run)
    assert status.stdout.splitlines()[0] == "small: done"
    assert [line.split()[:3] for line in status.stdout.splitlines()[1:]] == [
        ["ingest", "done", "1/1"],
        ["filter", "done", "1/1"],
        ["export", "done", "1/1"],
    ]
    copied = cli("export", run, "--out", "copy")
    assert (copied.stdout, copied.stderr) == ("copy: 4 images\n", "")
    listed = json.loads((tmp_path / "copy" / "coco" / "train.json").read_text())
    assert all((tmp_path / "copy" / "images" / image["file_name"]).is_file() for image in listed["images"])
    assert cli("export", run, "--out", "copy").exit_code == 2  # nothing of the user's is overwritten


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--ray-address=auto"], 2, "--ray-address=auto: goes with --engine=ray only"),
        (["--engine=ray", "--workers=0"], 2, "--workers=0: goes with --engine=local only"),
        (["--set", "weak=box"], 2, "error: weak: expected one of"),
        (["--weak", "box"], 2, "error: weak: expected one of"),
        (["--data", "nowhere"], 2, "nowhere"),
        (["--set", "max_bad=0", "--set", "data.json=bad.json"], 3, "max_bad allows 0.0%"),
        (["--out", "mine"], 2, "not a run folder, yet it holds thesis.txt"),
        (["--out", "busy"], 4, "works here"),
    ],
)
def test_exit_codes(cli, config, tmp_path, arguments, code, message):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    bad = json.loads((tmp_path / "truth.json").read_text())
    bad["annotations"][0]["segmentation"]["counts"] = "?"
    (tmp_path / "bad.json").write_text(json.dumps(bad))
    with RunFolder(tmp_path / "busy").locked():
        result = cli("run", config, "--workers", 0, *arguments)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr


def test_check_prints_a_config_that_can_be_run(cli, config, tmp_path):
    result = cli("check", config, "--shots", 1)
    assert result.exit_code == 0
    resolved = yaml.safe_load(result.stdout)
    assert (resolved["shots"], resolved["device"], "masks" in resolved) == (1, "cpu", False)
    (tmp_path / "resolved.yaml").write_text(result.stdout)
    assert cli("check", "resolved.yaml").stdout == result.stdout
    assert not (tmp_path / "runs").exists()


def test_check_looks_at_the_data(cli, config):
    result = cli("check", config, "--set", "data.json=none.json", "--set", "data.images=none")
    assert result.exit_code == 2
    assert [line.rpartition("/")[2] for line in result.stderr.splitlines()] == [
        "none: expected a folder of images, found none",
        "none.json: cannot be read: No such file or directory",
    ]


def test_status_of_what_is_no_run(cli, tmp_path):
    result = cli("status", tmp_path)
    assert result.exit_code == 2
    assert "expected a run folder with a sound run.json" in result.stderr


@pytest.mark.parametrize(
    ("preset", "numbers"),
    [
        ("coco", ["0.0", "80.0", "88.7", "130.4", "684.8"]),
        ("ade20k", ["0.0", "100.0", "110.9", "163.3", "859.5"]),
        ("cityscapes", ["0.0", "8.0", "24.7", "123.5", "1341.7"]),
    ],
)
def test_cost_prints_the_published_table(cli, preset, numbers):
    lines = cli("cost", "--preset", preset).stdout.splitlines()[2:]
    assert [line.split()[1] for line in lines] == numbers


def test_cost_of_an_unknown_preset(cli):
    assert cli("cost", "--preset", "voc").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--json", "truth.json"], "expected --results FILE, or --student with --images DIR"),
        (
            ["evaluate", "--json", "truth.json", "--student", "student"],
            "expected --results FILE, or --student",
        ),
        (
            ["predict", "photos", "--student", "mask2former", "--out", "x"],
            "`pipeline train mask2former` makes an artifact",
        ),
        (
            ["predict", "photos", "--student", "nobody", "--out", "x"],
            "expected a folder with student.json or a run folder",
        ),
        (
            ["predict", "nowhere", "--student", "student", "--out", "x"],
            "expected a folder of images, found none",
        ),
        (["label", "photos", "--json", "truth.json", "--teacher", "sma"], "did you mean 'sam'?"),
        (
            ["label", "photos", "--images", "photos", "--classes", "a"],
            "as argument or as --images, found both",
        ),
        (["label", "--classes", "a"], "as argument or as --images, found none"),
        (["label", "photos"], "expected --json FILE, --classes a,b,c or a run folder as --teacher"),
        (["label", "photos", "--json", "truth.json", "--classes", "a"], "expected one of the two"),
        (["label", "nowhere", "--classes", "a"], "nowhere: expected a folder of images, found none"),
        (
            ["label", "photos", "--classes", "a", "--weak", "class"],
            "image 1 (1.png): neither tags nor annotations",
        ),
        (
            ["label", "photos", "--classes", "a", "--set", "models.teacher.sam=vit_b"],
            "models.teacher.checkpoint: vit_b needs the path of its weights",
        ),
        (["predict", "photos", "--images", "photos", "--student", "student", "--out", "x"], "found both"),
        (
            ["train", "mask2fromer", "--json", "truth.json", "--images", "photos"],
            "did you mean 'mask2former'?",
        ),
        (["export", "photos", "--out", "x"], "expected a COCO file or a run folder with export/coco, found"),
        (["export", "truth.json", "--out", "x"], "a COCO file with --images, the folder of its images"),
        (
            ["export", "photos", "--images", "photos", "--out", "x"],
            "expected a run folder, or a COCO file with",
        ),
        (["export", "nothing", "--out", "x"], "expected a COCO file or a run folder with export/coco"),
        (
            ["export", "truth.json", "--images", "none", "--out", "x"],
            "none: expected a folder of images, found none",
        ),
        (["export", "truth.json", "--images", "photos", "--out", "photos"], "is there already"),
    ],
)
def test_wrong_arguments(cli, photos, student, arguments, message):  # noqa: ARG001
    result = cli(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_label_makes_a_run_of_its_own(cli, photos, monkeypatch):
    plans = []
    from teachers import catalog

    monkeypatch.setattr(catalog, "identity", lambda _: {})
    monkeypatch.setattr(commands, "_drive", lambda plan, folder, store: plans.append((plan, folder, store)))
    coco, folder = photos
    assert cli("label", folder, "--json", coco, "--set", "models.teacher.alpha=1").exit_code == 0
    assert cli("label", folder, "--json", coco, "--weak", "box+class", "--teacher", "sam").exit_code == 0
    points, boxes = (plan for plan, _, _ in plans)
    assert [p.label for p in points.stages] == ["ingest", "propose", "pseudo_label", "filter", "export"]
    assert [p.label for p in boxes.stages] == ["ingest", "pseudo_label", "filter", "export"]
    assert points.stages[2].config.model.settings["alpha"] == 1
    assert boxes.stages[1].config.model.use == "sam"
    assert plans[0][1] == Path("runs/label-truth-point+class")


def test_training_takes_the_images_whose_objects_all_have_masks(cli, config, photos, tmp_path):
    coco, _ = photos
    content = json.loads(coco.read_text())
    del content["annotations"][1]["segmentation"]  # image 20: a box alone
    del content["annotations"][3]  # image 40: our own export found nothing there
    content["images"][3]["pseudo"] = {"role": "weak"}
    coco.write_text(json.dumps(content))
    result = cli("run", config, "--workers", 0, "--masks", "all", "--weak", "none", "--out", "masked")
    assert result.exit_code == 0, result.stderr
    listed = json.loads((tmp_path / "masked" / "export" / "coco" / "train.json").read_text())
    assert [image["id"] for image in listed["images"]] == [10, 30, 40]
    assert [entry["image_id"] for entry in listed["annotations"]] == [10, 30]
    assert standalone.notes_of(tmp_path / "masked") == [
        "1 of 4 train images were left out: not all of their objects have masks"
    ]


def test_a_folder_is_labelled_with_the_classes_named(cli, photos, monkeypatch):
    from teachers import catalog

    plans = []
    monkeypatch.setattr(catalog, "identity", lambda _: {})
    monkeypatch.setattr(commands, "_drive", lambda plan, folder, _: plans.append((plan, folder)))
    _, folder = photos
    assert cli("label", folder, "--classes", "square, sea animal").exit_code == 0
    assert cli("label", "--images", folder, "--classes", "square").exit_code == 0
    (one, out), (other, _) = plans
    assert out == Path("runs/label-photos-none")
    assert one.resolved["data"]["classes"] == {"square": 1, "sea animal": 2}
    assert other.resolved["data"]["classes"] == {"square": 1}
    assert one.images == folder
    assert [p.label for p in one.stages] == ["ingest", "propose", "pseudo_label", "filter", "export"]


def test_a_runs_folder_is_a_teacher_with_all_that_its_labels_depended_on(cli, config, monkeypatch, tmp_path):
    from teachers import catalog

    assert cli("run", config, "--workers", 0).exit_code == 0
    run = tmp_path / "runs" / "small-box+class"
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["models"] = {"mine": {"use": "sam", "alpha": 3.0}, "finder": {"use": "tiny_grounder"}}
    content["stages"] = [
        {"propose": {"model": "finder", "score": 0.05, "resources": {"gpus": 1}}},
        {"pseudo_label": {"model": "mine", "alpha": 2.0, "beta": None, "score": 0.06}},
        {"filter": {"preset": "custom", "min_area": 9}},
    ]
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    plans = []
    monkeypatch.setattr(catalog, "identity", lambda _: {})
    monkeypatch.setattr(commands, "_drive", lambda plan, *_: plans.append(plan))
    result = cli("label", "photos", "--teacher", run)
    assert result.exit_code == 0, result.stderr
    (plan,) = plans
    propose, label, filtering = (planned.config for planned in plan.stages[1:4])
    assert plan.resolved["data"]["classes"] == {"square": 7}
    assert (propose.model.use, propose.score) == ("tiny_grounder", 0.05)
    assert (label.model.use, label.alpha, label.beta, label.score) == ("sam", 2.0, None, 0.06)
    assert (filtering.preset, filtering.min_area) == ("custom", 9)


def test_a_folder_becomes_a_run(cli, photos, tmp_path):
    _, folder = photos
    (folder / "0.png").write_text("no picture")
    content = {
        "name": "bare",
        "data": {"source": "folder", "images": folder.name, "classes": {"square": 7}},
        "weak": "none",
        "masks": "0%",
        "max_bad": 0.5,
        "stages": [{"export": {}}],
    }
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(content))
    result = cli("run", "bare.yaml", "--workers", 0)
    assert result.exit_code == 0, result.stderr
    listed = json.loads((tmp_path / "runs" / "bare-none" / "export" / "coco" / "train.json").read_text())
    assert [(i["id"], i["file_name"], i["width"], i["height"]) for i in listed["images"]] == [
        (n, f"{n - 1}.png", 20, 16) for n in range(2, 6)
    ]
    assert listed["categories"] == [{"id": 7, "name": "square"}]


def test_train_and_val_photos_in_folders_of_their_own_can_be_exported(cli, config, photos, tmp_path):
    coco, folder = photos
    folder.rename(tmp_path / "train2017")
    shutil.copytree(tmp_path / "train2017", tmp_path / "val2017")
    data = ["--set", "data.images=train2017", "--set", "data.val_images=val2017"]
    result = cli("run", config, "--workers", 0, *data, "--set", f"data.val_json={coco.name}", "--out", "both")
    assert result.exit_code == 0, result.stderr
    for name in ("train", "val"):
        with CocoFile(tmp_path / "both" / "export" / "coco" / f"{name}.json") as file:
            assert file.findings == ()
            assert [image.file_name for image in file.images] == [f"{name}2017/{n}.png" for n in range(1, 5)]
    copied = cli("export", "both", "--out", "copy")
    assert (copied.exit_code, copied.stdout) == (0, "copy: 8 images\n"), copied.stderr
    assert len(list((tmp_path / "copy" / "images").rglob("*.png"))) == 8


def test_a_tuned_teacher_is_lent_to_the_run(photos, monkeypatch, tmp_path):
    from pipeline.config import Request
    from teachers import catalog

    monkeypatch.setattr(catalog, "identity", lambda _: {})
    entry = {"use": "class_aware_sam", "sam": "tiny"}
    found = Found(entry, {"teacher": tmp_path / "tuned"})
    plan = standalone.plan_labelling(found, "tiny_grounder", standalone.Photos(*photos), Request(Path()))
    assert plan.lent == {"teacher": tmp_path / "tuned"}
    assert plan.resolved["lent"] == {"teacher": str(tmp_path / "tuned")}


def test_train_plans_a_score_where_there_is_a_val_file(photos):
    from pipeline.config import Request

    coco, folder = photos
    request = Request(Path(), settings=("models.student.steps=3",), device="cpu")
    plain = standalone.plan_training("mask2former", standalone.Photos(coco, folder), request)
    assert [p.label for p in plain.stages] == ["ingest", "train_student"]
    assert plain.stages[1].config.model.settings["steps"] == 3
    assert (plain.resolved["weak"], plain.resolved["masks"]) == ("none", "all")
    scored = standalone.plan_training("mask2former", standalone.Photos(coco, folder, coco, folder), request)
    assert [p.label for p in scored.stages] == ["ingest", "train_student", "evaluate"]
