"""The tables of docs/results.md about BLO-Inst: ours with mean and spread, the paper's numbers beside them.

Spread is the standard deviation over seeds; what was not run is a dash. The paper's numbers: Liao et al. 2026, its
ablations on penn-fudan.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from benchmarks import studies
from benchmarks.blo_cells import EVEN, ORDERS, PARTS, SPLITS, WIDE_WORLD, Row
from benchmarks.omni_study.values import spread

PAPER = {"separate": 53.1, "joint": 56.0, "first": 59.3, "second": 62.2}  # mask AP
PAPER_SPLITS = {EVEN: "59.3"}
PAPER_UNEVEN = (
    "The paper's even split is its best; at a ratio of 4 it has 55.6, and does not say whose images are more."
)
PAPER_PARTS = {"decoder": "59.3"}
PAPER_ENCODER = (
    "The paper's other parts, the image encoder (54.6) and all of SAM (61.2), are not trained here."
)
PAPER_COST = "The paper's training takes 0.51 GPU hours, of 38.66 M parameters in all."
HALVES = ("sam", "detector")  # as `BloInst.fit` names them
JUDGED = (
    *("missed of SAM's half", "of the detector's half", "of the test"),
    *("gap to SAM's half", "gap to the detector's half"),
    *("found of SAM's half", "of the detector's half", "of the test"),
)


def tables(rows: Sequence[Row]) -> str:
    """Markdown: each world's orders and the differences between them, and the splits and parts of one."""
    worlds = dict.fromkeys(row.cell.world for row in rows)
    parts = [part for world in worlds for part in _of_world(world, rows)]
    return "\n\n".join([*parts, *_splits(rows), *_parts(rows)])


def _of_world(world: str, rows: Sequence[Row]) -> Iterator[str]:
    plain = [row for row in rows if row.cell.world == world and row.cell.plain]
    yield _orders(world, plain, _seeds(world, rows))
    yield from _differences(world, plain)
    yield from _parameters(world, plain)
    yield from _implicit(plain)


def _orders(world: str, rows: Sequence[Row], seeds: int) -> str:
    lines = []
    for order in ORDERS:
        own = [row for row in rows if row.cell.order == order]
        aps = (
            [100 * row.AP for row in own],
            [100 * row.AP50 for row in own],
            [100 * row.AP75 for row in own],
        )
        minutes = [_core_minutes(row) for row in own]
        paper = f"{PAPER[order]}" if world == WIDE_WORLD and order in PAPER else "-"
        label = _label(f"`{order}`", own, seeds)
        lines.append((label, *map(spread, aps), *_judged(own), spread(minutes), paper))
    header = ("order", "AP", "AP50", "AP75", *JUDGED, "core minutes", "the paper's AP")
    return studies.markdown(f"{world}, {_counted(seeds)}", header, lines)


def _differences(world: str, rows: Sequence[Row]) -> Iterator[str]:
    """Of AP within a seed, from order to order and over the detector with zero-shot SAM."""
    by_order = {
        order: {row.cell.seed: 100 * row.AP for row in rows if row.cell.order == order} for order in ORDERS
    }
    steps = [(better, worse) for worse, better in pairwise(ORDERS[1:])]
    lines = []
    for better, worse in [*steps, *((order, ORDERS[0]) for order in ORDERS[1:])]:
        more, less = by_order[better], by_order[worse]
        found = [more[seed] - less[seed] for seed in sorted(more.keys() & less.keys())]
        if found:
            known = world == WIDE_WORLD and worse in PAPER
            paper = f"{PAPER[better] - PAPER[worse]:+.1f}" if known else "-"
            held = f"{sum(one > 0 for one in found)} of {len(found)}"
            lines.append((f"`{better}` - `{worse}`", spread(found, signed=True), held, paper))
    if lines:
        header = ("AP within a seed", "difference", "seeds on which it is above 0", "the paper's")
        yield studies.markdown(f"{world}, differences", header, lines)


def _parameters(world: str, rows: Sequence[Row]) -> Iterator[str]:
    """A sentence; the detector alone trains nothing of SAM."""
    trained = next((row.training for row in rows if row.cell.order != ORDERS[0]), None)
    if trained is not None:
        counts = (
            f"{trained['parameters_of_detector']:,} of the detector, {trained['parameters_of_sam']:,} of SAM"
        )
        paper = f" {PAPER_COST}" if world == WIDE_WORLD else ""
        yield f"Trainable parameters: {counts} (`{ORDERS[0]}`: none of SAM).{paper}"


def _implicit(rows: Sequence[Row]) -> Iterator[str]:
    """A sentence: how little or much `second` goes beside `first`."""
    shares = [row.training["implicit_share"] for row in rows if row.cell.order == ORDERS[-1]]
    if shares:
        yield (
            f"`{ORDERS[-1]}`: with the weights that were kept and the learning rates that the training began with, the "
            f"implicit term of the detector's gradient is {spread(shares, digits=5)} of the direct one's length."
        )


def _splits(rows: Sequence[Row]) -> list[str]:
    own = [row for row in _wide(rows) if row.cell.part == PARTS[0]]
    if {row.cell.split for row in own} < set(SPLITS):
        return []
    lines = []
    for split in SPLITS:
        some = [row for row in own if row.cell.split == split]
        label = _label(f"{split / (1 - split):.3g}", some, _seeds(WIDE_WORLD, rows))
        lines.append((label, _ap(some), PAPER_SPLITS.get(split, "-"), *_judged(some)))
    header = ("SAM's images over the detector's", "AP", "the paper's AP", *JUDGED)
    table = studies.markdown(f"{WIDE_WORLD}, `first`, other splits, equal steps", header, lines)
    return [table, PAPER_UNEVEN]


def _parts(rows: Sequence[Row]) -> list[str]:
    own = [row for row in _wide(rows) if row.cell.split == EVEN]
    if {row.cell.part for row in own} < set(PARTS):
        return []
    lines = []
    for part in PARTS:
        some = [row for row in own if row.cell.part == part]
        trained = f"{some[0].training['parameters_of_sam']:,}"
        label = _label(f"`{part}`", some, _seeds(WIDE_WORLD, rows))
        lines.append((label, trained, _ap(some), PAPER_PARTS.get(part, "-"), *_judged(some)))
    header = ("trained part of SAM", "its parameters", "AP", "the paper's AP", *JUDGED)
    return [studies.markdown(f"{WIDE_WORLD}, `first`, other parts", header, lines), PAPER_ENCODER]


def _wide(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.cell.world == WIDE_WORLD and row.cell.order == "first"]


def _ap(rows: Iterable[Row]) -> str:
    return spread(100 * row.AP for row in rows)


def _core_minutes(row: Row) -> float:
    """Of the steps and the one pass of the image encoder; what is judged between the steps does not count."""
    return (row.training["core_seconds"] + row.training["core_seconds_of_embeddings"]) / 60


def _judged(rows: Sequence[Row]) -> tuple[str, ...]:
    """What is missed of each half and of the test, the difference to each half; and what is found.

    The halves are apart, as not every order shows SAM's part both: in `first` and `second` the detector's half is no
    image that it learned from.
    """
    test = [row.missed_in_test for row in rows]
    missed = [[row.training[f"missed_of_{half}"] for row in rows] for half in HALVES]
    gaps = [[new - old for new, old in zip(test, half, strict=True)] for half in missed]
    found = [[row.training[f"found_of_{half}"] for row in rows] for half in HALVES]
    return (
        *(spread(values, digits=3) for values in (*missed, test)),
        *(spread(values, digits=3, signed=True) for values in gaps),
        *(spread(values, digits=2) for values in (*found, [row.found_in_test for row in rows])),
    )


def _seeds(world: str, rows: Iterable[Row]) -> int:
    return len({row.cell.seed for row in rows if row.cell.world == world})


def _counted(seeds: int) -> str:
    return f"{seeds} seed{'' if seeds == 1 else 's'}"


def _label(name: str, rows: Sequence[Row], seeds: int) -> str:
    """With the number of seeds where it is not the world's."""
    return name if len(rows) in (0, seeds) else f"{name}, {_counted(len(rows))}"
