"""The study: which runs it makes, what its ledger keeps, and the tables and the curve that are made of it."""

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import yaml

from benchmarks.omni_study import __main__ as study
from benchmarks.omni_study import ledger
from benchmarks.omni_study.cells import BOX, FULL, KINDS, POINT, SHARES, STUDENTS, Cell, config_of
from benchmarks.omni_study.ledger import Row
from benchmarks.omni_study.plot import draw
from benchmarks.omni_study.tables import shares_of_full, spread, tables
from pipeline.config import Request, make_plan

BASE = yaml.safe_load(Path("configs/study.yaml").read_text())
CELLS = study.cells_of("toyworld", 0)


def row(cell: Cell, *, ap: float | None = None, miou: float | None = None, hours: float = 1.0) -> Row:
    return Row(
        cell, "made", "study", 1000, miou, ap, ap, hours, 100.0, 1.0, {"quality": 0.1}, {"stability": 0.5}
    )


def test_no_two_cells_are_one_run() -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS) == len(set(CELLS))
    configs = [json.dumps({**config_of(BASE, cell), "name": ""}, sort_keys=True) for cell in CELLS]
    assert len(set(configs)) == len(configs)


def test_every_kind_and_share_has_a_student() -> None:
    found = {(cell.weak, cell.masks) for cell in CELLS if cell.student is not None}
    assert found >= {(kind, masks) for kind in KINDS for masks in SHARES} | {(BOX, FULL)}


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_cell_is_a_plan(cell: Cell, tmp_path: Path) -> None:
    plan = make_plan(config_of(BASE, cell), Request(tmp_path / "study.yaml"))
    names = [planned.stage.name for planned in plan.stages]
    assert ("train_student" in names) == (cell.student is not None)
    assert ("finetune_teacher" in names) == cell.tuned
    assert ("gate" in names) == (cell.tuned and cell.gated)
    assert ("calibrate" in names) == (cell.masks != FULL and cell.student is not None)
    settings = plan.resolved["models"]["teacher"]  # type: ignore[index,call-overload]
    assert settings["second_opinion"] == (cell.tuned and cell.student is not None)  # type: ignore[index,call-overload]
    assert settings["class_aware"] == cell.class_aware  # type: ignore[index,call-overload]
    assert settings["refine"] == cell.refine  # type: ignore[index,call-overload]


@pytest.mark.parametrize("world", ["penn-fudan", "car-parts"])
def test_photographs_have_points_and_boxes_only(world: str) -> None:
    assert {cell.weak for cell in study.cells_of(world, 0)} == {POINT, BOX}


def test_a_ledger_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ledger.jsonl"
    options = study._options([f"--ledger={file}", "--seeds=0", "--train=20"])
    first, second, *_ = study.Study(options).todo()
    made = ledger.made_by(study.Study(options).config(first))
    ledger.add(file, replace(row(first, miou=0.5), made_by=made))
    with file.open("a") as cut:
        cut.write('{"cell": {"wor')
    assert next(study.Study(options).todo()) == second
    ledger.add(file, row(second, miou=0.5))  # of other settings: to be made again
    assert next(study.Study(options).todo()) == second
    assert [one.cell for one in ledger.read(file)] == [first, second]
    monkeypatch.setattr(ledger, "read_listing", lambda: {"tiny_sam": {"sha256": "other weights"}})
    assert next(study.Study(options).todo()) == first


def test_the_newest_row_of_a_cell_counts() -> None:
    cell = CELLS[0]
    assert ledger.newest([row(cell, miou=0.1), row(CELLS[1]), row(cell, miou=0.2)])[0].miou == 0.2


def test_rows_of_an_older_study_stand_in_no_table() -> None:
    old, other = row(CELLS[0], miou=0.1), row(study.cells_of("penn-fudan", 0)[0], miou=0.3)
    new = replace(row(CELLS[1], miou=0.2), study="new")
    assert ledger.newest([old, other, new]) == [other, new]


@pytest.mark.parametrize(
    ("values", "text"), [([], "-"), ([0.5], "0.500"), ([0.4, 0.6], "0.500 (0.141)")], ids=str
)
def test_mean_and_spread(values: list[float], text: str) -> None:
    assert spread(values) == text


def test_per_cents_are_of_the_same_seeds_full_masks() -> None:
    rows = [
        row(Cell("toyworld", seed, weak, masks, student="paper", tuned=masks != FULL), ap=ap)
        for seed, weak, masks, ap in [
            (0, BOX, FULL, 0.5),
            (1, BOX, FULL, 0.4),
            (0, POINT, "1%", 0.25),
            (1, POINT, "1%", 0.3),
            (2, POINT, "1%", 0.3),
        ]
    ]
    assert shares_of_full(rows, masks="1%") == pytest.approx([50, 75])


def test_the_tables_say_what_the_ledger_has() -> None:
    def ap(cell: Cell) -> float:
        doubts = list(STUDENTS).index(cell.student) if cell.student else 0
        return 0.4 if cell.masks == FULL else 0.1 + 0.05 * KINDS.index(cell.weak) + 0.01 * doubts

    def miou(cell: Cell) -> float:
        return 0.5 + 0.1 * (cell.class_aware is True) + 0.2 * cell.refine

    every = [study.cells_of("toyworld", seed) for seed in (0, 1)]
    rows = [
        row(cell, ap=ap(cell) if cell.student else None, miou=miou(cell), hours=20.0)
        for cell in chain.from_iterable(every)
    ]
    text = tables(rows)
    lines = text.splitlines()
    assert "### toyworld: 1000 images, 2 seeds" in lines
    assert "| point | on | 60.0 (0.0) | 60.0 (0.0) | 67.5 | 69.0 |" in lines
    assert "| point + proposals | on | 80.0 (0.0) | 80.0 (0.0) | 70.0 | 70.7 |" in lines
    assert "| 1% | `point+class` | 0.200 (0.000) | 50 (0) | 96 / 92 / 81 | 20.0 (0.0) |" in lines
    assert "| 100% |  | 0.400 (0.000) | 100 | 100 | 20.0 (0.0) |" in lines
    assert "| `box+class` | weights | 0.260 (0.000) | 65 (0) |" in lines
    assert "| `point+class` | lora | 70.0 (0.0) | - |" in lines
    assert "| `point+class` | paper | 70.0 (0.0) | 70.0 (0.0) |" in lines
    assert "| `class` | 10% | 0.100 (0.000) | - | - | - | - | - | 0.500 (0.000) | - |" in lines
    assert text.count("zero-shot") == 2
    assert "toyworld" not in tables([row(study.cells_of("penn-fudan", 0)[0], miou=0.1)])


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    rows = [row(cell, ap=0.1, hours=index) for index, cell in enumerate(CELLS) if cell.student]
    draw(rows, tmp_path / "study.png")
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no student of penn-fudan"):
        draw(rows, tmp_path / "none.png", world="penn-fudan")


def test_what_a_run_leaves_becomes_a_row(tmp_path: Path) -> None:
    cost = {
        "images": 7,
        "machine_seconds": {"ingest": 1.0, "propose": 2.5},
        "rows": [
            {"kind": "this run", "this_run": True, "hours": 3.0},
            {"kind": "mask+class", "this_run": False, "hours": 30.0},
        ],
    }
    reliability = {"quality": {"error": 0.1, "correlation": None}}
    metrics = {
        "pseudo": {"miou": 0.6, "reliability": reliability},
        "students": {"student": {"AP": 0.2, "AP50": 0.4}},
    }
    (tmp_path / "cost.json").write_text(json.dumps(cost))
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    digests = ledger.made_by(config_of(BASE, CELLS[0])), ledger.made_by(BASE)
    found = ledger.row_of(CELLS[0], BASE, tmp_path)
    assert found == Row(
        CELLS[0], *digests, 7, 0.6, 0.2, 0.4, 3.0, 30.0, 3.5, {"quality": 0.1}, {"quality": None}
    )
    (tmp_path / "metrics.json").write_text(json.dumps({"pseudo": None, "students": {}}))
    bare = ledger.row_of(CELLS[0], BASE, tmp_path)
    assert (bare.miou, bare.AP, bare.AP50, bare.errors) == (None, None, None, {})
