"""Which student a command means that names a run."""

from pathlib import Path

import pytest

from pipeline import found
from pipeline.data.errors import BadInput

ONE = {"train_student": "first"}
TWO = {"train_student:student": "first", "train_student:aligned": "second"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "config.yaml").write_text("stages: [{filter: {}}, {train_student: {model: student}}]")
    monkeypatch.chdir(tmp_path.parent)
    return Path(tmp_path.name)


def trained(monkeypatch: pytest.MonkeyPatch, students: dict[str, str]) -> None:
    there = {label: Path(name) for label, name in students.items()}
    monkeypatch.setattr(found, "find_results", lambda *_: there)


@pytest.mark.parametrize(
    ("students", "name", "expected"),
    [(ONE, "", "first"), (ONE, "student", "first"), (TWO, "student", "first"), (TWO, "aligned", "second")],
)
def test_one_is_found(run: Path, monkeypatch: pytest.MonkeyPatch, students, name, expected) -> None:
    trained(monkeypatch, students)
    assert found.find_student(str(run / name)) == Path(expected)


@pytest.mark.parametrize(
    ("students", "name", "expected"),
    [
        ({}, "", "a run with one student, found none"),
        (TWO, "", "a run with one student, found {run}/aligned, {run}/student"),
        (TWO, "alined", "a student named alined, found {run}/aligned, {run}/student"),
        (ONE, "aligned", "a student named aligned, found {run}/student"),
    ],
)
def test_what_there_is_is_told(run: Path, monkeypatch: pytest.MonkeyPatch, students, name, expected) -> None:
    trained(monkeypatch, students)
    with pytest.raises(BadInput) as told:
        found.find_student(str(run / name))
    assert str(told.value) == f"student {run}: expected {expected.format(run=run)}"


def test_a_student_may_be_named_like_a_folder_of_its_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(monkeypatch, {"train_student:export": "first", "train_student:aligned": "second"})
    (run / "export").mkdir()
    assert found.find_student(str(run / "export")) == Path("first")


def test_a_folder_of_a_run_is_no_student(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained(monkeypatch, TWO)
    (run / "report").mkdir()
    with pytest.raises(
        BadInput, match=r"expected a folder with student\.json or a run folder, found neither"
    ):
        found.find_student(str(run / "report"))
