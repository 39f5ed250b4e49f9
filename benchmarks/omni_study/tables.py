"""The tables of docs/results.md from the ledger: ours with mean and spread, the paper's number beside it.

Spread is the standard deviation over seeds; a cell that was not run is a dash. The paper's numbers: Das et al. 2024,
Tables 2, 4 and 5; its per cents are of Mask2Former's AP on full masks.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from benchmarks.omni_study.cells import BOX, FULL, KINDS, PAPER, POINT, SHARES, STUDENTS, TEACHERS
from benchmarks.omni_study.ledger import Row

Value = Callable[[Row], float | None]
Choice = Mapping[str, object]

PAPER_PER_CENT: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {  # of COCO / ADE20K / Cityscapes
        "0%": {"none": "81 / 36 / 49", "class": "88 / 73 / 74", POINT: "92 / 87 / 62", BOX: "94 / 91 / 86"},
        "1%": {"none": "86 / 36 / 52", "class": "93 / 77 / 78", POINT: "96 / 92 / 81", BOX: "99 / 95 / 89"},
        "10%": {"none": "87 / 45 / 60", "class": "94 / 81 / 81", POINT: "97 / 94 / 89", BOX: "99 / 99 / 97"},
    }
)
PAPER_MIOU: Mapping[tuple[str, str], Mapping[str, float]] = MappingProxyType(
    {  # (what is prompted, class-aware) -> share of masks -> mIoU
        ("point", "off"): {"1%": 64.0, "10%": 64.9},
        ("point", "on"): {"1%": 67.5, "10%": 69.0},
        ("point + proposals", "off"): {"1%": 65.7, "10%": 66.1},
        ("point + proposals", "on"): {"1%": 70.0, "10%": 70.7},
        ("box", "off"): {"1%": 80.7, "10%": 81.3},
        ("box", "on"): {"1%": 80.8, "10%": 81.4},
    }
)
PAPER_UNTUNED = MappingProxyType({POINT: (39.9, 40.4, 40.0), BOX: (40.9, 40.8, 41.3)})
ESTIMATES = ("quality", "predicted IoU", "stability", "agreement")
PROMPTS = (("point", POINT, False), ("point + proposals", POINT, True), ("box", BOX, True))


def tables(rows: Sequence[Row]) -> str:
    """Markdown: what each world has of the tables."""
    worlds = dict.fromkeys(row.cell.world for row in rows)
    return "\n\n".join(_of_world(world, [row for row in rows if row.cell.world == world]) for world in worlds)


def spread(values: Sequence[float], *, digits: int = 3) -> str:
    """Mean and, of several, standard deviation; a dash for none."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({statistics.stdev(values):.{digits}f})"


def values(rows: Iterable[Row], value: Value, **choice: object) -> dict[int, float]:
    """The value of the rows whose cells are as chosen, by seed."""
    chosen = (row for row in rows if all(getattr(row.cell, key) == wanted for key, wanted in choice.items()))
    return {row.cell.seed: found for row in chosen if (found := value(row)) is not None}


def shares_of_full(rows: Sequence[Row], **choice: object) -> list[float]:
    """Student AP in per cent of that with full masks, of each seed that has both."""
    full = values(rows, _ap, masks=FULL)
    found = values(rows, _ap, **choice)
    return [100 * found[seed] / full[seed] for seed in found if full.get(seed)]


def _of_world(world: str, rows: Sequence[Row]) -> str:
    seeds = len({row.cell.seed for row in rows})
    images = max(row.images for row in rows)
    head = f"### {world}: {images} images, {seeds} seed{'s' * (seeds > 1)}"
    parts = [_table_5(rows), _table_2(rows), _table_4(rows), _students(rows), _teachers(rows), _trust(rows)]
    return "\n\n".join([head, *(part for part in parts if part)])


def _table_5(rows: Sequence[Row]) -> str:
    lines = []
    for name, weak, refine in PROMPTS:
        for word, aware in (("off", False), ("on", True)):
            own = [
                spread(
                    list(_teacher(rows, weak=weak, refine=refine, class_aware=aware, masks=m).values()),
                    digits=1,
                )
                for m in SHARES[1:]
            ]
            paper = PAPER_MIOU[name, word]
            lines.append((name, word, *own, *(f"{paper[m]}" for m in SHARES[1:])))
    header = ("prompt", "class-aware", "mIoU, 1% masks", "10%", "the paper's, 1%", "10%")
    return _markdown("Teacher (the paper's Table 5)", header, lines, numbers=slice(2, 4))


def _table_2(rows: Sequence[Row]) -> str:
    lines = []
    for masks in SHARES:
        for weak in KINDS:
            choice = {"weak": weak, "masks": masks, **_PLAIN}
            lines.append(
                (
                    masks,
                    f"`{weak}`",
                    spread(list(values(rows, _ap, **choice).values())),
                    spread(shares_of_full(rows, **choice), digits=0),
                    PAPER_PER_CENT[masks][weak],
                    spread(list(values(rows, _hours, **choice).values()), digits=1),
                )
            )
    full = list(values(rows, _ap, masks=FULL).values())
    hours = list(values(rows, _hours, masks=FULL).values())
    lines.append((FULL, "", spread(full), "100" if full else "-", "100", spread(hours, digits=1)))
    header = ("masks", "weak labels", "student AP", "% of full", "the paper's", "annotation hours")
    return _markdown("Student (the paper's Table 2)", header, lines, numbers=slice(2, 4))


def _table_4(rows: Sequence[Row]) -> str:
    lines = []
    for weak in (POINT, BOX):
        for word, tuned in (("zero-shot", False), ("tuned", True)):
            choice = {**_PLAIN, "weak": weak, "tuned": tuned}
            found = [list(values(rows, _ap, **{**choice, "masks": m}).values()) for m in SHARES]
            paper = "-" if tuned else " / ".join(map(str, PAPER_UNTUNED[weak]))
            lines.append((f"`{weak}`", word, *map(spread, found), paper))
    header = ("weak labels", "teacher", "student AP, 0% masks", "1%", "10%", "the paper's AP")
    return _markdown("More masks without tuning (the paper's Table 4)", header, lines, numbers=slice(2, 5))


def _students(rows: Sequence[Row]) -> str:
    lines = []
    for weak in (POINT, BOX):
        for student in STUDENTS:
            choice = {**_PLAIN, "weak": weak, "masks": "1%", "student": student}
            ap, share = list(values(rows, _ap, **choice).values()), shares_of_full(rows, **choice)
            lines.append((f"`{weak}`", student, spread(ap), spread(share, digits=0)))
    header = ("weak labels", "student", "AP, 1% masks", "% of full")
    return _markdown("Students that doubt their labels", header, lines, numbers=slice(2, 4))


def _teachers(rows: Sequence[Row]) -> str:
    lines = []
    for weak in (POINT, BOX):
        for teacher in TEACHERS:
            choice = {"weak": weak, "teacher": teacher, "refine": True, "class_aware": "no_box"}
            found = [_teacher(rows, **choice, masks=masks) for masks in SHARES[1:]]
            lines.append((f"`{weak}`", teacher, *(spread(list(one.values()), digits=1) for one in found)))
    header = ("weak labels", "teacher", "mIoU, 1% masks", "10%")
    return _markdown("Teachers that learn from fewer masks", header, lines, numbers=slice(2, 4))


def _trust(rows: Sequence[Row]) -> str:
    lines = []
    for weak in KINDS:
        for masks in SHARES[1:]:
            choice = {**_PLAIN, "weak": weak, "masks": masks}
            found = [
                spread(
                    list(values(rows, lambda row, n=name, of=of: getattr(row, of).get(n), **choice).values())
                )
                for of in ("errors", "correlations")
                for name in ESTIMATES
            ]
            lines.append((f"`{weak}`", masks, *found))
    header = ("weak labels", "masks", *(f"{of}, {name}" for of in ("error", "rank") for name in ESTIMATES))
    return _markdown("Calibrated trust, on hidden truth", header, lines, numbers=slice(2, 10))


def _teacher(rows: Sequence[Row], **choice: object) -> dict[int, float]:
    wanted = {"tuned": True, "gated": False, "teacher": PAPER, **choice}
    return values(rows, lambda row: None if row.miou is None else 100 * row.miou, **wanted)


def _ap(row: Row) -> float | None:
    return row.AP


def _hours(row: Row) -> float | None:
    return row.hours


_PLAIN: Choice = MappingProxyType(
    {
        "class_aware": "no_box",
        "refine": True,
        "tuned": True,
        "gated": True,
        "teacher": PAPER,
        "student": PAPER,
    }
)


def _markdown(title: str, header: Sequence[str], lines: Sequence[Sequence[str]], *, numbers: slice) -> str:
    """A titled table of the lines that have a number of ours; nothing if none has."""
    known = [line for line in lines if any(cell != "-" for cell in line[numbers])]
    if not known:
        return ""
    rule = "|".join("---" for _ in header)
    body = "\n".join(f"| {' | '.join(line)} |" for line in known)
    return f"{title}:\n\n| {' | '.join(header)} |\n|{rule}|\n{body}"
