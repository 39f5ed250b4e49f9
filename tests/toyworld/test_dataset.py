"""The data set on disk: COCO that pycocotools takes, side files that come back, disjoint splits."""

import io
import json
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from pipeline.toyworld.dataset import MIN_VISIBLE, annotated, read_extras, split_ranges, write_dataset
from pipeline.toyworld.scene import render
from pipeline.toyworld.world import classes

SPLITS = {"train": 5, "val": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("toy")
    write_dataset(path, seed=4, splits=SPLITS)
    return path


def load(path: Path) -> COCO:
    with redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.mark.parametrize("split", list(SPLITS))
def test_coco_equals_the_scenes(folder: Path, split: str) -> None:
    coco = load(folder / f"{split}.json")
    assert [(c["id"], c["name"]) for c in coco.dataset["categories"]] == [
        (c.id, c.name) for c in classes("demo")
    ]
    assert len(coco.imgs) == SPLITS[split]
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    for image in coco.dataset["images"]:
        scene = render("demo", 4, image["id"] - 1)
        assert image["file_name"] == f"{scene.image_id}.jpg"
        assert (folder / "images" / image["file_name"]).read_bytes() == scene.jpeg
        rows = coco.imgToAnns[image["id"]]
        assert len(rows) == len(annotated(scene))
        for row, o in zip(rows, annotated(scene), strict=True):
            x, y, w, h = row["bbox"]
            assert row["category_id"] == o.class_id
            assert isinstance(row["segmentation"]["counts"], str)
            assert np.array_equal(coco.annToMask(row).astype(bool), o.mask)
            assert row["area"] == o.mask.sum() >= MIN_VISIBLE
            assert (x, y, x + w, y + h) == o.box_xyxy
            assert row["iscrowd"] == 0


def test_splits_share_no_scene(folder: Path) -> None:
    names = [{i["file_name"] for i in load(folder / f"{s}.json").dataset["images"]} for s in SPLITS]
    assert names[0].isdisjoint(names[1])
    assert len(list((folder / "images").iterdir())) == sum(SPLITS.values())


def test_extras_come_back(folder: Path) -> None:
    coco = load(folder / "train.json")
    for image in coco.dataset["images"]:
        scene = render("demo", 4, image["id"] - 1)
        extras = read_extras(folder, scene.image_id)
        assert np.array_equal(extras.shadow, scene.shadow)
        assert np.array_equal(extras.defocus, scene.defocus)
        assert extras.relations == scene.relations
        for got, o, ann in zip(extras.objects, scene.objects, extras.annotation_ids, strict=True):
            assert np.array_equal(got.mask, o.mask)
            known = [(v.object_id, v.class_id, v.name, v.level, v.parent_id) for v in (got, o)]
            looks = [(v.box_xyxy, v.depth, v.color, v.size) for v in (got, o)]
            assert known[0] == known[1]
            assert looks[0] == looks[1]
            if ann is not None:
                assert coco.anns[ann]["image_id"] == image["id"]
                assert np.array_equal(coco.annToMask(coco.anns[ann]).astype(bool), o.mask)
        named = sum(ann is not None for ann in extras.annotation_ids)
        assert named == len(coco.imgToAnns[image["id"]])


def test_writing_twice_gives_the_same_bytes_and_no_leftovers(folder: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, seed=4, splits=SPLITS)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert all((folder / p).read_bytes() == (tmp_path / p).read_bytes() for p in files)
    assert not any(p.name.endswith(".tmp") for p in files)


def test_a_split_does_not_depend_on_the_others(folder: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, seed=4, splits={"val": 3})
    assert (tmp_path / "val.json").read_bytes() == (folder / "val.json").read_bytes()


def test_an_empty_split_and_another_world(tmp_path: Path) -> None:
    write_dataset(tmp_path, world="pretrain", splits={"train": 0})
    coco = json.loads((tmp_path / "train.json").read_text())
    assert (coco["images"], coco["annotations"]) == ([], [])
    assert len(coco["categories"]) == len(classes("pretrain"))


def test_split_ranges_are_disjoint() -> None:
    ranges = split_ranges({"train": 1_000_000, "val": 1_000_000, "test": 10, "calibration": 10})
    starts = sorted((r.start, r.stop) for r in ranges.values())
    assert all(a[1] <= b[0] for a, b in pairwise(starts))


@pytest.mark.parametrize(
    ("world", "splits", "message"),
    [
        ("venus", {"train": 1}, "unknown world 'venus'"),
        ("demo", {"train": -1}, "split 'train' has -1 scenes"),
        ("demo", {"train": 1_000_001}, "1000001 scenes, expected 0 to 1000000"),
        ("demo", {"../train": 1}, "bad split name '../train'"),
        ("demo", {"": 1}, "bad split name ''"),
    ],
)
def test_bad_arguments_write_nothing(
    tmp_path: Path, world: str, splits: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_dataset(tmp_path, world=world, splits=splits)
    assert not list(tmp_path.iterdir())
