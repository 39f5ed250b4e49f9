"""What the tables and the curve ask of a ledger's rows: values by seed, and how mean and spread are written."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from benchmarks.omni_study.cells import FULL, PAPER, Cell
from benchmarks.omni_study.ledger import Row

Value = Callable[[Row], float | None]
Choice = Mapping[str, object]

# The paper's student, and its teacher: the gate is ours, so tables of teachers alone go without.
STUDENT: Choice = MappingProxyType(
    {
        "class_aware": "no_box",
        "refine": True,
        "tuned": True,
        "gated": True,
        "teacher": PAPER,
        "student": PAPER,
        "precision": None,
        "long": False,
    }
)
TEACHER: Choice = MappingProxyType(
    {"tuned": True, "gated": False, "teacher": PAPER, "student": None, "long": False}
)
# One that answers as those that students learn from: it asks for proposals, and boxes go without the class.
LABELLER: Choice = MappingProxyType({**TEACHER, "class_aware": "no_box", "refine": True})


def by_seed(rows: Iterable[Row], value: Value, choice: Choice) -> dict[int, float]:
    """The value of the rows whose cells are as chosen, by seed; ValueError if two of a seed are."""
    found: dict[int, float] = {}
    for row in rows:
        chosen = all(getattr(row.cell, key) == wanted for key, wanted in choice.items())
        if not chosen or (told := value(row)) is None:
            continue
        if row.cell.seed in found:
            raise ValueError(f"two cells of seed {row.cell.seed} are {choice}")
        found[row.cell.seed] = told
    return found


def ap(row: Row) -> float | None:
    """A student's mask AP in per cent."""
    return None if row.AP is None else 100 * row.AP


def miou(row: Row) -> float | None:
    """A teacher's mIoU in per cent, the mean over images as the paper's."""
    return None if row.miou_images is None else 100 * row.miou_images


def full(rows: Sequence[Row], *, long: bool = False) -> dict[int, float]:
    """Student AP with full masks, by seed."""
    return by_seed(rows, ap, {"masks": FULL, "long": long})


def shares_of_full(rows: Sequence[Row], choice: Choice) -> dict[int, float]:
    """Student AP in per cent of that with full masks and as many steps, of each seed that has both."""
    best = full(rows, long=bool(choice.get("long", False)))
    return {seed: 100 * one / best[seed] for seed, one in by_seed(rows, ap, choice).items() if best.get(seed)}


def in_hours(hours: Mapping[Cell, float]) -> Value:
    """The value that a cell's hours are."""
    return lambda row: hours.get(row.cell)


def spread(found: Iterable[float], *, digits: int = 1, signed: bool = False) -> str:
    """Mean and, of several, standard deviation; a dash for none."""
    values = list(found)
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):{'+' if signed else ''}.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({statistics.stdev(values):.{digits}f})"
