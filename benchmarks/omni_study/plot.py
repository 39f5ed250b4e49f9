"""Student AP against hours of annotation: what a cheap label buys."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.omni_study.cells import FULL, KINDS, SHARES
from benchmarks.omni_study.ledger import Row, hours
from benchmarks.omni_study.values import STUDENT, Choice, ap, by_seed, in_hours, shares_of_full

MARKERS = dict(zip((*KINDS, "masks"), "ovs^*", strict=True))
SIZE = (9.6, 4.0)  # inches
BySeed = Callable[[Sequence[Row], Choice], dict[int, float]]
# Scenes differ by seed, and AP with them; a share of the same seed's full masks does not.
PANELS: Mapping[str, BySeed] = MappingProxyType(
    {
        "student mask AP on val": lambda rows, choice: by_seed(rows, ap, choice),
        "% of the AP of full masks": shares_of_full,
    }
)


def draw(rows: Sequence[Row], file: Path, *, world: str = "toyworld") -> None:
    """A line a weak kind over the shares of masks, the full masks as a star: means of the seeds, bars their spread.

    ValueError if no student of the world has both an AP and a price.
    """
    own = [row for row in rows if row.cell.world == world]
    with mpl.rc_context({"svg.hashsalt": "study"}):
        figure = Figure(figsize=SIZE, layout="constrained")
        for axes, (label, values) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
            if not _lines(axes, own, values):
                raise ValueError(f"no student of {world} in the ledger")
            axes.set_ylabel(label)
        axes.legend()
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def _lines(axes: Axes, rows: Sequence[Row], values: BySeed) -> int:
    """Draws what there is of each kind; how many lines."""
    drawn, price_of = 0, in_hours(hours(rows))
    for kind, choices in _choices().items():
        line = []
        for choice in choices:
            price, found = by_seed(rows, price_of, choice), values(rows, choice)
            if seeds := price.keys() & found.keys():
                of_seeds = [found[seed] for seed in seeds]
                error = statistics.stdev(of_seeds) if len(of_seeds) > 1 else 0.0
                line.append((statistics.fmean(price[s] for s in seeds), statistics.fmean(of_seeds), error))
        if line:
            cost, mean, error_bars = zip(*sorted(line), strict=True)
            axes.errorbar(cost, mean, yerr=error_bars, marker=MARKERS[kind], capsize=2, label=kind)
            drawn += 1
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlabel("annotation hours (cost model)")
    axes.grid(alpha=0.3)
    return drawn


def _choices() -> dict[str, list[Choice]]:
    """What each point of each line is of."""
    weak: dict[str, list[Choice]] = {
        kind: [{**STUDENT, "weak": kind, "masks": masks} for masks in SHARES] for kind in KINDS
    }
    return {**weak, "masks": [{"masks": FULL, "long": False}]}
