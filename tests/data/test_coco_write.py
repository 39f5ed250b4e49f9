import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as reference
from pycocotools.coco import COCO

from pipeline.data import masks
from pipeline.data.coco import CocoFile, CocoWriter, read_records
from pipeline.data.errors import BadInput
from pipeline.data.records import (
    Category,
    Instance,
    Match,
    Ontology,
    Origin,
    Point,
    Prompt,
    Record,
    Role,
    Source,
    WeakKind,
)
from teachers.trust import trust_of

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # of pycocotools

ONTOLOGY = Ontology((Category(7, "Red Hat"), Category(2, "dog", "animal")))


def blob(seed: int) -> masks.Mask:
    mask = np.zeros((9, 11), bool)
    mask[2:8, 3:10] = np.random.default_rng(seed).random((6, 7)) < 0.7
    return mask


HUMAN = Instance(Source.HUMAN, class_id=2, human_id=31, rle=masks.encode(blob(0)))
MACHINE = Instance(
    Source.TEACHER,
    class_id=7,
    points=(Point(3.5, 4.5),),
    rle=masks.encode(blob(1)),
    human_id=40,
    weak_kind=WeakKind.POINT,
    prompt=Prompt(Origin.DINO, box_xyxy=(3, 2, 10, 8), points=(Point(3.5, 4.5),), class_id=7, score=0.5),
    match=Match(4, -1.5, 0.75),
    score=0.45,
    pred_iou=0.9,
    stability=0.8,
    model="m",
)
PHRASE = replace(MACHINE, class_id=None, phrase="a dog on the left", prompt=None, match=None)
NAMED = replace(PHRASE, phrase="red hat ")
DROPPED = replace(MACHINE, dropped="stability 0.8 < 0.9")
CROWD = replace(HUMAN, rle=masks.encode(blob(2)), human_id=32)


def record(number: int, *instances: Instance, **fields: object) -> Record:
    plain = {
        "sha256": "x",
        "width": 11,
        "height": 9,
        "split": "train",
        "role": Role.WEAK,
        "instances": instances,
    }
    return Record(number, f"ü {number}.jpg", **(plain | fields))  # type: ignore[arg-type]


RECORDS = [
    record(3, HUMAN, crowd=(CROWD,), role=Role.HUMAN_MASKED),
    record(5),
    record(9, MACHINE, PHRASE, NAMED, DROPPED, HUMAN, tags=(7,), instructions=("find hats",)),
]


def written(path: Path, **settings: object) -> dict[str, list[dict[str, object]]]:
    with CocoWriter(path, ONTOLOGY, info={"name": "t"}, run="r", **settings) as writer:  # type: ignore[arg-type]
        for item in RECORDS:
            writer.add(item)
    assert writer.left_out == 1  # the phrase that no category is named after
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_every_rule_of_the_format(tmp_path: Path) -> None:
    data = written(tmp_path / "new" / "train.json")
    assert data["info"] == {"name": "t"}
    assert data["categories"] == [
        {"id": 7, "name": "Red Hat"},
        {"id": 2, "name": "dog", "supercategory": "animal"},
    ]
    assert [(i["id"], i["file_name"], i["width"], i["height"]) for i in data["images"]] == [
        (n, f"ü {n}.jpg", 11, 9) for n in (3, 5, 9)
    ]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in data["annotations"]] == [
        (1, 3, 2),
        (2, 9, 7),
        (3, 9, 7),
        (4, 9, 2),
    ]
    for entry, source in zip(data["annotations"], (HUMAN, MACHINE, NAMED, HUMAN), strict=True):
        rle = {"size": [9, 11], "counts": source.rle.counts}  # type: ignore[union-attr]
        assert entry["segmentation"] == rle
        assert entry["iscrowd"] == 0
        assert entry["area"] == reference.area(rle)
        assert entry["bbox"] == reference.toBbox(rle).tolist()
        assert entry.get("score") == source.score


def test_what_goes_under_pseudo(tmp_path: Path) -> None:
    data = written(tmp_path / "train.json")
    human, machine, named, _ = (entry["pseudo"] for entry in data["annotations"])
    assert human == {"source": "human", "human_id": 31}
    assert machine == {
        "source": "teacher",
        "human_id": 40,
        "weak_kind": "point+class",
        "prompt": {"origin": "dino", "box_xyxy": [3, 2, 10, 8], "score": 0.5, "points": [[3.5, 4.5, 1]]},
        "match": {"proposal": 4, "cost": -1.5, "iou": 0.75},
        "pred_iou": 0.9,
        "stability": 0.8,
        "run": "r",
        "model": "m",
    }
    assert named["phrase"] == "red hat "  # type: ignore[index]
    assert ("run" in named, named["model"]) == (False, "m")  # type: ignore[index,operator]  # without a prompt: not made here
    assert data["images"][0]["pseudo"] == {"role": "human_masked"}
    ignore = {"size": [9, 11], "counts": DROPPED.rle.counts, "reason": DROPPED.dropped}  # type: ignore[union-attr]
    assert data["images"][2]["pseudo"] == {"role": "weak", "ignore": [ignore]}
    assert data["images"][2]["tags"] == [7]


def test_crowd_only_when_asked(tmp_path: Path) -> None:
    data = written(tmp_path / "val.json", crowd=True)
    crowd = [entry for entry in data["annotations"] if entry["iscrowd"]]
    assert [(entry["id"], entry["image_id"]) for entry in crowd] == [(2, 3)]


def test_pycocotools_loads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path / "val.json", crowd=True)
    loaded = COCO(str(tmp_path / "val.json"))
    capsys.readouterr()
    found = [reference.decode(loaded.annToRLE(entry)).astype(bool) for entry in loaded.anns.values()]
    for mask, seed in zip(found, (0, 2, 1, 1, 0), strict=True):
        np.testing.assert_array_equal(mask, blob(seed))


def test_reading_it_back(tmp_path: Path) -> None:
    written(tmp_path / "val.json", crowd=True)
    ontology, records = read_records(tmp_path / "val.json", split="val", role=Role.VAL)
    assert ontology == ONTOLOGY
    assert records[0].instances == (replace(HUMAN, human_id=1),)
    assert records[0].crowd == (replace(CROWD, human_id=2),)
    machine, named, human, ignored = records[2].instances
    assert (machine.source, machine.score, machine.rle) == (Source.TEACHER, 0.45, MACHINE.rle)
    assert (named.class_id, human.source) == (7, Source.HUMAN)
    assert (machine.model, human.model) == ("m", None)
    assert (ignored.dropped, ignored.rle) == (DROPPED.dropped, DROPPED.rle)
    assert (records[2].tags, records[2].instructions) == ((7,), ("find hats",))


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    written(tmp_path / "a.json")
    written(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def write_all(path: Path, records: Iterable[Record]) -> None:
    with CocoWriter(path, ONTOLOGY, info={}) as writer:
        for item in records:
            writer.add(item)


def interrupted(path: Path) -> Iterator[Record]:
    yield RECORDS[0]
    assert path.read_text() == "old"
    raise RuntimeError


def test_nothing_changes_unless_all_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        write_all(path, interrupted(path))
    assert os.listdir(tmp_path) == ["train.json"]
    assert path.read_text() == "old"
    written(path)
    assert os.listdir(tmp_path) == ["train.json"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(5), record(5)], "ascending id, got 5 after 5"),
        ([record(5), record(4)], "ascending id, got 4 after 5"),
        ([record(5, replace(HUMAN, class_id=3))], "class 3, which is no category of train.json"),
    ],
)
def test_misuse(tmp_path: Path, records: list[Record], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_all(tmp_path / "train.json", records)


def test_no_images_is_a_file_too(tmp_path: Path) -> None:
    with CocoWriter(tmp_path / "a.json", ONTOLOGY, info={}):
        pass
    assert json.loads((tmp_path / "a.json").read_text())["annotations"] == []
    with pytest.raises(BadInput, match="at least one image"):
        CocoFile(tmp_path / "a.json")


def test_what_is_known_of_a_machine_mask_is_read_back(tmp_path: Path) -> None:
    """Students trust it as much as in the run that made it; of a human mask nothing is estimated."""
    doubted = replace(MACHINE, quality=0.3)
    told = {"pred_iou": 0.1, "stability": 0.1, "quality": 0.1}
    path = tmp_path / "train.json"
    with CocoWriter(path, ONTOLOGY, info={}) as writer:
        writer.add(record(1, HUMAN, MACHINE, doubted))
    content = json.loads(path.read_text())
    content["annotations"][0] |= {"score": 0.1}
    content["annotations"][0]["pseudo"] |= told
    path.write_text(json.dumps(content))
    _, (back,) = read_records(path, split="train", role=Role.WEAK)

    def known(one: Instance) -> tuple[object, ...]:
        return one.source, one.score, one.pred_iou, one.stability, one.quality, one.model

    assert [known(one) for one in back.instances] == [known(one) for one in (HUMAN, MACHINE, doubted)]
    assert [trust_of(one) for one in back.instances] == [1.0, 0.9, 0.3]


def test_real_round_trip(tmp_path: Path, real_data: Path) -> None:
    ontology, records = read_records(real_data / "coco-tiny" / "train.json", split="train", role=Role.VAL)
    with CocoWriter(tmp_path / "again.json", ontology, info={}, crowd=True) as writer:
        for item in records:
            writer.add(item)
    assert writer.left_out == 0
    again_ontology, again = read_records(tmp_path / "again.json", split="train", role=Role.VAL)
    assert again_ontology == ontology
    for old, new in zip(records, again, strict=True):
        assert [(i.class_id, i.rle) for i in old.instances] == [(i.class_id, i.rle) for i in new.instances]
        assert [(i.class_id, i.rle) for i in old.crowd] == [(i.class_id, i.rle) for i in new.crowd]
