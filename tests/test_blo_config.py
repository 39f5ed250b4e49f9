"""configs/blo-inst-penn-fudan*.yaml: complete, with stand-ins laid out as they say; and what is told without them.

The stand-ins have the published files' names, formats, tensors and shapes; the photos are a few black ones.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import Result
from official import blank_pickle, sha256
from PIL import Image
from segment_anything import build_sam_vit_b
from torchvision.models.detection import fcos_resnet50_fpn
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.config import Request, load_plan
from pipeline.weights import WEIGHTS
from students import catalog as students
from teachers.catalog import ModelSpec
from teachers.detectors import DETECTORS
from teachers.identity import OFFICIAL_SHA256

CONFIGS = Path(__file__).parents[1] / "configs"
YOLO_CONFIG, FCOS_CONFIG = (CONFIGS / f"blo-inst-penn-fudan{name}.yaml" for name in ("", "-fcos"))
BOTH = pytest.mark.parametrize("config", [YOLO_CONFIG, FCOS_CONFIG], ids=lambda path: path.stem)
SAM, FCOS = "weights/sam_vit_b_01ec64.pth", "weights/fcos_resnet50_fpn_coco-99b0c9b7.pth"
YOLO = "weights/yolo11s.pt"
Check = Callable[..., Result]


def penn_fudan(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    for split, photos in (("train", range(1, 7)), ("test", range(7, 10))):
        for number in photos:
            Image.new("RGB", (32, 24)).save(folder / "images" / f"{number}.png")
        images = [{"id": n, "file_name": f"{n}.png", "width": 32, "height": 24} for n in photos]
        square = {"category_id": 1, "iscrowd": 0, "area": 64.0, "bbox": [2, 2, 8, 8]}
        outline = {"segmentation": [[2, 2, 10, 2, 10, 10, 2, 10]]}
        content = {
            "images": images,
            "annotations": [{"id": n, "image_id": n, **square, **outline} for n in photos],
            "categories": [{"id": 1, "name": "person"}],
        }
        (folder / f"{split}.json").write_text(json.dumps(content))


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """`pipeline check` on a config, where it is to lie beside `weights`."""
    monkeypatch.chdir(tmp_path)

    def call(config: Path, *more: str) -> Result:
        return CliRunner().invoke(app, ["check", str(config), "--data=DIR", "--device=cpu", *more])

    return call


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins whose digests are those of the published files, as far as anyone here knows."""
    with torch.device("meta"):
        sam = build_sam_vit_b().state_dict()
    blank_pickle(tmp_path / SAM, sam)
    fcos = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).state_dict()
    blank_pickle(tmp_path / FCOS, fcos)
    monkeypatch.setitem(OFFICIAL_SHA256, "vit_b", sha256(tmp_path / SAM))
    (tmp_path / YOLO).write_bytes(b"stands for a network, which is not looked into before it is built")
    for name, file in (("fcos_r50", FCOS), ("yolo11s", YOLO)):
        entry = replace(DETECTORS[name], sha256=sha256(tmp_path / file))
        monkeypatch.setitem(DETECTORS, name, entry)  # type: ignore[arg-type]
    penn_fudan(tmp_path / "DIR" / "penn-fudan")
    return tmp_path


@pytest.fixture
def with_yolo(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the package were there, which is not imported before a network is built."""
    monkeypatch.setattr("teachers.yolo_package.find_spec", lambda _: object())


@pytest.fixture
def without_yolo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teachers.yolo_package.find_spec", lambda _: None)


def model(config: Path) -> dict[str, object]:
    entry = yaml.safe_load(config.read_text())["models"]["aligned"]
    assert isinstance(entry, dict)
    return entry


@BOTH
@pytest.mark.usefixtures("there", "with_yolo")
def test_check_is_content_with_the_stand_ins(check: Check, config: Path) -> None:
    done = check(config)
    assert (done.exit_code, done.stderr) == (0, "")
    resolved = yaml.safe_load(done.stdout)["models"]["aligned"]
    assert resolved == {**resolved, **model(config)}
    named = ("epochs", "split", "rank", "part")
    assert [resolved[name] for name in named] == [20, 0.5, 4, "decoder"]


@pytest.mark.usefixtures("with_yolo")
def test_what_make_yolo_runs_passes_the_check() -> None:
    small = load_plan(Request(CONFIGS / "blo-inst-yolo.yaml", device="cpu"))
    makefile = (CONFIGS.parent / "Makefile").read_text()
    settings = tuple(re.findall(r"--set=(models\.aligned\.\S+)", makefile))
    demo = load_plan(
        Request(CONFIGS.parent / "stages.yaml", weak="point+class", settings=settings, device="cpu")
    )
    for plan in (small, demo):
        assert plan.resolved["models"]["aligned"]["detector"] == "yolo11n"  # type: ignore[index,call-overload]


@pytest.mark.usefixtures("there", "check")
def test_the_stand_ins_fit_their_models() -> None:
    """FCOS's and SAM's; a YOLO's file: test_yolo_weights."""
    settings = {key: value for key, value in model(FCOS_CONFIG).items() if key != "use"}
    students.inspect(ModelSpec(name="aligned", use="blo_inst", settings=settings))


def test_the_two_differ_in_the_detector_alone() -> None:
    yolo, fcos = model(YOLO_CONFIG), model(FCOS_CONFIG)
    assert (yolo["detector"], fcos["detector"]) == ("yolo11s", "fcos_r50")
    assert {key for key in yolo if yolo[key] != fcos[key]} == {"detector", "detector_weights"}
    whole = [yaml.safe_load(path.read_text()) for path in (YOLO_CONFIG, FCOS_CONFIG)]
    assert {key for key in whole[0] if whole[0][key] != whole[1][key]} == {"name", "models"}


@pytest.mark.usefixtures("there", "without_yolo")
def test_a_yolo_wants_the_extra(check: Check) -> None:
    refused = check(YOLO_CONFIG)
    assert refused.exit_code == 2
    assert (
        "needs the package ultralytics (AGPL-3.0), which is not installed: pip install '.[yolo]'"
        in refused.stderr
    )
    assert "pip install '.[yolo]'" in YOLO_CONFIG.read_text()


def test_the_weights_are_what_fetch_brings() -> None:
    for name in ("sam_vit_b", "fcos_resnet_50"):
        assert f"{name}" in re.findall(r"for name in (.*?); do pipeline", FCOS_CONFIG.read_text())[0].split()
        settings = dict(WEIGHTS[name].spec(name, Path("weights")).settings)
        assert settings.items() <= model(FCOS_CONFIG).items()
    assert "pipeline models fetch sam_vit_b" in YOLO_CONFIG.read_text()


@BOTH
@pytest.mark.usefixtures("with_yolo")
def test_check_names_everything_that_is_not_there(check: Check, config: Path) -> None:
    refused = check(config)
    assert refused.exit_code == 2
    for text in (
        "DIR/penn-fudan/train.json: cannot be read",
        "DIR/penn-fudan/test.json: cannot be read",
        "DIR/penn-fudan/images: expected a folder of images",
        f"models.aligned.checkpoint {SAM}: no such file",
        f"models.aligned.detector_weights {model(config)['detector_weights']}: no such file",
    ):
        assert text in refused.stderr, refused.stderr


@BOTH
@pytest.mark.usefixtures("with_yolo")
def test_check_compares_digests(check: Check, there: Path, config: Path) -> None:
    detector = str(model(config)["detector_weights"])
    for path in (SAM, detector):
        (there / path).write_bytes(b"other bytes")
    refused = check(config)
    assert refused.exit_code == 2
    assert f"models.aligned.checkpoint {SAM}: its sha256 is " in refused.stderr
    assert f"models.aligned.detector_weights {detector}: its sha256 is " in refused.stderr


@BOTH
@pytest.mark.usefixtures("there", "with_yolo")
@pytest.mark.parametrize(("order", "sound"), [("second", True), ("third", False)])
def test_the_other_order_of_the_comments(check: Check, config: Path, order: str, sound: bool) -> None:
    told = re.search(rf"^#   aligned    order: {order}", config.read_text(), re.MULTILINE)
    assert bool(told) is sound
    done = check(config, f"--set=models.aligned.order={order}")
    assert done.exit_code == (0 if sound else 2), done.stderr
