"""A row of the study's ledger, and the cells that it may be of."""

from benchmarks.omni_study import __main__ as study
from benchmarks.omni_study.cells import FULL, Cell
from benchmarks.omni_study.ledger import Row

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
