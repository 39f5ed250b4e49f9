"""The study of BLO-Inst: which runs it makes, what a run's row holds, which rows go into the document."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from benchmarks import blo_inst as study
from benchmarks import studies
from benchmarks.blo_cells import (
    EVEN,
    ORDERS,
    PARTS,
    SPLITS,
    STEPS,
    WIDE_WORLD,
    WORLDS,
    Cell,
    Row,
    cells_of,
    config_of,
)
from pipeline.config import Request, make_plan
from pipeline.engine.keys import digest_of

CELLS = [cell for world in WORLDS for seed in (0, 1) for cell in cells_of(world, seed)]
RESULTS = Path(__file__).parents[1] / "docs" / "results.md"
OLD = "a\n<!-- blo-inst -->\nold\n<!-- end of blo-inst -->\nb\n"


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def row(cell: Cell, made_by: str, *, ap: float = 0.1) -> Row:
    halves = {f"{what}_of_{half}": 0.5 for what in ("missed", "found") for half in ("sam", "detector")}
    training = {
        "core_seconds": 60.0,
        "core_seconds_of_embeddings": 1.0,
        "parameters_of_sam": 1,
        "parameters_of_detector": 2,
        "implicit_share": 0.1,
        **halves,
    }
    return Row(cell, made_by, ap, ap, ap, training, 0.5, 0.5)


def test_no_two_cells_are_one_run() -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS) == len(set(CELLS))
    configs = [json.dumps({**config_of(cell), "name": ""}, sort_keys=True) for cell in CELLS]
    assert len(set(configs)) == len(configs)


def test_what_is_compared() -> None:
    for world in WORLDS:
        own = [cell for cell in cells_of(world, 0) if cell.plain]
        assert [cell.order for cell in own] == list(ORDERS)
    wide = [cell for cell in cells_of(WIDE_WORLD, 0) if not cell.plain]
    assert {cell.part for cell in wide} == set(PARTS)
    assert {cell.split for cell in wide} == set(SPLITS)
    assert all(cell.order == "first" for cell in wide)
    assert all((cell.part != PARTS[0]) + (cell.split != EVEN) == 1 for cell in wide)
    assert all(cell.plain for cell in CELLS if cell.world != WIDE_WORLD)


def test_all_cells_of_a_world_have_as_many_steps() -> None:
    for cell in CELLS:
        (student,) = config_of(cell)["models"].values()
        assert student["steps"] == STEPS[cell.world]
        assert "epochs" not in student


@pytest.mark.parametrize("cell", list(cells_of("toyworld", 0)), ids=lambda cell: cell.name)
def test_a_cell_is_a_plan(cell: Cell, tmp_path: Path) -> None:
    plan = make_plan(config_of(cell, effort=0.1), Request(tmp_path / "study.yaml"))
    assert [planned.stage.name for planned in plan.stages] == ["ingest", "train_student", "evaluate"]
    settings = plan.resolved["models"]["aligned"]  # type: ignore[index,call-overload]
    found = {key: settings[key] for key in ("order", "seg", "steps", "pretrain_epochs")}  # type: ignore[index,call-overload]
    alone = cell.order == "none"  # the detector, and SAM as it is
    expected = {"order": "separate", "seg": 0} if alone else {"order": cell.order, "seg": 0.7}
    assert found == {**expected, "steps": 13, "pretrain_epochs": 2}


def test_a_cells_settings_are_the_students() -> None:
    (model,) = config_of(Cell(WIDE_WORLD, 0, "first", 0.8, "both"))["models"].values()
    assert (model["split"], model["part"], model["order"]) == (0.8, "both", "first")


class Ran:
    """Stands for `pipeline run`: the cells whose runs were asked for, of which `failing` fails."""

    def __init__(self, failing: str = "") -> None:
        self.names: list[str] = []
        self.failing = failing

    def __call__(self, command: list[str], **_: object) -> CompletedProcess[str]:
        self.names.append(Path(command[4]).parent.name)
        return CompletedProcess(command, 4 if self.names[-1] == self.failing else 0)


Call = Callable[..., int]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """The study on a ledger of seed 0, made by the settings alone; runs' folders are not looked at."""
    monkeypatch.setattr(studies, "made_by", lambda config: digest_of(config)[:12])
    monkeypatch.setattr(study, "write_detector", lambda _: None)
    monkeypatch.setattr(study, "row_of", lambda cell, made_by, *_: row(cell, made_by))
    given = [f"--ledger={tmp_path / 'ledger.jsonl'}", "--seeds=0", f"--out={tmp_path}", "--at-a-time=1"]
    return lambda *more: study.main([*given, *more])


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "results.md"
    path.write_text(OLD)
    return path


def test_a_ledger_is_gone_on_with(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the start too, which all cells have in common; without it none of them is run."""
    start, cells = "toyworld-0-start", [cell.name for cell in cells_of("toyworld", 0)]
    monkeypatch.setattr(studies.subprocess, "run", none := Ran(start))
    assert call() == 1
    assert none.names == [start]
    monkeypatch.setattr(studies.subprocess, "run", first := Ran("toyworld-0-joint"))
    assert call() == 1
    assert first.names == [start, *cells]
    monkeypatch.setattr(studies.subprocess, "run", second := Ran())
    assert call() == 0
    assert second.names == [start, "toyworld-0-joint"]
    monkeypatch.setattr(studies.subprocess, "run", third := Ran())
    assert call() == 0
    assert third.names == []


def test_what_is_judged_disturbs_no_run(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are timed beside it."""
    threads = []

    def row_of(cell: Cell, made_by: str, *_: Path) -> Row:
        threads.append(torch.get_num_threads())
        return row(cell, made_by)

    torch.set_num_threads(2)
    monkeypatch.setattr(studies.subprocess, "run", Ran())
    monkeypatch.setattr(study, "row_of", row_of)
    assert call() == 0
    assert set(threads) == {1}


def test_the_tables_are_of_whole_runs(
    call: Call, document: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A quick try stands in the ledger, and in no table; of a cell its newest row counts; what lacks is named."""
    monkeypatch.setattr(studies.subprocess, "run", Ran("toyworld-0-joint"))
    assert call() == 1
    monkeypatch.setattr(study, "row_of", lambda cell, made_by, *_: row(cell, made_by, ap=0.9))
    monkeypatch.setattr(studies.subprocess, "run", Ran())
    assert call("--effort=0.1") == 0
    ledger = document.parent / "ledger.jsonl"
    again = Cell("toyworld", 0, "second")
    studies.add_line(ledger, asdict(row(again, studies.made_by(config_of(again)), ap=0.2)))
    capsys.readouterr()
    assert call(f"--write={document}") == 0
    text = document.read_text()
    assert text.startswith("a\n<!-- blo-inst -->\n\ntoyworld, 1 seed:")
    assert text.endswith("<!-- end of blo-inst -->\nb\n")
    assert "old" not in text
    for order, ap in (("first", "10.0"), ("second", "20.0"), ("joint", "-")):
        assert f"| `{order}` | {ap} |" in text
    assert "90.0" not in text
    photographs = [cell.name for world in WORLDS[1:] for cell in cells_of(world, 0)]
    missing = ["toyworld-0-joint", *photographs]
    assert capsys.readouterr().err.splitlines() == [f"missing: {name}" for name in missing]


@pytest.mark.parametrize("tried", [False, True], ids=["an empty ledger", "quick tries alone"])
def test_tables_of_nothing_are_refused(
    call: Call, document: Path, monkeypatch: pytest.MonkeyPatch, tried: bool
) -> None:
    monkeypatch.setattr(studies.subprocess, "run", Ran())
    if tried:
        call("--effort=0.1")
    with pytest.raises(SystemExit, match="no row was made with these settings") as refused:
        call(f"--write={document}", "--effort=0.1")
    assert refused.value.code not in (0, None)
    assert document.read_text() == OLD


def photographs(folder: Path, content: str) -> Path:
    """What the study takes of penn-fudan, without photos that anything could be learned from."""
    own = folder / WIDE_WORLD
    (own / "images").mkdir(parents=True, exist_ok=True)
    for name in ("train.json", "test.json", "images/1.png"):
        (own / name).write_text("")
    (own / "train.json").write_text(content)
    return folder


def test_other_files_are_another_study(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: Path
) -> None:
    """A row is of the files that it was made of: of others it is run again, and is in no table beside them."""
    cells = [f"{WIDE_WORLD}-0-start", *(cell.name for cell in cells_of(WIDE_WORLD, 0))]
    monkeypatch.setattr(studies.subprocess, "run", first := Ran(cells[-1]))
    given = ["--worlds", WIDE_WORLD, f"--data={photographs(tmp_path / 'data', 'one')}"]
    assert call(*given) == 1
    monkeypatch.setattr(studies.subprocess, "run", again := Ran())
    assert call(*given) == 0
    assert (first.names, again.names) == (cells, [cells[0], cells[-1]])
    assert call(f"--write={document}") == 0
    photographs(tmp_path / "data", "other")
    monkeypatch.setattr(studies.subprocess, "run", other := Ran(cells[-1]))
    assert call(*given) == 1
    assert other.names == cells
    with pytest.raises(SystemExit, match="rows of penn-fudan were made of different files; say by --data"):
        call(f"--write={document}")
    assert call(f"--write={document}", given[-1]) == 0
    assert "| `both` | - |" not in document.read_text()  # the last cell is of the other files alone
    assert "other parts" not in document.read_text()
    assert call(f"--write={document}", f"--data={photographs(tmp_path / 'data', 'one')}") == 0
    assert "other parts" in document.read_text()


@pytest.mark.parametrize("changed", ["train.json", "test.json", "images/1.png", "images/2.png"])
def test_every_file_is_in_a_datas_digest(tmp_path: Path, changed: str) -> None:
    config = config_of(Cell(WIDE_WORLD, 0, "first"))
    before = studies.data_digest(config, photographs(tmp_path, ""))
    (tmp_path / WIDE_WORLD / changed).write_text("changed")
    assert studies.data_digest(config, tmp_path) != before
    assert studies.data_digest(config, None) == ""
    assert studies.data_digest(config_of(Cell("toyworld", 0, "first")), tmp_path) == ""


def test_the_document_has_its_marks() -> None:
    studies.check(RESULTS, study.NAME)
