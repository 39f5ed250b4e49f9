"""Export: plain pycocotools loads it, and every rule of the export holds."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as native
from pycocotools.coco import COCO
from stage_fakes import ONTOLOGY, Stream, box_rle, context, human, record, teacher

from pipeline.data import masks
from pipeline.data.records import Instance, Record, Role, Source
from pipeline.stages.export import Export, ExportConfig

TRUE, FOUND, SPARE = box_rle(2, 2, 10, 10), box_rle(4, 5, 9, 20), box_rle(0, 0, 3, 3)


def some_records() -> list[Record]:
    crowd = human(box_rle(20, 0, 32, 8), 7, 8)
    weak = (teacher(FOUND, 9, human_id=4, score=0.25), teacher(SPARE, dropped="score 0.1 below 0.5"))
    return [
        record(1, Role.HUMAN_MASKED, instances=(human(TRUE, 3, 5),), crowd=(crowd,)),
        record(2, Role.WEAK, instances=weak, tags=(9,)),
        record(3, Role.WEAK, dropped="truncated", instances=(teacher(FOUND),)),
        record(4, Role.RESERVED, instances=(human(TRUE, 7, 6),)),
        record(8, Role.VAL, instances=(human(TRUE, 3, 1),), crowd=(crowd,)),
    ]


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    Export(ExportConfig()).run(Stream(some_records()), context(tmp_path))
    capsys.readouterr()
    return tmp_path / "out" / "coco"


def test_pycocotools_loads_it_and_decodes_the_same_pixels(folder: Path) -> None:
    coco = COCO(str(folder / "train.json"))
    assert sorted(coco.getImgIds()) == [1, 2, 4]
    (human_mask,) = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert np.array_equal(coco.annToMask(human_mask).astype(bool), masks.decode(TRUE))
    assert coco.getCatIds() == list(ONTOLOGY.ids)


def test_annotations_follow_the_rules(folder: Path) -> None:
    content = json.loads((folder / "train.json").read_text())
    entries = content["annotations"]
    assert [entry["id"] for entry in entries] == [1, 2, 3]
    assert [image["id"] for image in content["images"]] == [1, 2, 4]
    for entry in entries:
        assert entry["iscrowd"] == 0
        assert isinstance(entry["segmentation"]["counts"], str)
        assert entry["area"] == native.area(entry["segmentation"])
        assert entry["bbox"] == list(native.toBbox(entry["segmentation"]))
        assert ("score" in entry) == (entry["pseudo"]["source"] == "teacher")


def test_what_filter_dropped_is_an_ignore_region(folder: Path) -> None:
    images = {image["id"]: image for image in json.loads((folder / "train.json").read_text())["images"]}
    (ignored,) = images[2]["pseudo"]["ignore"]
    assert (ignored["counts"], ignored["reason"]) == (SPARE.counts, "score 0.1 below 0.5")


def test_crowd_stays_out_of_training_and_in_scoring(folder: Path) -> None:
    train = json.loads((folder / "train.json").read_text())["annotations"]
    val = json.loads((folder / "val.json").read_text())["annotations"]
    assert [entry["iscrowd"] for entry in train] == [0, 0, 0]
    assert [entry["iscrowd"] for entry in val] == [0, 1]


def test_a_mask_tells_its_weights_and_the_run_that_made_it(tmp_path: Path) -> None:
    made = teacher(FOUND, 9, model="of this run")
    taken_over = Instance(Source.TEACHER, class_id=9, rle=SPARE, score=0.5, model="of another run")
    unknown = replace(taken_over, model=None)
    items = [
        record(1, Role.HUMAN_MASKED, instances=(human(TRUE, 3, 5),)),
        record(2, instances=(made, taken_over, unknown)),
    ]
    Export(ExportConfig()).run(Stream(items), context(tmp_path, key="recipe"))
    entries = json.loads((tmp_path / "out" / "coco" / "train.json").read_text())["annotations"]
    assert [(e["pseudo"].get("run"), e["pseudo"].get("model")) for e in entries] == [
        (None, None),
        ("recipe", "of this run"),
        (None, "of another run"),
        (None, None),
    ]
