"""ViT-B from a file in the official format, through the command a user types, on real photos."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO
from segment_anything import build_sam_vit_b

from teachers.identity import file_sha256

PHOTOS = 2


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["sam", "class_aware_sam"])
def test_vit_b_labels_two_photos(tmp_path: Path, real_data: Path, teacher: str) -> None:
    """Random weights, so the masks mean nothing; that each box gets one of the photo's size, or a reason, does."""
    torch.manual_seed(0)
    weights = tmp_path / "sam_vit_b.pth"
    torch.save(build_sam_vit_b().state_dict(), weights)
    truth = json.loads((real_data / "penn-fudan" / "train.json").read_text())
    images = truth["images"][:PHOTOS]
    wanted = {image["id"] for image in images}
    boxes = [
        {key: entry[key] for key in ("id", "image_id", "category_id", "bbox", "iscrowd")}
        for entry in truth["annotations"]
        if entry["image_id"] in wanted
    ]
    weak = tmp_path / "weak.json"
    weak.write_text(json.dumps({"images": images, "annotations": boxes, "categories": truth["categories"]}))
    model = {"sam": "vit_b", "checkpoint": str(weights), "sha256": file_sha256(weights)}
    command = [sys.executable, "-m", "pipeline.cli", "label", str(real_data / "penn-fudan" / "images")]
    command += [f"--json={weak}", "--weak=box+class", f"--teacher={teacher}", f"--out={tmp_path / 'run'}"]
    command += [f"--store={tmp_path / 'store'}"]
    command += [f"--set=models.teacher.{key}={value}" for key, value in model.items()]
    subprocess.run(command, check=True)
    made = COCO(str(tmp_path / "run" / "export" / "coco" / "train.json"))
    assert {image["file_name"] for image in made.dataset["images"]} == {i["file_name"] for i in images}
    assert 0 < len(made.dataset["annotations"]) <= len(boxes)  # a mask without a pixel is dropped
    for entry in made.dataset["annotations"]:
        photo = made.imgs[entry["image_id"]]
        assert made.annToMask(entry).shape == (photo["height"], photo["width"])
