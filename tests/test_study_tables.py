"""The tables, claims and the curve that are made of the study's ledger."""

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from study_rows import CELLS, row

from benchmarks.omni_study import __main__ as study
from benchmarks.omni_study.cells import (
    BOX,
    FULL,
    KINDS,
    POINT,
    STUDENTS,
    Cell,
)
from benchmarks.omni_study.claims import claims
from benchmarks.omni_study.plot import draw
from benchmarks.omni_study.tables import tables
from benchmarks.omni_study.values import ap, by_seed, shares_of_full, spread


@pytest.mark.parametrize(
    ("values", "signed", "text"),
    [([], False, "-"), ([0.5], True, "+0.500"), ([0.4, 0.6], False, "0.500 (0.141)"), ([-1], True, "-1.000")],
    ids=str,
)
def test_mean_and_spread(values: list[float], signed: bool, text: str) -> None:
    assert spread(values, digits=3, signed=signed) == text


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
    assert "| `box+class` | weights | 26.0 (0.0) | 65 (0) | 26.0 (0.0) | 65 (0) |" in lines
    assert (
        "| `point+class` | tuned | 20.0 (0.0) | 20.0 (0.0) | 20.0 (0.0) | 2 of 2 | 0 of 2 | 40.0 / 41.8 / 42.2 |"
        in lines
    )
    assert "| `box+class` | 0.85 | 500 (0) | 0.750 (0.000) | 25.0 (0.0) |" in lines
    assert "| proposals help points, 1% masks | +1.7 | +20.0 (0.0) | 2 of 2 |" in lines
    assert "| `point+class` | lora | 70.0 (0.0) | - |" in lines
    assert "| `point+class` | paper | 70.0 (0.0) | 70.0 (0.0) |" in lines
    assert "| `class` | 10% | 0.100 (0.000) | - | - | - |" in lines
    assert "| `class` | 10% | - | - | 0.500 (0.000) | - |" in lines
    assert "| `box+class` | what the gate chose | 70.0 (0.0) | 70.0 (0.0) |" in lines
    assert text.count("| zero-shot |") == 4


def test_photographs_have_the_tables_of_their_cells() -> None:
    text = tables([row(cell, ap=0.2, miou=0.1) for cell in study.cells_of("penn-fudan", 0)])
    assert "toyworld" not in text
    assert [line for line in text.splitlines() if line.endswith(":")] == [
        "Claims, as differences within a seed:",
        "Teacher (the paper's Table 5):",
        "Student (the paper's Table 2):",
    ]


@pytest.mark.parametrize(
    ("text", "found", "held"),
    [
        ("class prompts help points, 1% masks", [6.0, 2.0], 1),
        ("proposals help points, 10% masks", [10.0, 10.0], 2),
        ("both help more than the better of the two, 10% masks", [6.0, 2.0], 2),
        ("class prompts leave boxes as they are, 1% masks", [6.0, 2.0], 0),
        ("student: point+class above class, 0% masks", [5.0, 5.0], 2),
        ("student: box+class above point+class, 10% masks", [-5.0, -5.0], 0),
        ("student: class, 10% masks, % of full", [80.0, 80.0], 0),
        ("student: point+class, 10% masks over none, without tuning the teacher", [0.0, 0.0], 2),
        ("student: point+class, 10% masks over none, with tuning the teacher", [0.0, 0.0], 0),
        ("student with weights over the paper's: point+class, 1% masks", [3.0, 3.0], 2),
        ("student with weights over the paper's: box+class, 1% masks", [-1.0, -1.0], 0),
        ("student with weights over the paper's: box+class, 10% masks", [-1.0, -1.0], 0),
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


def test_a_claim_of_which_nothing_is_known_is_not_made() -> None:
    assert list(claims([row(CELLS[0], miou=0.1)])) == []


@pytest.mark.parametrize(("gain", "held"), [(0.0, 0), (0.0004, 0), (0.0006, 1)])
def test_nobody_is_above_by_what_is_printed_as_nothing(gain: float, held: int) -> None:
    cells = [Cell("toyworld", 0, POINT, "1%", student=student) for student in ("paper", "weights")]
    rows = [row(cells[0], ap=0.2), row(cells[1], ap=0.2 + gain)]
    (claim,) = (one for one in claims(rows) if "weights" in one.text)
    assert claim.held == held


def test_the_curve_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, list[float], list[float]]] = []

    draws = Axes.errorbar

    def errorbar(self: Axes, x: list[float], y: list[float], *, label: str, **given: Any) -> object:
        drawn.append((label, sorted(x), list(y)))
        return draws(self, x, y, label=label, **given)

    def ap(cell: Cell) -> float:
        return (0.4 if cell.masks == FULL else 0.1 * (1 + KINDS.index(cell.weak))) + cell.long

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    rows = [row(cell, ap=ap(cell)) for cell in CELLS if cell.student]
    draw(rows, tmp_path / "study.png")
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")
    left, right = drawn[:5], drawn[5:]
    kinds = [*KINDS, "masks"]
    assert [label for label, _, _ in left] == [label for label, _, _ in right] == kinds
    values = [[10.0] * 3, [20.0] * 3, [30.0] * 3, [40.0] * 3, [40.0]]
    for panel, full in ((left, 100.0), (right, 40.0)):
        for (_, _, found), expected in zip(panel, values, strict=True):
            assert found == pytest.approx([100 * one / full for one in expected])
    hours = {label: found for label, found, _ in left}
    assert hours == {label: found for label, found, _ in right}
    assert hours["none"][0] == 0.0
    assert max(hours["box+class"]) < hours["masks"][0]
    with pytest.raises(ValueError, match="no student of penn-fudan"):
        draw(rows, tmp_path / "none.png", world="penn-fudan")
