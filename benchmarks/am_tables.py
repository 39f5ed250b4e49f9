"""The tables of docs/results.md about AM-SAM: ours with mean and spread, the paper's numbers beside them.

Dice in per cent; spread is the standard deviation over seeds; what was not run is a dash. The paper's numbers: of its
table 2 on the same photographs (Human, all 300 of them), and of its table 4.
"""

import statistics
from collections.abc import Iterable, Iterator, Sequence

from benchmarks import studies
from benchmarks.am_cells import (
    AGAIN,
    ARMS,
    BILEVEL,
    BOXES,
    CALIBRATED,
    LEARNED,
    MARKS,
    PAPER_LR,
    PLAIN,
    SECOND,
    SHOTS,
    SINGLE,
    WIDE_WORLD,
    WORLDS,
    Row,
)
from benchmarks.omni_study.values import spread

# By boxes and arm, at 4, 8 and 16 shots: BLO-SAM and AM-SAM on Human.
PAPER = {("none", BILEVEL): (89.1, 91.3, 92.4), ("detector", CALIBRATED): (90.4, 92.9, 93.3)}
CLAIMS = (
    ("boxes of the truth, for bi-level", ("truth", BILEVEL), ("none", BILEVEL)),
    ("boxes of the detector, for bi-level", ("detector", BILEVEL), ("none", BILEVEL)),
    ("tuning, with boxes of the truth", ("truth", BILEVEL), ("truth", PLAIN)),
    ("tuning, with boxes of the detector", ("detector", BILEVEL), ("detector", PLAIN)),
    ("two levels, without boxes", ("none", BILEVEL), ("none", SINGLE)),
    ("two levels, boxes of the truth", ("truth", BILEVEL), ("truth", SINGLE)),
    ("two levels, boxes of the detector", ("detector", BILEVEL), ("detector", SINGLE)),
    ("calibration, without boxes", ("none", CALIBRATED), ("none", BILEVEL)),
    ("calibration, boxes of the truth", ("truth", CALIBRATED), ("truth", BILEVEL)),
    ("calibration, boxes of the detector", ("detector", CALIBRATED), ("detector", BILEVEL)),
    ("learned calibration (ours), boxes of the truth", ("truth", LEARNED), ("truth", BILEVEL)),
    ("second order, boxes of the truth", ("truth", SECOND), ("truth", BILEVEL)),
    ("our learning rate, boxes of the truth", ("truth", CALIBRATED), ("truth", PAPER_LR)),
    ("our learning rate, boxes of the detector", ("detector", CALIBRATED), ("detector", PAPER_LR)),
    ("a second round (ours), without boxes", ("none", AGAIN), ("none", CALIBRATED)),
    ("a second round (ours), boxes of the detector", ("detector", AGAIN), ("detector", CALIBRATED)),
    ("a second round (ours), boxes of the truth", ("truth", AGAIN), ("truth", CALIBRATED)),
)


def tables(rows: Sequence[Row]) -> str:
    """Markdown: Dice of all arms, the differences that the claims are of, Dice by epoch, and what boxes were found."""
    found = [
        part for world in WORLDS for part in _of_world(world, [r for r in rows if r.cell.draw.world == world])
    ]
    return "\n\n".join(found)


def _of_world(world: str, rows: Sequence[Row]) -> Iterator[str]:
    if not rows:
        return
    seeds = len({row.cell.draw.seed for row in rows})
    many = f"{seeds} seeds" if seeds > 1 else "1 seed"
    yield _scores(f"{world}, {many}, Dice of the test images", rows)
    yield _differences(f"{world}, differences of Dice, seed by seed", rows)
    yield from _curves(f"{world}, Dice of D2 by epoch, 8 shots", rows)
    yield from _boxes(f"{world}, boxes that the tuned detector found", rows)


def _scores(title: str, rows: Sequence[Row]) -> str:
    paper = rows[0].cell.draw.world == WIDE_WORLD
    lines = []
    for boxes in BOXES:
        for arm in ARMS:
            own = [row for row in rows if (row.cell.boxes, row.cell.arm) == (boxes, arm)]
            if own:
                told = PAPER.get((boxes, arm)) if paper else None
                lines.append(
                    (
                        boxes,
                        arm,
                        *(spread(100 * row.dice for row in _of(own, shots)) for shots in SHOTS),
                        "-" if told is None else " / ".join(map(str, told)),
                        spread([row.core_seconds for row in _of(own, SHOTS[-1])], digits=0),
                    )
                )
    header = ("boxes", "arm", *(f"{shots} shots" for shots in SHOTS), "the paper's", "core seconds, 16 shots")
    return studies.markdown(title, header, lines)


def _differences(title: str, rows: Sequence[Row]) -> str:
    lines = []
    for name, one, other in CLAIMS:
        found = [_difference(rows, one, other, shots) for shots in SHOTS]
        if any(found):
            lines.append((name, *(_signed(values) for values in found)))
    return studies.markdown(title, ("what", *(f"{shots} shots" for shots in SHOTS)), lines)


def _difference(rows: Sequence[Row], one: tuple[str, str], other: tuple[str, str], shots: int) -> list[float]:
    """In per cent, of the seeds that have both."""
    some, others = (
        {
            row.cell.draw.seed: 100 * row.dice
            for row in _of(rows, shots)
            if (row.cell.boxes, row.cell.arm) == own
        }
        for own in (one, other)
    )
    return [some[seed] - others[seed] for seed in sorted(some.keys() & others.keys())]


def _signed(values: Sequence[float]) -> str:
    """Mean and spread, and on how many of the seeds it is above 0."""
    told = spread(values, signed=True)
    return told if len(values) < 2 else f"{told}, {sum(value > 0 for value in values)} of {len(values)}"


def _curves(title: str, rows: Sequence[Row]) -> Iterator[str]:
    tuned = [row for row in _of(rows, 8) if row.curve]
    marks = [mark for mark in MARKS if any(str(mark) in row.curve for row in tuned)]
    lines = []
    for boxes in BOXES:
        for arm in (SINGLE, BILEVEL, CALIBRATED, PAPER_LR):
            own = [row for row in tuned if (row.cell.boxes, row.cell.arm) == (boxes, arm)]
            if own:
                curve = [statistics.fmean(100 * row.curve[str(mark)] for row in own) for mark in marks]
                lines.append((boxes, arm, *(f"{value:.1f}" for value in curve)))
    if lines:
        yield studies.markdown(title, ("boxes", "arm", *map(str, marks)), lines)


def _boxes(title: str, rows: Sequence[Row]) -> Iterator[str]:
    own = [row for row in rows if (row.cell.boxes, row.cell.arm) == ("detector", PLAIN)]
    if own:
        lines = [
            (part, *(spread(100 * value(row) for row in _of(own, shots)) for shots in SHOTS))
            for part, value in (
                ("of the test images, per cent", lambda row: row.found),
                ("of the shots", lambda row: row.found_in_shots),
            )
        ]
        yield studies.markdown(title, ("", *(f"{shots} shots" for shots in SHOTS)), lines)


def _of(rows: Iterable[Row], shots: int) -> list[Row]:
    return [row for row in rows if row.cell.draw.shots == shots]
