"""The study: which runs it makes, and what its ledger keeps."""

import json
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml
from study_rows import CELLS, row

from benchmarks import studies
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
    Cell,
    config_of,
)
from benchmarks.omni_study.ledger import Row
from pipeline.config import Request, make_plan
from pipeline.stages.table import STAGES

BASE = yaml.safe_load(Path("configs/study.yaml").read_text())


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
    made = studies.made_by(study.Study(options).config(first))
    ledger.add(file, replace(row(first, miou=0.5), made_by=made))
    with file.open("a") as cut:
        cut.write('{"cell": {"wor')
    assert next(study.Study(options).todo()) == second
    ledger.add(file, row(second, miou=0.5))  # of other settings: to be made again
    assert next(study.Study(options).todo()) == second
    assert [one.cell for one in ledger.read(file)] == [first, second]
    monkeypatch.setattr(studies.Models, "weights", lambda _, name: {name: "other weights"})
    assert next(study.Study(options).todo()) == first


def test_a_cell_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One whose run fails, and one whose run left something that cannot be read."""
    failing, unread, good = CELLS[:3]

    def run(command: list[str], **_: object) -> CompletedProcess[str]:
        return CompletedProcess(command, 4 if failing.name in command[4] else 0)

    def row_of(cell: Cell, *_: object) -> Row:
        if cell == unread:
            raise KeyError("AP")
        return row(cell, miou=0.1)

    monkeypatch.setattr(study, "cells_of", lambda *_: [failing, unread, good])
    monkeypatch.setattr(studies.subprocess, "run", run)
    monkeypatch.setattr(ledger, "row_of", row_of)
    file = tmp_path / "ledger.jsonl"
    assert study.main([f"--ledger={file}", "--seeds=0", f"--out={tmp_path}"]) == 1
    assert capsys.readouterr().err == f"failed: {failing.name}\nfailed: {unread.name}: KeyError('AP')\n"
    assert [one.cell for one in ledger.read(file)] == [good]


def test_the_newest_row_of_a_cell_counts() -> None:
    cell = CELLS[0]
    rows = [row(cell, miou=0.1), row(CELLS[1]), row(cell, miou=0.2)]
    assert studies.newest(Path("ledger"), rows, lambda _: "made")[0].miou == 0.2


def test_rows_that_would_be_made_otherwise_stand_in_no_table() -> None:
    """And what a cell does not use leaves its row where it is."""
    gated, free = (next(c for c in CELLS if c.gated is one and c.masks == "10%") for one in (True, False))

    def current(row: Row) -> str:
        return studies.made_by(config_of(BASE, row.cell))

    rows = [row(cell, miou=0.1) for cell in (gated, free)]
    rows = [replace(one, made_by=current(one)) for one in rows]
    assert studies.newest(Path("ledger"), rows, current) == rows
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(STAGES["gate"], "version", 99)
        assert studies.newest(Path("ledger"), rows, current) == rows[1:]


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


def test_the_committed_ledger_can_be_read() -> None:
    assert ledger.read(Path("docs/ledgers/study.jsonl"))


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
    made_by = studies.made_by(config_of(BASE, CELLS[0]))
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
