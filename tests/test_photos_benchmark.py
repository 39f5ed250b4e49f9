"""The benchmark of SAM on photographs: its lines, and when it fails."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import photos
from pipeline.data import masks
from pipeline.data.coco import read_records
from pipeline.data.records import RLE, Role
from pipeline.toyworld.scene import render

SET = "drawings"
IMAGES = 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two drawn scenes as a set of photographs."""
    images, truth = tmp_path / SET / "images", tmp_path / SET / "train.json"
    images.mkdir(parents=True)
    entries: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": []}
    entries["categories"] = [{"id": 1, "name": "thing"}]
    for index in range(1, IMAGES + 1):
        scene = render("demo", 7, index)
        Image.fromarray(scene.image).save(images / f"{index}.png")
        height, width = scene.image.shape[:2]
        entries["images"].append({"id": index, "file_name": f"{index}.png", "width": width, "height": height})
        for thing in (o for o in scene.objects if o.class_id is not None):
            rle, (x0, y0, x1, y1) = masks.encode(thing.mask), thing.box_xyxy
            entries["annotations"].append(
                {
                    "id": len(entries["annotations"]) + 1,
                    "image_id": index,
                    "category_id": 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": int(thing.mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": list(rle.size), "counts": rle.counts},
                }
            )
    truth.write_text(json.dumps(entries))
    return tmp_path


def truth_of(folder: Path) -> dict[str, list[RLE]]:
    _, records = read_records(folder / SET / "train.json", split="train", role=Role.HUMAN_MASKED)
    return {record.uri: [one.rle for one in record.instances if one.rle is not None] for record in records}


def mean_iou_of_ellipses(folder: Path) -> float:
    """The ellipse that fills each box, drawn by hand."""
    ious = []
    for things in truth_of(folder).values():
        for mask in map(masks.decode, things):
            ys, xs = np.nonzero(mask)
            y0, y1, x0, x1 = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
            y, x = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
            drawn = ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1
            ious.append((drawn & mask).sum() / (drawn | mask).sum())
    return float(np.mean(ious))


@pytest.mark.parametrize(("worth", "code"), [(1.0, 0), (0.0, 1)])
def test_sam_must_be_above_the_ellipse(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    worth: float,
    code: int,
) -> None:
    truth = truth_of(folder)
    answers = {uri: things if worth else [None] * len(things) for uri, things in truth.items()}
    monkeypatch.setattr(photos, "zero_shot", lambda *_: lambda seen: answers[seen.uri])
    monkeypatch.setattr(photos.torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr("sys.argv", ["photos", f"--data={folder}", "--sets", SET, "--images", str(IMAGES)])
    assert photos.main() == code
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (line["set"], line["images"]) == (SET, IMAGES)
    assert line["objects"] == sum(map(len, truth.values()))
    assert line["sam"] == worth
    assert line["ellipse"] == pytest.approx(mean_iou_of_ellipses(folder), abs=1e-3)
    assert 0 < line["grabcut"] < 1


def test_a_mask_too_few_is_told(folder: Path) -> None:
    _, (first, *_) = read_records(folder / SET / "train.json", split="train", role=Role.HUMAN_MASKED)
    count = len(first.instances)
    with pytest.raises(ValueError, match=f"a mask for each of {count} objects, found {count - 1}"):
        photos.ious(first, lambda seen: [None] * (len(seen.instances) - 1))


def test_the_embedded_sam_answers_every_box(folder: Path) -> None:
    ontology, (first, *_) = read_records(folder / SET / "train.json", split="train", role=Role.HUMAN_MASKED)
    found = photos.ious(first, photos.zero_shot(folder / SET / "images", ontology, photos.TINY_ZOOM))
    assert len(found) == len(first.instances)
    assert np.mean(found) > 0.3
