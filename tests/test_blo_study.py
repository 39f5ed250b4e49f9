"""The study of BLO-Inst: which runs it makes, what its ledger keeps, and the tables that are made of it."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from safetensors.torch import save_file

from benchmarks import blo_inst as study
from benchmarks import studies
from benchmarks.blo_inst import EPOCHS, ORDERS, SPLITS, WORLDS, Cell, cells_of, config_of, row_of, tables
from benchmarks.studies import Settings
from pipeline.config import Request, make_plan
from students.blo_settings import BloInstSettings
from students.pretrain_fcos import begin
from teachers.fcos import build_fcos_tiny

CELLS = [cell for world in WORLDS for cell in cells_of(world, 0)]
SCORES = {"none": 0.2, "separate": 0.25, "joint": 0.3, "first": 0.35, "second": 0.4}


def row(cell: Cell, *, ap: float | None = None, made_by: str = "made") -> Settings:
    found = SCORES[cell.order] + 0.1 * cell.seed if ap is None else ap
    return {
        "cell": vars(cell),
        "made_by": made_by,
        "AP": found,
        "AP50": found + 0.1,
        "AP75": found - 0.1,
        "training": {"seconds": 90.0},
    }


def test_no_two_cells_are_one_run() -> None:
    every = [cell for seed in (0, 1) for world in WORLDS for cell in cells_of(world, seed)]
    assert len({cell.name for cell in every}) == len(every) == len(set(every))
    configs = [json.dumps({**config_of(cell), "name": ""}, sort_keys=True) for cell in every]
    assert len(set(configs)) == len(configs)


def test_all_orders_in_all_worlds_and_splits_in_one() -> None:
    for world in WORLDS:
        assert {cell.order for cell in cells_of(world, 0) if cell.split == 0.5} == set(ORDERS)
    split = {cell.split for cell in CELLS if cell.world == "penn-fudan" and cell.order == "first"}
    assert split == set(SPLITS)
    assert {round(share / (1 - share), 6) for share in SPLITS} == {0.25, 0.5, 1, 2, 4}
    assert {cell.split for cell in CELLS if cell.world != "penn-fudan"} == {0.5}


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_cell_is_what_a_run_takes(cell: Cell) -> None:
    config = config_of(cell)
    own = BloInstSettings.model_validate(
        {key: value for key, value in config["models"]["aligned"].items() if key != "use"}
    )
    assert own.split == cell.split
    assert own.order == ("first" if cell.order == "none" else cell.order)
    assert own.epochs == (0 if cell.order == "none" else EPOCHS[cell.world])
    assert own.pretrain_epochs == study.PRETRAIN_EPOCHS[cell.world]
    assert (config["masks"], config["torch_threads"], config["seed"]) == ("100%", 1, cell.seed)
    assert [name for stage in config["stages"] for name in stage] == ["train_student", "evaluate"]


def test_a_cell_is_a_plan(tmp_path: Path) -> None:
    config = config_of(CELLS[0])
    detector = begin(build_fcos_tiny(1)).model.state_dict()
    save_file(detector, tmp_path / "detector.safetensors")
    config["models"]["aligned"]["detector_weights"] = str(tmp_path / "detector.safetensors")
    plan = make_plan(config, Request(tmp_path / "study.yaml"))
    assert [planned.stage.name for planned in plan.stages][-2:] == ["train_student", "evaluate"]


def test_a_quick_try_has_at_least_an_epoch() -> None:
    quick = [config_of(cell, effort=0.01)["models"]["aligned"] for cell in cells_of("toyworld", 0)]
    assert {(one["pretrain_epochs"], one["epochs"]) for one in quick} == {(1, 0), (1, 1)}


def test_what_a_run_leaves_becomes_a_row(tmp_path: Path) -> None:
    metrics = {"students": {"aligned": {"AP": 0.5, "AP50": 0.7, "AP75": 0.6, "AR": 0.8}}}
    trained = {"label": "train_student", "metrics": {"seconds": 3.0, "steps": 4}}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "run.json").write_text(json.dumps({"stages": [{"label": "ingest"}, trained]}))
    cell = Cell("penn-fudan", 1, "first", 0.2)
    assert row_of(cell, "made", tmp_path) == {
        "cell": {"world": "penn-fudan", "seed": 1, "order": "first", "split": 0.2},
        "made_by": "made",
        "AP": 0.5,
        "AP50": 0.7,
        "AP75": 0.6,
        "training": {"seconds": 3.0, "steps": 4},
    }


def test_the_tables_say_what_the_ledger_has() -> None:
    rows = [
        row(cell) for seed in (0, 1) for world in ("toyworld", "penn-fudan") for cell in cells_of(world, seed)
    ]
    lines = tables(rows).splitlines()
    assert "toyworld, 2 seeds:" in lines
    assert "penn-fudan, 2 seeds:" in lines
    assert "| `none` | 25.0 (7.1) | 35.0 (7.1) | 15.0 (7.1) |  | 1.5 (0.0) | - |" in lines
    assert "| `second` | 45.0 (7.1) | 55.0 (7.1) | 35.0 (7.1) | +20.0 (0.0) | 1.5 (0.0) | - |" in lines
    assert "| `second` | 45.0 (7.1) | 55.0 (7.1) | 35.0 (7.1) | +20.0 (0.0) | 1.5 (0.0) | 62.2 |" in lines
    assert "penn-fudan, `first`, other splits:" in lines
    assert "| 0.25 | 40.0 (7.1) |" in lines
    assert "| 4 | 40.0 (7.1) |" in lines


def test_a_table_with_gaps_says_so() -> None:
    """A gain is of seeds that have both; splits are told when all are there."""
    text = tables([row(Cell("penn-fudan", 0, "first")), row(Cell("penn-fudan", 1, "none"))])
    assert "| `first` | 35.0 | 45.0 | 25.0 | - | 1.5 | 59.3 |" in text.splitlines()
    assert "| `joint` | - | - | - | - | - | 56.0 |" in text.splitlines()
    assert "other splits" not in text


def test_the_newest_row_of_a_cell_counts() -> None:
    rows = [row(CELLS[0], ap=0.1), row(CELLS[1]), row(CELLS[0], ap=0.9)]
    assert [one["AP"] for one in study.newest(rows)] == [0.9, SCORES[CELLS[1].order]]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cells that are run, by a `pipeline run` that fails for `joint` and leaves a row for others."""
    names: list[str] = []

    def run(command: list[str], **_: object) -> CompletedProcess[str]:
        names.append(Path(command[4]).parent.name)
        return CompletedProcess(command, 4 if "joint" in names[-1] else 0)

    monkeypatch.setattr(studies.subprocess, "run", run)
    monkeypatch.setattr(study, "row_of", lambda cell, made_by, _: row(cell, made_by=made_by))
    monkeypatch.setattr(studies.Models, "weights", lambda *_: {"sam": "1"})
    return names


def test_a_study_goes_on_where_it_was_broken_off(
    tmp_path: Path, ran: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [f"--ledger={tmp_path}/l.jsonl", f"--out={tmp_path}/runs", "--seeds=0", "--at-a-time=1"]
    assert study.main(arguments) == 1
    assert ran == [f"toyworld-0-{order}" for order in ORDERS]
    assert capsys.readouterr().err == "failed: toyworld-0-joint\n"
    assert len(studies.read_lines(tmp_path / "l.jsonl")) == 4
    ran.clear()
    assert study.main(arguments) == 1
    assert ran == ["toyworld-0-joint"]
    ran.clear()
    study.main([*arguments, "--effort=0.5"])
    assert len(ran) == len(ORDERS)
    ran.clear()
    monkeypatch.setattr(studies.Models, "weights", lambda *_: {"sam": "2"})
    study.main(arguments)
    assert len(ran) == len(ORDERS)


def test_the_tables_are_written_between_their_marks(tmp_path: Path, ran: list[str]) -> None:
    ledger, results = tmp_path / "l.jsonl", tmp_path / "results.md"
    for one in (row(CELLS[0], ap=0.9), row(CELLS[0])):
        studies.add_line(ledger, one)
    first, last = studies.marks(study.NAME)
    results.write_text(f"before\n{first}\nold\n{last}\nafter\n")
    assert study.main([f"--ledger={ledger}", "--write", str(results)]) == 0
    text = results.read_text()
    assert text.startswith(f"before\n{first}\n\ntoyworld, 1 seeds:")
    assert text.endswith(f"\n{last}\nafter\n")
    assert "| `none` | 20.0 |" in text
    assert "old" not in text
    assert ran == []
    results.write_text("nothing")
    with pytest.raises(ValueError, match=f"expected {first} and {last}, each once"):
        study.main([f"--ledger={ledger}", "--write", str(results)])
