import copy
import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.config import Request, load_plan
from pipeline.data.errors import BadInput
from pipeline.engine.faults import BadPlan
from pipeline.engine.keys import config_content
from pipeline.weights import WEIGHTS
from teachers import catalog, identity

GOOD = {
    "name": "demo",
    "seed": 3,
    "data": {"source": "toyworld", "train": 8, "val": 2},
    "weak": "point+class",
    "masks": "10%",
    "models": {
        "teacher": {"use": "class_aware_sam", "sam": "tiny", "text": "tiny"},
        "proposer": {"use": "tiny_grounder"},
        "student": {"use": "mask2former", "variant": "tiny"},
        "second": {"use": "mask2former"},
    },
    "stages": [
        {"finetune_teacher": {"model": "teacher", "steps": 300}},
        {"gate": {"model": "teacher"}},
        {"propose": {"model": "proposer"}},
        {"pseudo_label": {"model": "teacher", "alpha": 5, "resources": {"gpus": 1, "workers": [1, 8]}}},
        {"filter": None},
        {"export": {}},
        {"train_student": {"model": "student", "steps": 200}},
        {"train_student": {"model": "second"}},
        {"evaluate": {}},
    ],
}


@pytest.fixture(autouse=True)
def _weights_of_another_day(monkeypatch):
    monkeypatch.setattr(catalog, "identity", lambda spec: {"weights": f"digest of {spec.use}"})


@pytest.fixture
def load(tmp_path):
    """A function that loads GOOD with some keys replaced, by dotted path; values of None remove."""

    def run(changes=None, **request):
        config = copy.deepcopy(GOOD)
        for path, value in (changes or {}).items():
            *parents, last = path.split(".")
            where = config
            for part in parents:
                where = where[int(part)] if part.isdigit() else where[part]
            if value is None:
                del where[last]
            elif isinstance(where, list):
                where[int(last)] = value
            else:
                where[last] = value
        file = tmp_path / "stages.yaml"
        file.write_text(yaml.safe_dump(config))
        return load_plan(Request(file, **{"device": "cpu", **request}))

    return run


def problems(load, changes=None, **request):
    with pytest.raises(BadPlan) as caught:
        load(changes, **request)
    return list(caught.value.problems)


def test_a_good_config_becomes_a_plan(load, tmp_path):
    plan = load(data_root=tmp_path)
    assert [p.label for p in plan.stages] == [
        *("ingest", "finetune_teacher", "gate", "propose", "pseudo_label", "filter", "export"),
        *("train_student:student", "train_student:second", "evaluate"),
    ]
    assert (plan.name, plan.seed, plan.device, plan.images) == ("demo", 3, "cpu", None)
    assert plan.stages[0].config.seed == 3
    assert plan.stages[4].resources.workers == (1, 8)
    assert plan.stages[3].config.model.settings == {}
    assert plan.stages[3].weights == {"model.weights": "digest of tiny_grounder"}


def test_the_resolved_config_gives_the_same_plan(load, tmp_path):
    plan = load()
    file = tmp_path / "resolved.yaml"
    file.write_text(yaml.safe_dump(plan.resolved))
    again = load_plan(Request(file))
    assert again.resolved == plan.resolved
    assert again.stages == plan.stages
    assert plan.resolved["stages"][3]["pseudo_label"]["model"] == "teacher"
    assert plan.resolved["models"]["teacher"]["alpha"] == 5.0  # a default, filled in


@pytest.mark.parametrize(
    ("request_", "key", "value"),
    [
        ({"weak": "none"}, "weak", "none"),
        ({"masks": "1%"}, "masks", "1%"),
        ({"shots": 3}, "shots", 3),
        ({"settings": ("seed=7",)}, "seed", 7),
        ({"settings": ("models.teacher.beta=1.5",)}, "models.teacher.beta", 1.5),
        ({"settings": ("stages.finetune_teacher.steps=4",)}, "stages.0.finetune_teacher.steps", 4),
        ({"settings": ("stages.train_student.steps=4",)}, "stages.7.train_student.steps", 4),
        ({"settings": ("stages.6.train_student.steps=4",)}, "stages.7.train_student.steps", None),
        ({"settings": ("stages.filter={preset: custom, min_area: 9}",)}, "stages.4.filter.min_area", 9),
        ({"settings": ("max_bad=0.5", "max_bad=0.25")}, "max_bad", 0.25),
    ],
)
def test_the_command_line_wins(load, request_, key, value):
    found = load(**request_).resolved
    for part in key.split("."):
        found = found[int(part)] if part.isdigit() else found[part]
    assert found == value
    assert ("masks" in load(shots=3).resolved) is False


@pytest.mark.parametrize(
    ("changes", "request_", "expected"),
    [
        ({"nmae": "x"}, {}, "nmae: unknown key, did you mean 'name'?"),
        ({"name": "../x"}, {}, "name: expected letters, digits and . _ + -"),
        ({"seed": "one"}, {}, "seed: Input should be a valid integer"),
        ({"name": None}, {}, "name: is missing"),
        ({"stages": []}, {}, "stages: List should have at least 1 item"),
        ({"weak": "points"}, {}, "weak: expected one of none, class, point+class"),
        ({"masks": "10"}, {}, "masks: expected a percentage"),
        ({"data.trian": 5}, {}, "data.trian: unknown key, did you mean 'train'?"),
        ({"data.train": -5}, {}, "data.train: Input should be greater than or equal to 1, found -5"),
        (
            {"data.source": "voc"},
            {},
            "data.source: unknown value 'voc', expected one of toyworld, coco, folder",
        ),
        ({"models.teacher.alhpa": 5}, {}, "models.teacher.alhpa: unknown key, did you mean 'alpha'?"),
        (
            {"models.teacher.use": "sma"},
            {},
            "models.teacher.use: unknown catalog entry 'sma', did you mean 'sam'?",
        ),
        (
            {"models.teacher.use": None},
            {},
            "models.teacher.use: is missing, expected one of class_aware_sam, sam",
        ),
        (
            {"stages.0": {"fine_tune": {}}},
            {},
            "stages.0.fine_tune: unknown stage, did you mean 'finetune_teacher'?",
        ),
        ({"stages.0": {"ingest": {}}}, {}, "stages.0.ingest: unknown stage"),
        ({"stages.0": {"gate": {}, "filter": {}}}, {}, "stages.0: expected one stage name with its settings"),
        (
            {"stages.3.pseudo_label.alpah": 1},
            {},
            "stages.3.pseudo_label.alpah: unknown key, did you mean 'alpha'?",
        ),
        (
            {"stages.3.pseudo_label.model": "techer"},
            {},
            "stages.3.pseudo_label.model: unknown model 'techer', did you",
        ),
        (
            {"stages.3.pseudo_label.model": "proposer"},
            {},
            "stages.3.pseudo_label.model: expected a teacher, found",
        ),
        ({"stages.3.pseudo_label.model": None}, {}, "stages.3.pseudo_label.model: is missing"),
        (
            {"stages.3.pseudo_label.resources.gpu": 1},
            {},
            "stages.3.pseudo_label.resources.gpu: unknown key, did you",
        ),
        (
            {"stages.7.train_student.model": "student"},
            {},
            "train_student:student+: makes `student.student`, which",
        ),
        (
            {"stages.2": {"filter": {}}},
            {"weak": "class"},
            "weak: class labels have no place: expected a stage",
        ),
        (
            {"models.teacher.tau": 0.05},
            {},
            "pseudo_label.tau: 0.05 has no effect below propose.score 0.1",
        ),
        (
            {"models.teacher.score": 0.05},
            {},
            "pseudo_label.score: 0.05 has no effect below propose.score 0.1",
        ),
        ({"stages.2.propose.score": 0.2}, {}, "pseudo_label.tau: 0.1 has no effect below propose.score 0.2"),
        (
            {"models.other": {"use": "class_aware_sam"}, "stages.3.pseudo_label.model": "other"},
            {},
            "pseudo_label.model: expected 'teacher', the tuned one, found 'other'",
        ),
        ({"device": "gpu"}, {"device": None}, "device: expected auto, cpu, cuda or cuda:N"),
        ({}, {"settings": ("seed",)}, "--set seed: expected key=value with a dotted key"),
        (
            {},
            {"settings": ("stages.flter.min_area=1",)},
            "--set stages.flter.min_area=1: there is nothing named 'flter', did you mean 'filter'?",
        ),
        (
            {},
            {"settings": ("stages.99.filter.min_area=1",)},
            "--set stages.99.filter.min_area=1: there is nothing at position 99 of 9",
        ),
    ],
)
def test_a_bad_config_is_refused_with_path_and_hint(load, changes, request_, expected):
    found = problems(load, changes, **request_)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_all_problems_are_told_at_once(load):
    found = problems(
        load,
        {
            "weak": "points",
            "models.teacher.alhpa": 5,
            "stages.0.finetune_teacher.stpes": 5,
            "stages.3.pseudo_label.model": "nobody",
        },
        settings=("stages.none.x=1",),
    )
    assert len(found) == 5
    assert [line.split(":")[0] for line in found] == [
        *("--set stages.none.x=1", "weak", "stages.0.finetune_teacher.stpes"),
        *("models.teacher.alhpa", "stages.3.pseudo_label.model"),
    ]


def test_wrong_keys_hide_no_others(load):
    found = problems(
        load, {"nmae": "x", "name": "../x", "models.teacher.alhpa": 5, "stages.0": {"fine_tune": {}}}
    )
    assert [line.split(":")[0] for line in found] == [
        "name",
        "nmae",
        "stages.0.fine_tune",
        "models.teacher.alhpa",
    ]
    found = problems(load, {"models": ["teacher"], "data": None})
    assert [line.split(":")[0] for line in found] == ["data", "models"]


def test_a_teacher_that_cannot_be_tuned(load):
    assert problems(load, {"models.teacher": {"use": "sam"}}) == [
        f"{stage}.model: `sam` cannot be tuned; expected one of class_aware_sam"
        for stage in ("finetune_teacher", "gate")
    ]


def test_weights_that_are_not_there_are_told_before_work(load, monkeypatch):
    def identity(spec):
        raise BadInput(f"checkpoint {spec.settings['checkpoint']}: no such file\ntext: no such tower")

    monkeypatch.setattr(catalog, "identity", identity)
    changes = {
        "models.teacher.sam": "vit_b",
        "models.teacher.checkpoint": "/none.pth",
        "models.proposer": None,
    }
    changes |= {"stages.2": {"filter": {}}}
    assert problems(load, changes) == [
        "models.teacher.checkpoint /none.pth: no such file",
        "models.teacher.text: no such tower",
    ]


CATEGORIES = [{"id": 1, "name": "car"}]


def listing(names, annotations=(), categories=CATEGORIES):
    images = [{"id": n, "file_name": name, "width": 4, "height": 4} for n, name in enumerate(names, 1)]
    return json.dumps({"images": images, "annotations": list(annotations), "categories": categories})


def boxed(number):
    return {"id": number, "image_id": number, "category_id": 1, "bbox": [0, 0, 2, 2]}


@pytest.fixture
def coco(tmp_path):
    """A data root in COCO's own layout: files with boxes, the photos of train and val in folders of their own."""
    for split in ("train", "val"):
        (tmp_path / f"{split}.json").write_text(listing(["1.png", "2.png"], [boxed(1), boxed(2)]))
        (tmp_path / f"{split}2017").mkdir()
        for name in ("1.png", "2.png"):
            (tmp_path / f"{split}2017" / name).touch()
    return {"source": "coco", "json": "train.json", "images": "train2017"}


def test_images_start_where_train_and_val_meet(load, tmp_path, coco):
    def images(**more):
        return load({"data": coco | more, "weak": "box+class", "masks": "0%"}, data_root=tmp_path).images

    assert images() == images(val_json="val.json") == tmp_path / "train2017"
    assert images(val_json="val.json", val_images="./train2017") == tmp_path / "train2017"
    assert images(val_json="val.json", val_images="val2017") == tmp_path


def test_where_the_data_lies_is_no_part_of_what_a_run_is(load, tmp_path, coco):
    plan = load({"data": coco, "weak": "box+class", "masks": "0%"}, data_root=tmp_path)
    assert plan.data_root == tmp_path
    assert str(tmp_path) not in yaml.safe_dump(plan.resolved)


@pytest.mark.parametrize(
    ("files", "more", "expected"),
    [
        ({}, {"json": "none.json"}, ["none.json: cannot be read: No such file or directory"]),
        ({"train.json": "{"}, {}, ["train.json: "]),
        (
            {"train.json": "{", "val.json": "["},
            {"val_json": "val.json"},
            ["train.json: ", "val.json: "],
        ),
        ({}, {"images": "photos"}, ["photos: expected a folder of images, found none"]),
        ({"train.json": listing(["a.png"], [boxed(1)])}, {}, ["none of its 1 images is in"]),
        ({"train.json": listing(["1.png"])}, {}, ["train.json: holds no labels of kind box+class"]),
        (
            {},
            {"val_json": "val.json", "masks": "50%"},
            ["masks: asked for 1 of 2 train images with human masks"],
        ),
        ({}, {"masks": "all"}, ["train.json: expected an image with masks, found none"]),
        (
            {"val.json": listing(["1.png"], [], [{"id": 1, "name": "bus"}])},
            {"val_json": "val.json"},
            ["val.json: category 1 is 'bus', but 'car' in"],
        ),
        ({}, {"source": "folder", "images": "none"}, ["none: expected a folder of images, found none"]),
    ],
)
def test_bad_data_is_told_before_work(load, tmp_path, coco, files, more, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    data = coco | {key: value for key, value in more.items() if key != "masks"}
    if data["source"] == "folder":
        data = {"source": "folder", "images": data["images"], "classes": {"car": 1}}
    changes = {"data": data, "weak": "box+class", "masks": more.get("masks", "0%")}
    found = problems(load, changes, data_root=tmp_path)
    assert len(found) == len(expected)
    assert all(part in line for part, line in zip(expected, found, strict=True)), found


def test_bad_data_is_told_with_the_rest(load, tmp_path, coco):
    changes = {"data": coco | {"images": "photos"}, "weak": "box+class", "models.teacher.alhpa": 5}
    found = problems(load, changes, data_root=tmp_path)
    assert any("photos: expected a folder" in line for line in found)
    assert any("models.teacher.alhpa" in line for line in found)


def test_neither_paths_nor_what_changes_time_alone_are_in_keys(load, tmp_path, coco):
    def keys(root, **settings):
        teacher = {"use": "class_aware_sam", "sam": "vit_b", "checkpoint": "a.pth"} | settings
        changes = {"data": coco, "weak": "box+class", "masks": "0%", "models.teacher": teacher}
        plan = load(changes, data_root=root)
        return [config_content(planned) for planned in plan.stages]

    moved = tmp_path / "moved"
    shutil.copytree(tmp_path, moved)
    one = keys(tmp_path)
    assert keys(moved, checkpoint="/b/w.pth", cache_gb=1, checkpoint_every=7) == one
    assert keys(tmp_path, lr=1e-3) != one


def test_a_data_file_of_another_name_has_the_same_key(load, tmp_path, coco):
    shutil.copy(tmp_path / "train.json", tmp_path / "copy.json")
    contents = [
        config_content(
            load({"data": coco | more, "weak": "box+class", "masks": "0%"}, data_root=tmp_path).stages[0]
        )
        for more in ({}, {"json": "copy.json"})
    ]
    assert contents[0] == contents[1]


def test_the_coco_config_fits_the_catalog_and_the_files_that_fetch_leaves(tmp_path, monkeypatch):
    """With stand-ins for the data and the weights: names, paths and keys are right, nothing is loaded."""
    monkeypatch.undo()  # the real identity
    monkeypatch.chdir(tmp_path)
    for name, entry in WEIGHTS.items():
        if (place := entry.place(name, tmp_path / "weights")) is not None:
            path = place if place.suffix else place / "model.safetensors"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    stand_in = hashlib.sha256(b"sam_vit_b").hexdigest()
    monkeypatch.setitem(identity.OFFICIAL_SHA256, "vit_b", stand_in)
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        whole = boxed(1) | {"segmentation": [[0, 0, 3, 0, 3, 3]]}
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(listing(["1.jpg"], [whole]))
        (tmp_path / split).mkdir()
        (tmp_path / split / "1.jpg").touch()
    config = Path(__file__).parents[1] / "configs" / "coco-vit-b.yaml"
    plan = load_plan(Request(config, device="cpu", data_root=tmp_path))
    assert plan.images == tmp_path
    assert plan.stages[1].weights["model.sam"] == stand_in
    assert plan.stages[1].weights["model.text"] == hashlib.sha256(b"clip_vit_b_16").hexdigest()
