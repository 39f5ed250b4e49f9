"""Student AP against hours of annotation: what a cheap label buys."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.omni_study.cells import FULL, KINDS, SHARES
from benchmarks.omni_study.ledger import Row, hours
from benchmarks.omni_study.values import STUDENT, Choice, ap, by_seed, in_hours

MARKERS = dict(zip((*KINDS, "masks"), "ovs^*", strict=True))
SIZE = (6.4, 4.0)  # inches


def draw(rows: Sequence[Row], file: Path, *, world: str = "toyworld") -> None:
    """A line a weak kind over the shares of masks, the full masks as a star: means of the seeds, bars their spread.

    ValueError if no student of the world has both an AP and a price.
    """
    own = [row for row in rows if row.cell.world == world]
    points: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for kind, choice in _choices():
        price = by_seed(own, in_hours(hours(own)), choice)
        found = by_seed(own, ap, choice)
        if seeds := price.keys() & found.keys():
            values = [found[seed] for seed in seeds]
            error = statistics.stdev(values) if len(values) > 1 else 0.0
            points[kind].append((statistics.fmean(price[s] for s in seeds), statistics.fmean(values), error))
    if not points:
        raise ValueError(f"no student of {world} in the ledger")
    with mpl.rc_context({"svg.hashsalt": "study"}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for kind, line in points.items():
            cost, mean, error = zip(*sorted(line), strict=True)
            axes.errorbar(cost, mean, yerr=error, marker=MARKERS[kind], capsize=2, label=kind)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlabel("annotation hours (cost model)")
        axes.set_ylabel("student mask AP on val")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def _choices() -> list[tuple[str, Choice]]:
    """What each point of each line is of."""
    weak = [(kind, {**STUDENT, "weak": kind, "masks": masks}) for kind in KINDS for masks in SHARES]
    return [*weak, ("masks", {"masks": FULL, "long": False})]
