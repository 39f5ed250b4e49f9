"""The study: which runs it makes, what its ledger keeps, and the tables and the curve that are made of it."""

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml

from benchmarks.omni_study import __main__ as study
from benchmarks.omni_study import ledger
from benchmarks.omni_study.cells import (
    BOX,
    FULL,
    KINDS,
    LONG,
    ONE_RATE,
    POINT,
    SHARES,
    STUDENTS,
    Cell,
    config_of,
)
from benchmarks.omni_study.claims import claims
from benchmarks.omni_study.ledger import Row
from benchmarks.omni_study.plot import draw
from benchmarks.omni_study.tables import tables
from benchmarks.omni_study.values import ap, by_seed, shares_of_full, spread
from pipeline.config import Request, make_plan
from pipeline.stages.table import STAGES

BASE = yaml.safe_load(Path("configs/study.yaml").read_text())
CELLS = study.cells_of("toyworld", 0)


def row(cell: Cell, *, ap: float | None = None, miou: float | None = None, right: float | None = None) -> Row:
    return Row(
        cell,
        made_by="made",
        images=1000,
        masked=10 * int(cell.masks.rstrip("%")),
        counted=(18, 8.0, 4.5) if cell.masks == FULL else None,
        miou=miou,
        miou_images=miou,
        right=right,
        pseudo_masks=500,
        AP=ap,
        AP50=ap,
        gate={},
        seconds=1.0,
        errors={"quality": 0.1},
        correlations={"stability": 0.5},
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
    for name, steps in (("train_student", 400), ("finetune_teacher", 600)):
        if name in names:
            training = plan.stages[names.index(name)].config
            longer = cell.long and (name == "train_student" or cell.student is None)
            assert training.steps == steps * (LONG if longer else 1)  # type: ignore[attr-defined]
    settings = plan.resolved["models"]["teacher"]  # type: ignore[index,call-overload]
    assert settings["second_opinion"] == (cell.tuned and cell.student is not None)  # type: ignore[index,call-overload]
    assert settings["class_aware"] == cell.class_aware  # type: ignore[index,call-overload]
    own = {
        "lora": 4 if "lora" in cell.teacher else None,
        "box_jitter": 0.1 if "jitter" in cell.teacher else 0.0,
        "self_training": 0.3 if cell.teacher == "self-training" else 0.0,
        "branch_lr": None if cell.teacher == ONE_RATE else 6e-4,
        "cross_fit": cell.gated,
    }
    assert {key: settings[key] for key in own} == own  # type: ignore[index,call-overload]
    if cell.student is not None:
        student = plan.resolved["models"]["student"]  # type: ignore[index,call-overload]
        assert student["trust_weights"] == ("weights" in cell.student)  # type: ignore[index,call-overload]
    assert settings["refine"] == cell.refine  # type: ignore[index,call-overload]
    (filtered,) = (planned.config for planned in plan.stages if planned.stage.name == "filter")
    assert filtered.precision == cell.precision


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
    monkeypatch.setattr(ledger.Models, "weights", lambda _, name: {name: "other weights"})
    assert next(study.Study(options).todo()) == first


def test_a_cell_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: list[str], **_: object) -> CompletedProcess[str]:
        return CompletedProcess(command, 4 if CELLS[0].name in command[4] else 0)

    monkeypatch.setattr(study, "cells_of", lambda *_: CELLS[:2])
    monkeypatch.setattr(study.subprocess, "run", run)
    monkeypatch.setattr(ledger, "row_of", lambda cell, *_: row(cell, miou=0.1))
    file = tmp_path / "ledger.jsonl"
    assert study.main([f"--ledger={file}", "--seeds=0", f"--out={tmp_path}"]) == 1
    assert capsys.readouterr().err == f"failed: {CELLS[0].name}\n"
    assert [one.cell for one in ledger.read(file)] == [CELLS[1]]


def test_the_newest_row_of_a_cell_counts() -> None:
    cell = CELLS[0]
    rows = [row(cell, miou=0.1), row(CELLS[1]), row(cell, miou=0.2)]
    assert ledger.newest(rows, lambda _: "made")[0].miou == 0.2


def test_rows_that_would_be_made_otherwise_stand_in_no_table() -> None:
    """And what a cell does not use leaves its row where it is."""
    gated, free = (next(c for c in CELLS if c.gated is one and c.masks == "10%") for one in (True, False))

    def current(cell: Cell) -> str:
        return ledger.made_by(config_of(BASE, cell))

    rows = [replace(row(cell, miou=0.1), made_by=current(cell)) for cell in (gated, free)]
    assert ledger.newest(rows, current) == rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(STAGES["gate"], "version", 99)
        assert ledger.newest(rows, current) == rows[1:]


@pytest.mark.parametrize(
    ("values", "signed", "text"),
    [([], False, "-"), ([0.5], True, "+0.500"), ([0.4, 0.6], False, "0.500 (0.141)"), ([-1], True, "-1.000")],
    ids=str,
)
def test_mean_and_spread(values: list[float], signed: bool, text: str) -> None:
    assert spread(values, digits=3, signed=signed) == text


def test_all_cells_of_a_seed_have_one_price_list() -> None:
    rows = [row(cell) for cell in CELLS]
    found = ledger.hours(rows)
    assert found.keys() == set(CELLS)
    full = 1000 * (18 - 4.5 + 8 * 79) / 3600
    for cell in CELLS:
        share = int(cell.masks.rstrip("%")) / 100
        weak = {"none": 0.0, "class": 18.0, POINT: 13.5 + 2.4 * 4.5 + 0.9 * 3.5, BOX: 13.5 + 7 * 8}[cell.weak]
        assert found[cell] == pytest.approx(share * full + (1 - share) * 1000 * weak / 3600)
    assert ledger.hours([one for one in rows if one.cell.masks != FULL]) == {}
    other = replace(CELLS[0], seed=1)
    assert other not in ledger.hours([*rows, row(other)])


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
    assert shares_of_full(rows, {"masks": "1%"}) == pytest.approx({0: 50, 1: 75})


def test_a_value_is_of_one_cell_of_each_seed() -> None:
    """The students of full masks come in two lengths, and no table or curve may take one for the other."""
    rows = [row(cell, ap=0.1) for cell in CELLS if cell.masks == FULL]
    assert len(rows) == 2
    with pytest.raises(ValueError, match="two cells of seed 0"):
        by_seed(rows, ap, {"masks": FULL})


def test_the_tables_say_what_the_ledger_has() -> None:
    def ap(cell: Cell) -> float:
        doubts = list(STUDENTS).index(cell.student) if cell.student else 0
        short = 0.4 if cell.masks == FULL else 0.1 + 0.05 * KINDS.index(cell.weak) + 0.01 * doubts
        return 2 * short if cell.long else short

    def miou(cell: Cell) -> float:
        return 0.5 + 0.1 * (cell.class_aware is True) + 0.2 * cell.refine

    every = [study.cells_of("toyworld", seed) for seed in (0, 1)]
    rows = [
        row(cell, ap=ap(cell) if cell.student else None, miou=miou(cell), right=0.75)
        for cell in chain.from_iterable(every)
    ]
    gate = {"point": "zero_shot", "point_box": "tuned", "plain_box": "zero_shot"}
    rows = [replace(one, gate=gate) if one.cell.masks == "1%" else one for one in rows]
    text = tables(rows)
    lines = text.splitlines()
    assert "### toyworld: 1000 images, 2 seeds" in lines
    assert "| point | on | 60.0 (0.0) | 60.0 (0.0) | 67.5 | 69.0 |" in lines
    assert "| point + proposals | on | 80.0 (0.0) | 80.0 (0.0) | 70.0 | 70.7 |" in lines
    assert "| on | its own | as in the other tables | 60.0 (0.0) | 60.0 (0.0) | 60.0 (0.0) |" in lines
    assert "| on | its own | 4 times as many | - | 60.0 (0.0) | 60.0 (0.0) |" in lines
    assert (
        "| class prompts help points, 10% masks, 4 times the steps | +4.1 | +10.0 (0.0) | 2 of 2 |" in lines
    )
    assert "| 1% | `point+class` | 20.0 (0.0) | 50 (0) | 96 / 92 / 81 | 9.3 (0.0) |" in lines
    assert "| 100% |  | 40.0 (0.0) | 100 | 100 | 179.3 (0.0) |" in lines
    assert "| 0% | `box+class` | 25.0 (0.0) | 62 (0) | 50.0 (0.0) | 62 (0) |" in lines
    assert "| 100% |  | 40.0 (0.0) | 100 | 80.0 (0.0) | 100 |" in lines
    assert "| `box+class` | weights | 26.0 (0.0) | 65 (0) |" in lines
    assert (
        "| `point+class` | tuned | 20.0 (0.0) | 20.0 (0.0) | 20.0 (0.0) | 2 of 2 | 0 of 2 | 40.0 / 41.8 / 42.2 |"
        in lines
    )
    assert "| `box+class` | 0.85 | 500 (0) | 0.750 (0.000) | 25.0 (0.0) |" in lines
    assert "| proposals help points, 1% masks | +1.7 | +20.0 (0.0) | 2 of 2 |" in lines
    assert "| `point+class` | lora | 70.0 (0.0) | - |" in lines
    assert "| `point+class` | paper | 70.0 (0.0) | 70.0 (0.0) |" in lines
    assert "| `class` | 10% | 0.100 (0.000) | - | - | - | - | - | 0.500 (0.000) | - |" in lines
    assert "| `box+class` | what the gate chose | 70.0 (0.0) | 70.0 (0.0) |" in lines
    assert text.count("| zero-shot |") == 4
    assert "toyworld" not in tables([row(study.cells_of("penn-fudan", 0)[0], miou=0.1)])


@pytest.mark.parametrize(
    ("text", "found", "held"),
    [
        ("class prompts help points, 1% masks", [6.0, 2.0], 1),
        ("proposals help points, 10% masks", [10.0, 10.0], 2),
        ("both help more than either, 10% masks", [6.0, 2.0], 2),
        ("class prompts leave boxes as they are, 1% masks", [6.0, 2.0], 0),
        ("student: point+class above class, 0% masks", [5.0, 5.0], 2),
        ("student: box+class above point+class, 10% masks", [-5.0, -5.0], 0),
        ("student: class, 10% masks, % of full", [80.0, 80.0], 0),
        ("student: point+class, 10% masks over none, without tuning the teacher", [0.0, 0.0], 2),
        ("student: point+class, 10% masks over none, with tuning the teacher", [0.0, 0.0], 0),
        ("student with weights over the paper's: point+class, 1% masks", [3.0, 3.0], 2),
        ("student with weights over the paper's: box+class, 1% masks", [-1.0, -1.0], 0),
        (
            "student with weights: point+class, 1% masks, % of the gap to full closed, where it is a point or more",
            [60.0, 60.0],
            2,
        ),
        ("teacher with lora: box+class, 1% masks over today's 10%", [0.0, 0.0], 2),
        ("teacher that the gate chose: box+class, 1% masks over today's 10%", [5.0, 5.0], 2),
        (
            "student of the masks that `precision` keeps over one of all: point+class, 10% masks",
            [-2.0, -2.0],
            0,
        ),
    ],
)
def test_a_claim_is_judged_within_each_seed(text: str, found: list[float], held: int) -> None:
    def ap(cell: Cell) -> float:
        if cell.masks == FULL:
            return 0.25
        base = {"none": 0.1, "class": 0.2, POINT: 0.25, BOX: 0.2}[cell.weak] - (cell.masks == "1%") * 0.05
        base -= 0.02 * (cell.precision is not None)
        return base + (cell.student == "weights") * (0.03 if cell.weak == POINT else -0.01)

    def miou(cell: Cell) -> float:
        aware, judged = (0.06 - 0.04 * cell.seed) * (cell.class_aware is True), 0.05 * cell.gated
        return 0.5 + cell.seed + aware + judged + 0.1 * cell.refine

    every = chain.from_iterable(study.cells_of("toyworld", seed) for seed in (0, 1))
    rows = [row(cell, ap=ap(cell) if cell.student else None, miou=miou(cell)) for cell in every]
    (claim,) = (one for one in claims(rows) if one.text == text)
    assert claim.differences == pytest.approx(found)
    assert claim.held == held


@pytest.mark.parametrize("plain", [0.245, 0.25, 0.3])
def test_where_there_is_no_gap_to_full_masks_nothing_closes_it(plain: float) -> None:
    cells = [Cell("toyworld", 0, POINT, "1%", student=student) for student in ("paper", "weights")]
    best = Cell("toyworld", 0, BOX, FULL, student="paper", tuned=False)
    rows = [row(best, ap=0.25), row(cells[0], ap=plain), row(cells[1], ap=plain - 0.02)]
    found = {one.text: one for one in claims(rows)}
    assert not any("gap" in text for text in found)
    assert found["student with weights over the paper's: point+class, 1% masks"].held == 0


def test_the_committed_ledger_can_be_read() -> None:
    assert ledger.read(Path("docs/ledgers/study.jsonl"))


def test_a_claim_of_which_nothing_is_known_is_not_made() -> None:
    assert list(claims([row(CELLS[0], miou=0.1)])) == []


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    rows = [row(cell, ap=0.1) for cell in CELLS if cell.student]
    draw(rows, tmp_path / "study.png")
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no student of penn-fudan"):
        draw(rows, tmp_path / "none.png", world="penn-fudan")


def test_what_a_run_leaves_becomes_a_row(tmp_path: Path) -> None:
    cost = {
        "images": 7,
        "human_masked_images": 2,
        "classes": 18,
        "instances_per_image": 8.0,
        "classes_per_image": 4.5,
        "machine_seconds": {"ingest": 1.0, "propose": 2.5},
    }
    reliability = {"quality": {"error": 0.1, "correlation": None}}
    metrics = {
        "pseudo": {
            "miou": 0.6,
            "miou_images": 0.65,
            "pseudo_masks": 50,
            "iou_counts": [1, 9, 10, 20],
            "reliability": reliability,
        },
        "students": {"student": {"AP": 0.2, "AP50": 0.4}},
    }
    (tmp_path / "cost.json").write_text(json.dumps(cost))
    (tmp_path / "gate.json").write_text(json.dumps({"box": {"use": "tuned", "tuned": 0.8}}))
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    made_by = ledger.made_by(config_of(BASE, CELLS[0]))
    found = ledger.row_of(CELLS[0], BASE, tmp_path)
    assert found == Row(
        CELLS[0],
        made_by,
        images=7,
        masked=2,
        counted=None,
        miou=0.6,
        miou_images=0.65,
        right=0.6,
        pseudo_masks=50,
        AP=0.2,
        AP50=0.4,
        gate={"box": "tuned"},
        seconds=3.5,
        errors={"quality": 0.1},
        correlations={"quality": None},
    )
    ledger.add(tmp_path / "ledger.jsonl", found)
    (full, _) = (cell for cell in CELLS if cell.masks == FULL)
    (tmp_path / "metrics.json").write_text(json.dumps({"pseudo": None, "students": {}}))
    (tmp_path / "gate.json").unlink()
    bare = ledger.row_of(full, BASE, tmp_path)
    assert (bare.miou, bare.right, bare.AP, bare.AP50, bare.errors, bare.gate) == (
        None,
        None,
        None,
        None,
        {},
        {},
    )
    assert bare.counted == (18, 8.0, 4.5)
    ledger.add(tmp_path / "ledger.jsonl", bare)
    assert ledger.read(tmp_path / "ledger.jsonl") == [found, bare]
