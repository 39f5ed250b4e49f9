"""Configs with many faults, stages in an order that makes no sense, and files that are no configs."""

import copy
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import yaml

from pipeline.config import Request, load_plan
from pipeline.engine.faults import BadPlan
from pipeline.engine.plan import RunPlan
from pipeline.overrides import MAX_BYTES, read_config
from teachers import catalog

GOOD: dict[str, object] = {
    "name": "demo",
    "data": {"source": "toyworld", "train": 8, "val": 2},
    "masks": "10%",
    "models": {
        "teacher": {"use": "class_aware_sam", "sam": "tiny", "text": "tiny"},
        "proposer": {"use": "tiny_grounder"},
        "student": {"use": "mask2former", "variant": "tiny"},
    },
    "stages": [
        {"finetune_teacher": {"model": "teacher", "steps": 300}},
        {"gate": {"model": "teacher"}},
        {"propose": {"model": "proposer"}},
        {"pseudo_label": {"model": "teacher"}},
        {"filter": None},
        {"export": {}},
        {"train_student": {"model": "student", "steps": 200}},
        {"evaluate": {}},
        {"cost": {}},
        {"report": {}},
    ],
}
TEXT = yaml.safe_dump(GOOD, sort_keys=False)
LAUGHS = "l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 10)
)


@pytest.fixture(autouse=True)
def _weights_of_another_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "identity", lambda spec: {"weights": f"digest of {spec.use}"})


Load = Callable[..., RunPlan]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """A function that loads GOOD with some top keys replaced, or a text."""

    def run(changes: Mapping[str, object] | str | bytes, **request: object) -> RunPlan:
        file = tmp_path / "stages.yaml"
        text = changes if isinstance(changes, str | bytes) else yaml.safe_dump(copy.deepcopy(GOOD) | changes)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_plan(Request(file, **{"device": "cpu", "data_root": tmp_path, **request}))

    return run


def problems(load: Load, changes: Mapping[str, object] | str | bytes, **request: object) -> list[str]:
    with pytest.raises(BadPlan) as caught:
        load(changes, **request)
    return list(caught.value.problems)


FAULTY = """
name: ../demo
nmae: x
seed: one
weak: points
masks: 10
device: gpu
max_bad: 5%
torch_threads: 0
data: {source: toyworld, trian: 5, val: -1}
models:
  teacher: {use: class_aware_sam, sam: huge, alhpa: 5}
  tuned: {use: class_aware_smm}
  proposer: tiny_grounder
  student: {use: mask2former, variant: tiny}
  nothing: {variant: tiny}
stages:
  - gate: {model: techer}
  - finetune_teacher: {model: student, steps: many, resources: {gpu: 1, workers: [1, 2, 3]}}
  - fliter: {}
  - pseudo_label: {model: teacher, aplha: 1, tau: 2}
  - propose: {model: proposer, score: .inf}
  - pseudo_label: {tau: 0.5}
  - export
  - export: {}
  - train_student: {model: {use: mask2former}}
  - filter: [min_area]
  - {gate: {}, cost: {}}
"""
ALL = """
--set stages.flter.min_area=1: there is nothing named 'flter', did you mean 'fliter' or 'filter'?
--set models.techer.alpha=1: there is no model 'techer', did you mean 'teacher'?
--set seed: expected key=value with a dotted key
name: expected letters, digits and . _ + -
device: expected auto, cpu, cuda or cuda:N
torch_threads: Input should be greater than or equal to 1, found 0
max_bad: Input should be a valid number, unable to parse string as a number, found '5%'
nmae: unknown key, did you mean 'name'?
data.val: Input should be greater than or equal to 0, found -1
data.trian: unknown key, did you mean 'train'?
weak: expected one of none, class, point+class, box+class, found 'points'
masks: expected a percentage from 0% to 100%, or all, found 10
seed: Input should be a valid integer, unable to parse string as an integer, found 'one'
stages.1.finetune_teacher.resources.workers: Tuple should have at most 2 items
stages.1.finetune_teacher.resources.gpu: unknown key, did you mean 'gpus'?
stages.1.finetune_teacher.steps: Input should be a valid integer
stages.2.fliter: unknown stage, did you mean 'filter'?
stages.3.pseudo_label.tau: Input should be less than or equal to 1, found 2
stages.3.pseudo_label.aplha: unknown key, did you mean 'alpha'?
stages.4.propose.score: Input should be a finite number, found inf
stages.5.pseudo_label.model: is missing
stages.6: expected one stage name with its settings, found 'export'
stages.8.train_student.model: expected the name of a model, found {'use': 'mask2former'}
stages.9.filter: expected a mapping of settings, found ['min_area']
stages.10: expected one stage name with its settings, found ['cost', 'gate']
models.teacher.sam: Input should be 'tiny', 'vit_b', 'vit_l' or 'vit_h', found 'huge'
models.teacher.alhpa: unknown key, did you mean 'alpha'?
models.tuned.use: unknown catalog entry 'class_aware_smm', did you mean 'class_aware_sam'?
models.proposer: expected a mapping with `use`, found 'tiny_grounder'
models.nothing.use: is missing, expected one of class_aware_sam
stages.0.gate.model: unknown model 'techer', did you mean 'teacher'?
stages.1.finetune_teacher.model: expected a teacher, found 'student', a student
"""
# What is wrong with the order of the same stages, once each of them can be told.
ORDER = """
pseudo_label:2: expected before `filter`
gate: uses `teacher`, which no earlier stage makes; made so far: dataset, truth
export:export+: makes `export`, which an earlier stage makes already
pseudo_label: expected once, found 2 times
"""


def test_all_faults_are_told_at_once(load: Load) -> None:
    settings = ("stages.flter.min_area=1", "models.techer.alpha=1", "seed")
    found = problems(load, FAULTY, settings=settings, device=None)
    expected = ALL.strip().splitlines()
    for line in expected:
        assert sum(problem.startswith(line) for problem in found) == 1, line
    assert len(found) == len(expected), [p for p in found if not any(p.startswith(e) for e in expected)]


def test_what_is_wrong_with_the_order_is_told_with_the_rest(load: Load) -> None:
    text = FAULTY.replace("  - {gate: {}, cost: {}}\n", "").replace("  - filter: [min_area]\n", "")
    found = problems(load, text)
    for line in ORDER.strip().splitlines():
        assert sum(problem.startswith(line) for problem in found) == 1, (line, found)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"data": None}, ["data: Input should be a valid dictionary"]),
        ({"data": [1]}, ["data: Input should be a valid dictionary"]),
        ({"data": {"train": 4}}, ["data.source: is missing, expected one of toyworld, coco, folder"]),
        ({"data": {"source": "cocoa"}}, ["data.source: unknown value 'cocoa', did you mean 'coco'?"]),
        ({"data": {"source": "coco", "images": "x"}}, ["data.json: is missing"]),
        ({"data": {"source": "coco", "json": "a\0b", "images": "x"}}, ["data.json: expected a path in UTF-8"]),
        ({"data": {"source": "folder", "images": "x", "classes": {}}}, ["data.classes: Dictionary should have"]),
        ({"models": ["teacher"]}, ["models: Input should be a valid dictionary"]),
        ({"models": {}}, [f"stages.{n}." for n in (0, 1, 2, 3, 6)]),
        ({"stages": {"filter": {}}}, ["stages: Input should be a valid list"]),
        ({"stages": []}, ["stages: List should have at least 1 item"]),
        ({"seed": 2**32}, ["seed: Input should be less than or equal to 4294967295"]),
        ({"seed": -1}, ["seed: Input should be greater than or equal to 0"]),
        ({"shots": 3}, ["shots: expected masks or shots, not both"]),
        ({"masks": None}, ["shots: expected masks or shots"]),
        ({"masks": True}, ["masks: expected a percentage from 0% to 100%, or all, found True"]),
        ({"masks": "101%"}, ["masks: expected a percentage from 0% to 100%, or all, found '101%'"]),
        ({"masks": None, "shots": "x"}, ["shots: Input should be a valid integer"]),
        ({"weak": ["none"]}, ["weak: expected one of none, class, point+class, box+class"]),
        ({"weak": "instruction"}, ["weak: no teacher reads an instruction yet; expected one of none"]),
        ({"stall_timeout": float("inf")}, ["stall_timeout: Input should be a finite number"]),
        ({"torch_threads": 10**30}, ["torch_threads: Input should be less than or equal to 1024"]),
        ({1: "x"}, ["1: Keys should be strings"]),
    ],
)  # fmt: skip
def test_one_fault_gives_one_line(load: Load, change: Mapping[str, object], expected: list[str]) -> None:
    found = problems(load, change)
    assert len(found) == len(expected), found
    assert all(line.startswith(part) for line, part in zip(sorted(found), expected, strict=True)), found


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("s3://KEY:PASS@bucket/x", "s3://...@bucket/x"),
        ("s3://PASS@bucket/x", "s3://...@bucket/x"),
        ("s3://KEY:PA/SS@bucket/x", "s3://...@bucket/x"),
        ("https://KEY:PA@SS@server:80/a@b", "https://...@server:80/a@b"),
    ],
)
def test_a_password_is_not_told(load: Load, url: str, told: str) -> None:
    data = {"source": "coco", "json": url, "images": "x"}
    why = "expected a URL without a name or password: those come from the environment"
    assert problems(load, {"data": data}) == [f"data.json: {why}, found {told!r}"]
    (found,) = problems(load, {}, settings=(f"models.techer.json={url}",))
    assert found.startswith(f"--set models.techer.json={told}: there is no model")


def stage(name: str) -> dict[str, object]:
    return next(entry for entry in GOOD["stages"] if name in entry)  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("gate", "pseudo_label"), ["gate: uses `teacher`, which no earlier stage makes"]),
        (
            ("gate", "finetune_teacher", "pseudo_label"),
            ["gate: uses `teacher`, which no earlier stage makes; made so far: dataset, truth"],
        ),
        (("pseudo_label", "finetune_teacher"), ["finetune_teacher: expected before `pseudo_label`, which works"]),
        (("finetune_teacher", "pseudo_label", "gate"), ["gate: expected before `pseudo_label`, which works"]),
        (("pseudo_label", "propose"), ["propose: expected before `pseudo_label`, which works with what it makes"]),
        (("filter", "pseudo_label", "export"), ["pseudo_label: expected before `filter`, which works with what"]),
        (("export", "pseudo_label"), ["pseudo_label: expected before `export`"]),
        (("pseudo_label", "export", "filter"), ["filter: expected before `export`"]),
        (("evaluate", "train_student"), ["train_student: expected before `evaluate`"]),
        (("report", "evaluate"), ["evaluate: expected before `report`"]),
        (("report", "cost"), ["cost: expected before `report`"]),
        (("export", "export"), ["export:export+: makes `export`, which an earlier stage makes already"]),
        (("propose", "propose", "pseudo_label"), ["propose: expected once, found 2 times"]),
        (("propose", "pseudo_label", "pseudo_label"), ["pseudo_label: expected once, found 2 times"]),
        (("propose", "pseudo_label", "filter", "filter", "export"), []),
        (("train_student", "propose", "pseudo_label", "evaluate"), []),  # on the human masks alone
        (("filter", "export"), []),  # of what a file holds
        (("report",), []),
    ],
)  # fmt: skip
def test_an_order_that_makes_no_sense(load: Load, names: tuple[str, ...], expected: list[str]) -> None:
    change = {"stages": [copy.deepcopy(stage(name)) for name in names]}
    if not expected:
        assert [planned.stage.name for planned in load(change).stages] == ["ingest", *names]
        return
    found = problems(load, change)
    assert len(found) == len(expected), found
    assert all(line.startswith(part) for line, part in zip(found, expected, strict=True)), found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping with keys such as `name` and `stages`, found an empty file"),
        ("# nothing yet\n", "expected a mapping with keys such as `name` and `stages`, found an empty file"),
        ("- a\n- b\n", "expected a mapping with keys such as `name` and `stages`, found list"),
        ("hello", "expected a mapping with keys such as `name` and `stages`, found str"),
        ("name: [a\nb: c\n", "expected YAML: line 2, column 2: while parsing a flow sequence, expected ',' or ']'"),
        ("name: a\n\tseed: 1\n", "expected YAML: line 2, column 1: while scanning for the next token, found charac"),
        ("name: a\nname: b\n", "expected YAML: line 2, column 1: key 'name' comes twice"),
        (TEXT + "---\nname: b\n", "expected a single document in the stream, but found another document"),
        ("? [a]\n: b\n", "expected YAML: line 1, column 3: expected plain text as a key"),
        ("? {a: b}\n: b\n", "expected YAML: line 1, column 3: expected plain text as a key"),
        ("name: a\nb: !!python/object/apply:os.system [ls]\n", "line 2, column 4: could not determine a constructor"),
        ("name: !!binary aGk=\n", "line 1, column 7: could not determine a constructor for the tag"),
        ("a: *b\n", "expected YAML: line 1, column 4: found undefined alias 'b'"),
        ("a: b\nc: \1\n", "expected YAML: line 2: a character that is not allowed, 0x1"),
        ("seed: " + "9" * 5000, "expected YAML: Exceeds the limit (4300 digits)"),
        ("a: " + "[" * 5000, "expected YAML: nested too deeply"),
        (LAUGHS + TEXT, "expected at most 100000 values, found more with all aliases written out"),
        (TEXT + "x: &x [*x]\n", "an alias stands for what it lies in"),
        (TEXT.replace("data:\n", "data: &d\n  extra: *d\n"), "an alias stands for what it lies in"),
        (b"name: demo\nseed: caf\xe9\n", "line 2: expected UTF-8, found the byte 0xe9"),
        (TEXT.encode("utf-16"), "line 1: expected UTF-8, found the byte 0xff"),
        (b"#" * (MAX_BYTES + 1), f"expected a config of at most {MAX_BYTES} bytes, found more"),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_a_file_that_is_no_config(load: Load, tmp_path: Path, text: str | bytes, message: str) -> None:
    (found,) = problems(load, text)
    assert found.startswith(f"{tmp_path / 'stages.yaml'}: ")
    assert message in found
    assert "\n" not in found


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf" + TEXT.encode(),
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("name: demo", "name: 2024-01-01"),  # no date
        TEXT.replace("export: {}", "export: &none {}").replace("evaluate: {}", "evaluate: *none"),
        TEXT.replace("  - gate:\n      model: teacher\n", "  - gate: {<<: {model: teacher}}\n"),
    ],
    ids=["mark", "crlf", "date", "alias", "merge"],
)
def test_files_that_are_configs(load: Load, text: str | bytes) -> None:
    assert len(load(text).stages) == 11


def test_what_is_merged_may_be_said_anew(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("e: &e {a: 1, b: 1}\nt: {<<: *e, a: 2}\nu: [{<<: *e}]\n")
    found = read_config(tmp_path / "a.yaml")
    assert (found["t"], found["u"]) == ({"a": 2, "b": 1}, [{"a": 1, "b": 1}])


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, found in (("none.yaml", "nothing"), (".", "a folder"), ("pipe.yaml", "a pipe (FIFO)")):
        with pytest.raises(BadPlan) as caught:
            load_plan(Request(tmp_path / name))
        assert caught.value.problems == (f"{tmp_path / name}: expected a file, found {found}",)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("a", "--set a: expected key=value with a dotted key"),
        ("=1", "--set =1: expected key=value with a dotted key"),
        ("a..b=1", "--set a..b=1: expected key=value with a dotted key"),
        ("sede=1", "sede: unknown key, did you mean 'seed'?"),
        ("stages.filtr.min_area=1", "--set stages.filtr.min_area=1: there is nothing named 'filtr', did you mean"),
        ("stages.10.cost.preset=coco", "--set stages.10.cost.preset=coco: there is nothing at position 10 of 10"),
        ("stages.-1=1", "--set stages.-1=1: there is nothing named '-1'"),
        ("stages.filter=5", "stages.4.filter: expected a mapping of settings, found 5"),
        ("stages.filter.min_area=x", "stages.4.filter.min_area: Input should be a valid integer"),
        ("models.techer.alpha=1", "--set models.techer.alpha=1: there is no model 'techer', did you mean 'teacher'?"),
        ("data.train.x=1", "--set data.train.x=1: there is nothing to set at 'x': what it is in is 8"),
        ("name=[", "name: expected letters, digits and . _ + -"),
        ("seed=" + "9" * 5000, "seed: Unable to parse input string as an integer"),
        ("data=!!python/name:os.system", "data: Input should be a valid dictionary"),
    ],
    ids=lambda value: value[:40],
)  # fmt: skip
def test_settings_that_cannot_be_laid_over_it(load: Load, setting: str, expected: str) -> None:
    (found,) = problems(load, {}, settings=(setting,))
    assert found.startswith(expected)
