"""The study of BLO-Inst: which runs it makes, what a run's row holds, and the tables that are made of rows."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from safetensors.torch import save_file

from benchmarks import blo_inst as study
from benchmarks import studies
from benchmarks.blo_inst import ORDERS, PARTS, SPLITS, WIDE_WORLD, WORLDS, Cell, cells_of, config_of, tables
from benchmarks.studies import Settings
from pipeline.config import Request, make_plan
from teachers.detectors import DETECTORS

CELLS = [cell for world in WORLDS for seed in (0, 1) for cell in cells_of(world, seed)]
RESULTS = Path(__file__).parents[1] / "docs" / "results.md"


@pytest.fixture
def random_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded detector begins at random."""
    monkeypatch.setitem(DETECTORS, "fcos_tiny", replace(DETECTORS["fcos_tiny"], embedded=None))  # type: ignore[arg-type]


def row(cell: Cell, ap: float, *, missed: tuple[float, float, float] = (0.2, 0.4, 0.5)) -> Settings:
    """AP in per cent; what is missed of SAM's half, of the detector's and in the test."""
    training = {"seconds": 120.0, "missed_of_sam": missed[0], "missed_of_detector": missed[1]}
    training["parameters_of_sam"] = {"decoder": 100_000, "prompt_encoder": 768, "both": 100_512}[cell.part]
    aps = {"AP": ap / 100, "AP50": 2 * ap / 100, "AP75": 0.5 * ap / 100}
    return {"cell": asdict(cell), "made_by": "made", **aps, "training": training, "missed_in_test": missed[2]}


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
    assert all(cell.order == "first" and (cell.part != "decoder") + (cell.split != 0.5) == 1 for cell in wide)
    assert all(cell.plain for cell in CELLS if cell.world != WIDE_WORLD)


@pytest.mark.usefixtures("random_start")
@pytest.mark.parametrize("cell", list(cells_of("toyworld", 0)), ids=lambda cell: cell.name)
def test_a_cell_is_a_plan(cell: Cell, tmp_path: Path) -> None:
    plan = make_plan(config_of(cell, effort=0.1), Request(tmp_path / "study.yaml"))
    assert [planned.stage.name for planned in plan.stages] == ["ingest", "train_student", "evaluate"]
    settings = plan.resolved["models"]["aligned"]  # type: ignore[index,call-overload]
    assert settings["epochs"] == (0 if cell.order == "none" else 1)  # type: ignore[index,call-overload]
    assert settings["pretrain_epochs"] == 2  # type: ignore[index,call-overload]
    assert settings["order"] == ("first" if cell.order == "none" else cell.order)  # type: ignore[index,call-overload]


def test_a_cells_settings_are_the_students() -> None:
    (model,) = config_of(Cell(WIDE_WORLD, 0, "first", 0.8, "both"))["models"].values()
    assert (model["split"], model["part"], model["order"]) == (0.8, "both", "first")


def line_of(text: str, start: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_orders() -> None:
    rows = [
        row(Cell("toyworld", seed, order), 10 * number + seed, missed=(0.1, 0.3, 0.1 * number))
        for seed in (0, 1, 2)
        for number, order in enumerate(ORDERS, 1)
    ]
    text = tables(rows)
    assert text.startswith("toyworld, 3 seeds:\n\n| order | AP |")
    assert line_of(text, "`none`") == [
        *("`none`", "11.0 (1.0)", "22.0 (2.0)", "5.5 (0.5)", ""),
        *("0.200 (0.000)", "0.100 (0.000)", "-0.100 (0.000)", "2.0 (0.0)", "-"),
    ]
    assert line_of(text, "`second`") == [
        *("`second`", "51.0 (1.0)", "102.0 (2.0)", "25.5 (0.5)", "+40.0 (0.0)"),
        *("0.200 (0.000)", "0.500 (0.000)", "+0.300 (0.000)", "2.0 (0.0)", "-"),
    ]


def test_the_papers_numbers_stand_beside_its_own_world() -> None:
    assert line_of(tables([row(Cell(WIDE_WORLD, 0, "second"), 1)]), "`second`")[-1] == "62.2"


def wide_rows() -> Iterator[Settings]:
    for seed in (0, 1):
        for cell in cells_of(WIDE_WORLD, seed):
            yield row(cell, 10 + 40 * cell.split + 5 * PARTS.index(cell.part))


def test_splits_and_parts() -> None:
    text = tables(list(wide_rows()))
    splits, parts = text.split("other splits:")[1].split("other parts:")
    assert [line_of(splits, ratio)[1] for ratio in ("0.25", "0.5", "1", "2", "4")] == [
        *("18.0 (0.0)", "23.3 (0.0)", "30.0 (0.0)", "36.7 (0.0)", "42.0 (0.0)")
    ]
    assert line_of(parts, "`decoder`")[1:3] == ["100,000", "30.0 (0.0)"]
    assert line_of(parts, "`both`")[1:3] == ["100,512", "40.0 (0.0)"]
    assert line_of(parts, "`both`")[3:] == ["0.300 (0.000)", "0.500 (0.000)", "+0.200 (0.000)"]


def test_a_part_or_split_is_no_other_order() -> None:
    """The table of orders has neither."""
    assert line_of(tables(list(wide_rows())), "`first`")[1] == "30.0 (0.0)"


def test_tables_that_are_not_complete_wait() -> None:
    rows = [row for row in wide_rows() if row["cell"]["part"] == "decoder" and row["cell"]["split"] < 0.7]
    assert "other" not in tables(rows)


def test_a_ledger_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(command: list[str], **_: object) -> CompletedProcess[str]:
        ran.append(Path(command[4]).parent.name)
        return CompletedProcess(command, 4 if "joint" in command[4] else 0)

    monkeypatch.setattr(studies, "made_by", lambda config: f"by-{config['name']}")
    monkeypatch.setattr(studies.subprocess, "run", run)
    monkeypatch.setattr(study, "row_of", lambda cell, made, _: {**row(cell, 1), "made_by": made})
    ledger = tmp_path / "ledger.jsonl"
    call = [f"--ledger={ledger}", "--seeds", "0", f"--out={tmp_path}", "--at-a-time=1"]
    assert study.main(call) == 1
    assert ran == [cell.name for cell in cells_of("toyworld", 0)]
    ran.clear()
    assert study.main(call) == 1
    assert ran == ["toyworld-0-joint"]
    document = tmp_path / "results.md"
    document.write_text("a\n<!-- blo-inst -->\nold\n<!-- end of blo-inst -->\nb\n")
    assert study.main([f"--ledger={ledger}", f"--write={document}"]) == 0
    text = document.read_text()
    assert text.startswith("a\n<!-- blo-inst -->\n\ntoyworld, 1 seeds:")
    assert text.endswith("<!-- end of blo-inst -->\nb\n")
    assert "old" not in text


def test_the_newest_row_of_a_cell_counts() -> None:
    cell = CELLS[0]
    (found,) = study.newest([row(cell, 1), row(cell, 2)])
    assert found["AP"] == 0.02


def test_the_document_has_its_marks() -> None:
    studies.check(RESULTS, study.NAME)


def test_a_runs_row(tmp_path: Path) -> None:
    """A run as the study makes it, small: what it misses of the images it is scored on is in the row."""
    state = DETECTORS["fcos_tiny"].build(3, focal=True).model.state_dict()
    save_file(state, tmp_path / "detector.safetensors")
    cell = Cell("toyworld", 0, "first")
    config = config_of(cell, effort=0.01)
    config["data"] |= {"train": 6, "val": 3}
    config["models"]["aligned"] |= {"detector_weights": str(tmp_path / "detector.safetensors"), "steps": 1}
    rows: list[Settings] = []

    def keep(run: Path) -> Settings:
        rows.append(study.row_of(cell, "made", run))
        return rows[0]

    runs = studies.Runs(tmp_path / "ledger.jsonl", tmp_path / "out")
    assert runs.one(cell.name, config, keep) is None
    (found,) = rows
    assert set(found) == {"cell", "made_by", "AP", "AP50", "AP75", "training", "missed_in_test"}
    # Nothing is found yet: an object that no box found misses all, ln 2.
    for missed in (found["missed_in_test"], found["training"]["missed_of_sam"]):
        assert missed == pytest.approx(0.693, abs=0.05)
    assert "toyworld, 1 seeds" in tables(studies.read_lines(tmp_path / "ledger.jsonl"))
