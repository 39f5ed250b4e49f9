"""The study at a size that takes a minute: one seed, few scenes, few steps, and only what is safe to say of that."""

from pathlib import Path

import pytest

from benchmarks import studies
from benchmarks.omni_study import __main__ as study
from benchmarks.omni_study import ledger
from benchmarks.omni_study.cells import BOX, POINT, Cell
from benchmarks.omni_study.tables import tables

MASKS = "10%"
CELLS = [
    Cell("toyworld", 0, POINT, MASKS, class_aware=True, refine=False, gated=False),
    Cell("toyworld", 0, POINT, MASKS, class_aware=True, gated=False),
    Cell("toyworld", 0, BOX, MASKS, class_aware=True, gated=False),
    Cell("toyworld", 0, BOX, "100%", tuned=False, student="paper"),
]


def test_a_reduced_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "cells_of", lambda *_: CELLS)
    file, results = tmp_path / "ledger.jsonl", tmp_path / "results.md"
    arguments = [
        f"--ledger={file}",
        "--seeds=0",
        "--train=30",
        "--val=6",
        "--effort=0.05",
        f"--out={tmp_path}",
    ]
    assert study.main(arguments) == 0
    rows = ledger.read(file)
    point, refined, box, full = (next(row for row in rows if row.cell == cell) for cell in CELLS)
    assert point.miou is not None
    assert refined.miou is not None
    assert box.miou is not None
    assert refined.miou > point.miou
    assert box.miou > refined.miou + 0.1
    hours = ledger.hours(rows)
    assert hours[point.cell] == hours[refined.cell] < hours[box.cell] < hours[full.cell]
    assert full.miou is None
    assert full.AP is not None
    assert set(box.errors) == {"score", "predicted IoU", "stability"}  # no student, so nothing calibrated
    first, last = studies.marks(study.NAME)
    results.write_text(f"before\n{first}\nold\n{last}\nafter\n")
    assert study.main([*arguments, f"--write={results}", f"--plot={tmp_path / 'study.png'}"]) == 0
    text = results.read_text()
    assert tables(ledger.read(file)) in text
    assert (text.startswith("before\n"), text.endswith("\nafter\n"), "old" in text) == (True, True, False)
    with pytest.raises(SystemExit, match="no row was made with these settings"):
        study.main([f"--ledger={file}", f"--write={results}"])
    assert results.read_text() == text
    before = file.read_bytes()
    monkeypatch.setattr(study.Study, "run", lambda *_: pytest.fail("everything is there"))
    assert study.main(arguments) == 0
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["", "<!-- study -->", "<!-- end of study --><!-- study -->", "<!-- study -->" * 2]
)
def test_a_file_without_the_marks_is_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "results.md"
    file.write_text(text)
    with pytest.raises(ValueError, match="expected <!-- study --> and <!-- end of study -->"):
        studies.write(file, study.NAME, "tables")
    assert file.read_text() == text


def test_the_results_have_a_place_for_the_tables() -> None:
    studies.check(Path("docs/results.md"), study.NAME)
