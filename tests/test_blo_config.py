"""configs/blo-inst-penn-fudan.yaml: complete, with stand-ins laid out as it says; and what is told without them.

The stand-ins have the published files' names, formats, tensors and shapes; the photos are a few black ones.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
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
from pipeline.weights import WEIGHTS
from students import catalog as students
from teachers.catalog import ModelSpec
from teachers.detectors import DETECTORS
from teachers.identity import OFFICIAL_SHA256

CONFIG = Path(__file__).parents[1] / "configs" / "blo-inst-penn-fudan.yaml"
SAM, FCOS = "weights/sam_vit_b_01ec64.pth", "weights/fcos_resnet50_fpn_coco-99b0c9b7.pth"
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
    """`pipeline check` on the config, where it is to lie beside `weights`."""
    monkeypatch.chdir(tmp_path)

    def call(*more: str) -> Result:
        return CliRunner().invoke(app, ["check", str(CONFIG), "--data=DIR", "--device=cpu", *more])

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
    entry = replace(DETECTORS["fcos_r50"], sha256=sha256(tmp_path / FCOS))
    monkeypatch.setitem(DETECTORS, "fcos_r50", entry)  # type: ignore[arg-type]
    penn_fudan(tmp_path / "DIR" / "penn-fudan")
    return tmp_path


def model() -> dict[str, object]:
    entry = yaml.safe_load(CONFIG.read_text())["models"]["aligned"]
    assert isinstance(entry, dict)
    return entry


@pytest.mark.usefixtures("there")
def test_check_is_content_with_the_stand_ins(check: Check) -> None:
    done = check()
    assert (done.exit_code, done.stderr) == (0, "")
    resolved = yaml.safe_load(done.stdout)["models"]["aligned"]
    assert resolved == {**resolved, **model()}
    assert (resolved["epochs"], resolved["split"], resolved["rank"], resolved["part"]) == (
        20,
        0.5,
        4,
        "decoder",
    )
    settings = {key: value for key, value in model().items() if key != "use"}
    students.inspect(ModelSpec(name="aligned", use="blo_inst", settings=settings))


def test_the_weights_are_what_fetch_brings() -> None:
    for name in ("sam_vit_b", "fcos_resnet_50"):
        assert f"{name}" in re.findall(r"for name in (.*?); do pipeline", CONFIG.read_text())[0].split()
        settings = dict(WEIGHTS[name].spec(name, Path("weights")).settings)
        assert settings.items() <= model().items()


def test_check_names_everything_that_is_not_there(check: Check) -> None:
    refused = check()
    assert refused.exit_code == 2
    for text in (
        "DIR/penn-fudan/train.json: cannot be read",
        "DIR/penn-fudan/test.json: cannot be read",
        "DIR/penn-fudan/images: expected a folder of images",
        f"models.aligned.checkpoint {SAM}: no such file",
        f"models.aligned.detector_weights {FCOS}: no such file",
    ):
        assert text in refused.stderr, refused.stderr


def test_check_compares_digests(check: Check, there: Path) -> None:
    for path in (SAM, FCOS):
        (there / path).write_bytes(b"other bytes")
    refused = check()
    assert refused.exit_code == 2
    assert f"models.aligned.checkpoint {SAM}: its sha256 is " in refused.stderr
    assert f"models.aligned.detector_weights {FCOS}: its sha256 is " in refused.stderr


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("switch", "sound"), [("order=second", True), ("order=third", False), ("detector=yolo11s", None)]
)
def test_the_other_settings_of_the_comments(check: Check, switch: str, sound: bool | None) -> None:
    text = CONFIG.read_text()
    assert sound is False or re.search(rf"^#   aligned    .*{switch.replace('=', ': ')}", text, re.MULTILINE)
    done = check(f"--set=models.aligned.{switch}")
    if sound is None:  # a YOLO's file is a `.pt`, and its package is an extra
        assert done.exit_code == 2
        what = (
            "needs the package" if find_spec("ultralytics") is None else "expected a .safetensors or .pt file"
        )
        assert what in done.stderr
    else:
        assert done.exit_code == (0 if sound else 2), done.stderr
