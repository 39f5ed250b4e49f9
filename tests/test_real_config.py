"""configs/coco-vit-b.yaml: complete, and its comments' other models too, with stand-ins laid out as it says.

The stand-ins have the published files' names, formats, tensors and shapes (tests/official.py); the data set is a few
drawn photos in COCO 2017's layout.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from official import (
    NARROW_DINO,
    blank_pickle,
    blank_safetensors,
    grounding_dino,
    publish_backbone,
    publish_grounding_dino,
    resnet_50,
    sha256,
    swin_tiny,
)
from PIL import Image
from segment_anything import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.weights import WEIGHTS

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "coco-vit-b.yaml"
SAMS = {
    "sam_vit_b_01ec64.pth": build_sam_vit_b,
    "sam_vit_l_0b3195.pth": build_sam_vit_l,
    "sam_vit_h_4b8939.pth": build_sam_vit_h,
}
CLIPS = {"clip_vit_b_16": "ViT-B-16", "clip_vit_l_14": "ViT-L-14"}
OTHER = re.compile(r"^#   (teacher|proposer|student) +(\w+: .*?) {3,}(\w+)$", re.MULTILINE)


def switches() -> dict[str, tuple[str, dict[str, str]]]:
    """(model, its settings) of the config's commented lines, by the name to fetch."""
    return {
        name: (model, dict(part.split(": ") for part in settings.split(", ")))
        for model, settings, name in OTHER.findall(CONFIG.read_text())
    }


def coco(folder: Path, split: str, photos: int) -> None:
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / f"{split}2017").mkdir()
    images = [{"id": n, "file_name": f"{n:012}.jpg", "width": 32, "height": 24} for n in range(1, photos + 1)]
    for image in images:
        Image.new("RGB", (32, 24)).save(folder / f"{split}2017" / str(image["file_name"]))
    square = {"category_id": 18, "iscrowd": 0, "area": 64.0, "bbox": [2, 2, 8, 8]}
    outline = {"segmentation": [[2, 2, 10, 2, 10, 10, 2, 10]]}
    annotations = [{"id": n, "image_id": n, **square, **outline} for n in range(1, photos + 1)]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 18, "name": "dog", "supercategory": "animal"}],
    }
    (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `weights` and `coco` as the config wants them."""
    folder = tmp_path_factory.mktemp("real")
    kept = folder / "weights"
    with torch.device("meta"):
        for file, build in SAMS.items():
            blank_pickle(kept / file, build().state_dict())
        for name, text in CLIPS.items():
            state = open_clip.create_model(text, pretrained_text=False, device="meta").state_dict()
            blank_safetensors(kept / name / "open_clip_model.safetensors", state)
    for size in ("tiny", "base"):
        publish_grounding_dino(kept / f"grounding_dino_{size}", size, grounding_dino(size, **NARROW_DINO))
    publish_backbone(kept / "resnet_50", resnet_50())
    publish_backbone(kept / "swin_tiny", swin_tiny())
    coco(folder / "coco", "train", 30)
    coco(folder / "coco", "val", 5)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("switch", ["none", *switches()])
def test_check_is_content_with_the_stand_ins(there: Path, switch: str) -> None:
    """Of SAM's published digests the stand-ins cannot have one, so theirs is given."""
    model, settings = switches().get(switch, ("teacher", {}))
    sam = settings.get("checkpoint") if model == "teacher" else None
    digest = sha256(there / (sam or "weights/sam_vit_b_01ec64.pth"))
    command = [sys.executable, "-m", "pipeline.cli", "check", str(CONFIG), "--data=coco", "--device=cpu"]
    command += [f"--set=models.{model}.{key}={value}" for key, value in settings.items()]
    done = subprocess.run(
        [*command, f"--set=models.teacher.sha256={digest}"],
        cwd=there,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    resolved = yaml.safe_load(done.stdout)["models"]
    assert resolved[model] == {**resolved[model], **settings}


def test_the_other_models_of_the_comments_are_those_that_can_be_fetched() -> None:
    found = switches()
    assert set(found) == {"sam_vit_l", "sam_vit_h", "clip_vit_l_14", "grounding_dino_base", "swin_tiny"}
    for name, (_, settings) in found.items():
        assert settings == WEIGHTS[name].spec(name, Path("weights")).settings


def test_check_names_everything_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(app, ["check", str(CONFIG), "--data=coco", "--device=cpu"])
    assert refused.exit_code == 2
    for text in (
        "coco/annotations/instances_train2017.json: cannot be read",
        "coco/annotations/instances_val2017.json: cannot be read",
        "coco/train2017: expected a folder of images",
        "models.teacher.checkpoint weights/sam_vit_b_01ec64.pth: no such file",
        "models.teacher.text_checkpoint weights/clip_vit_b_16/open_clip_model.safetensors: no such file",
        "models.proposer.checkpoint weights/grounding_dino_tiny",
        "models.student.weights: weights/resnet_50/model.safetensors: no such file",
    ):
        assert text in refused.stderr, refused.stderr
