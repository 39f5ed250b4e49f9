import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

from pipeline import commands, fetch, standalone
from pipeline.cli import app
from pipeline.data.masks import encode
from pipeline.data.records import Instance, Source
from pipeline.engine.files import file_digest
from pipeline.engine.rundir import RunFolder
from pipeline.fetch import Download, Repository
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


class Squares:
    """A student that finds the square where the photo's red channel says it is."""

    def predict(self, batch):
        return [
            [Instance(Source.STUDENT, class_id=7, rle=square(int(sample.image[0, 0, 0])), score=0.5)]
            for sample in batch
        ]


@pytest.fixture
def student(tmp_path, monkeypatch):
    from students import catalog

    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "student.json").write_text("{}")
    monkeypatch.setattr(catalog, "load_artifact", lambda _, *, device: Squares())  # noqa: ARG005
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
    there = {"run", "check", "status", "train", "label", "predict", "evaluate", "export", "cost", "models"}
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
    assert [line.split()[:2] for line in status.stdout.splitlines()[1:]] == [
        ["ingest", "1/1"],
        ["filter", "1/1"],
        ["export", "1/1"],
    ]
    copied = cli("export", run, "--out", "copy")
    assert (copied.stdout, copied.stderr) == ("copy: 4 images\n", "")
    listed = json.loads((tmp_path / "copy" / "coco" / "train.json").read_text())
    assert all((tmp_path / "copy" / "images" / image["file_name"]).is_file() for image in listed["images"])
    assert cli("export", run, "--out", "copy").exit_code == 2  # nothing of the user's is overwritten


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--engine=ray"], 2, "--engine=ray: this version runs on one machine only; expected local"),
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


def test_status_of_what_is_no_run(cli, tmp_path):
    result = cli("status", tmp_path)
    assert result.exit_code == 2
    assert "expected a run folder with a run.json" in result.stderr


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


def test_predict_and_evaluate(cli, photos, student, tmp_path):
    coco, folder = photos
    result = cli("predict", folder, "--student", student, "--json", coco, "--out", "found.json")
    assert result.stdout == "found.json: 4 instances in 4 images\n"
    found = json.loads((tmp_path / "found.json").read_text())
    assert [r["image_id"] for r in found] == [10, 20, 30, 40]
    scores = json.loads(cli("evaluate", "--json", coco, "--results", "found.json").stdout)
    assert scores["AP"] == 1.0
    again = json.loads(cli("evaluate", "--json", coco, "--images", folder, "--student", student).stdout)
    assert again == scores
    pseudo = json.loads(cli("evaluate", "--json", coco, "--results", coco).stdout)
    assert (pseudo["miou"], pseudo["misses"]) == (1.0, 0)
    assert cli("predict", folder, "--student", student, "--out", "found.json").exit_code == 2


def test_predict_numbers_photos_by_name_and_leaves_out_bad_ones(cli, photos, student, tmp_path):
    _, folder = photos
    (folder / "0.png").write_text("no picture")
    result = cli("predict", folder, "--student", student, "--out", "found.json")
    assert [r["image_id"] for r in json.loads((tmp_path / "found.json").read_text())] == [2, 3, 4, 5]
    assert result.exit_code == 3
    assert "0.png" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--json", "truth.json"], "expected --results FILE, or --student with --images DIR"),
        (
            ["evaluate", "--json", "truth.json", "--student", "student"],
            "expected --results FILE, or --student",
        ),
        (
            ["evaluate", "--json", "truth.json", "--results", "keys.json"],
            "results[0]: expected category_id, score",
        ),
        (["evaluate", "--json", "truth.json", "--results", "other.json"], "image 99 is not in"),
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
            ["train", "mask2fromer", "--json", "truth.json", "--images", "photos"],
            "did you mean 'mask2former'?",
        ),
        (["export", "photos", "--out", "x"], "expected a run folder with export/coco, found none"),
        (["models", "fetch", "sam_vit_x"], "nothing to fetch, did you mean"),
    ],
)
def test_wrong_arguments(cli, photos, student, tmp_path, arguments, message):  # noqa: ARG001
    (tmp_path / "keys.json").write_text('[{"image_id": 10, "segmentation": {}}]')
    other = json.loads((tmp_path / "truth.json").read_text())
    other["images"][0]["id"] = other["annotations"][0]["image_id"] = 99
    (tmp_path / "other.json").write_text(json.dumps(other))
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


def test_a_tuned_teacher_is_lent_to_the_run(photos, monkeypatch, tmp_path):
    from pipeline.config import Request
    from teachers import catalog

    monkeypatch.setattr(catalog, "identity", lambda _: {})
    entry = {"use": "class_aware_sam", "sam": "tiny"}
    found = standalone.Found(entry, {"teacher": tmp_path / "tuned"})
    monkeypatch.setattr(standalone, "find_teacher", lambda _: found)
    plan = standalone.plan_labelling("tuned", "tiny_grounder", standalone.Photos(*photos), Request(Path()))
    assert plan.lent == {"teacher": tmp_path / "tuned"}
    assert plan.resolved["lent"] == {"teacher": str(tmp_path / "tuned")}


def test_train_plans_a_score_where_there_is_a_val_file(photos):
    from pipeline.config import Request

    coco, folder = photos
    request = Request(Path(), settings=("models.student.steps=3",), device="cpu")
    plain = standalone.plan_training("mask2former", standalone.Photos(coco, folder), request)
    assert [p.label for p in plain.stages] == ["ingest", "train_student"]
    assert plain.stages[1].config.model.settings["steps"] == 3
    scored = standalone.plan_training("mask2former", standalone.Photos(coco, folder, coco, folder), request)
    assert [p.label for p in scored.stages] == ["ingest", "train_student", "evaluate"]


def test_models_list(cli):
    lines = cli("models", "list").stdout.splitlines()
    assert "teacher    class_aware_sam" in lines
    assert "student    mask2former" in lines
    assert "weights    sam_vit_b" in lines


def test_fetch_compares_the_digest(cli, tmp_path, monkeypatch):
    source = tmp_path / "server" / "weights.pth"
    source.parent.mkdir()
    source.write_bytes(b"weights")
    right = Download(source.as_uri(), file_digest(source))
    monkeypatch.setitem(fetch.SOURCES, "right", right)
    monkeypatch.setitem(fetch.SOURCES, "wrong", replace(right, sha256="0" * 64))
    refused = cli("models", "fetch", "wrong")
    assert refused.exit_code == 2
    assert "expected sha256 0000" in refused.stderr
    assert not list((tmp_path / "weights").iterdir())
    assert cli("models", "fetch", "right").stdout == "weights/weights.pth\n"
    source.unlink()
    assert cli("models", "fetch", "right").exit_code == 0  # there already
    (tmp_path / "weights" / "weights.pth").write_bytes(b"damaged")
    assert cli("models", "fetch", "right").exit_code == 2


def test_fetch_pins_a_hub_model_by_the_commit_it_found(cli, monkeypatch):
    import huggingface_hub

    asked = []

    def download(repo_id, *, revision, local_dir, allow_patterns):
        asked.append((repo_id, revision, allow_patterns))
        (local_dir / "model.safetensors").parent.mkdir(exist_ok=True, parents=True)
        (local_dir / "model.safetensors").write_text(served[0])

    class Api:
        def model_info(self, repo_id):  # noqa: ARG002
            return type("Info", (), {"sha": "c0ffee"})

    served = ["weights"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setitem(fetch.SOURCES, "hub", Repository("owner/model"))
    assert cli("models", "fetch", "hub").stdout == "weights/hub\n"
    assert asked == [("owner/model", "c0ffee", ["*.safetensors", "*.json", "*.txt"])]
    Api.model_info = None  # a second fetch must not ask which commit is the newest
    assert cli("models", "fetch", "hub").exit_code == 0
    served[0] = "other weights"
    assert cli("models", "fetch", "hub").exit_code == 2
