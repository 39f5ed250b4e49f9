import copy

import pytest
import yaml

from pipeline.config import Request, load_plan
from pipeline.data.errors import BadInput
from pipeline.engine.faults import BadPlan
from teachers import catalog

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
        ({"settings": ("models.teacher.alpha=1.5",)}, "models.teacher.alpha", 1.5),
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
        ({"name": "../x"}, {}, "name: String should match pattern"),
        ({"seed": "one"}, {}, "seed: Input should be a valid integer"),
        ({"name": None}, {}, "name: is missing"),
        ({"stages": []}, {}, "stages: List should have at least 1 item"),
        ({"weak": "points"}, {}, "weak: expected one of none, class, point+class"),
        ({"masks": "10"}, {}, "masks: expected a percentage"),
        ({"data.trian": 5}, {}, "data.trian: unknown key, did you mean 'train'?"),
        ({"data.train": -5}, {}, "data.train: Input should be greater than or equal to 1, found -5"),
        ({"data.source": "voc"}, {}, "data: Input tag 'voc' found using 'source' does not match any of"),
        ({"models.teacher.alhpa": 5}, {}, "models.teacher.alhpa: unknown key, did you mean 'alpha'?"),
        (
            {"models.teacher.use": "sma"},
            {},
            "models.teacher.use: unknown catalog entry 'sma', did you mean 'sam'?",
        ),
        ({"models.teacher.use": None}, {}, "models.teacher.use: unknown catalog entry None"),
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
        ({"device": "gpu"}, {"device": None}, "device: String should match pattern"),
        ({}, {"settings": ("seed",)}, "--set seed: expected key=value with a dotted key"),
        (
            {},
            {"settings": ("stages.flter.min_area=1",)},
            "--set stages.flter.min_area=1: there is nothing at",
        ),
        (
            {},
            {"settings": ("stages.99.filter.min_area=1",)},
            "--set stages.99.filter.min_area=1: there is nothing",
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


def test_weights_that_are_not_there_are_told_before_work(load, monkeypatch):
    def identity(spec):
        raise BadInput(f"{spec.settings['sam']}: checkpoint {spec.settings['checkpoint']}: no such file")

    monkeypatch.setattr(catalog, "identity", identity)
    changes = {
        "models.teacher.sam": "vit_b",
        "models.teacher.checkpoint": "/none.pth",
        "models.proposer": None,
    }
    changes |= {"stages.2": {"filter": {}}}
    assert problems(load, changes) == ["models.teacher: vit_b: checkpoint /none.pth: no such file"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "expected a mapping with keys such as `name` and `stages`, found list"),
        ("name: [", "expected YAML"),
        ("name: a\nname: b\n", "key 'name' comes twice"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, text, message):
    file = tmp_path / "stages.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BadPlan, match=message) as caught:
        load_plan(Request(file))
    assert str(file) in str(caught.value)


def test_coco_images_start_at_the_data_root(load, tmp_path):
    plan = load({"data": {"source": "coco", "json": "a/b.json", "images": "a/photos"}}, data_root=tmp_path)
    assert plan.images == tmp_path / "a" / "photos"
    assert plan.data_root == tmp_path
    assert str(tmp_path) not in yaml.safe_dump(
        plan.resolved
    )  # where the data lies is no part of what a run is
