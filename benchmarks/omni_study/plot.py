"""Student AP against hours of annotation: what a cheap label buys."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.omni_study.cells import FULL, KINDS, PAPER
from benchmarks.omni_study.ledger import Row

MARKERS = dict(zip((*KINDS, "masks"), "ovs^*", strict=True))
SIZE = (6.4, 4.0)  # inches


def draw(rows: Sequence[Row], file: Path, *, world: str = "toyworld") -> None:
    """A line a weak kind over the shares of masks, the full masks as a star; means of the seeds. ValueError without."""
    points: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cell = row.cell
        plain = cell.student == PAPER and cell.teacher == PAPER and (cell.tuned or cell.masks == FULL)
        if cell.world == world and plain and row.AP is not None and row.hours is not None:
            kind = "masks" if cell.masks == FULL else cell.weak
            points[kind][cell.masks].append((row.hours, row.AP))
    if not points:
        raise ValueError(f"no student of {world} in the ledger")
    with mpl.rc_context({"svg.hashsalt": "study"}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for kind in (name for name in MARKERS if name in points):
            means = sorted(
                tuple(map(statistics.fmean, zip(*seeds, strict=True))) for seeds in points[kind].values()
            )
            axes.plot(*zip(*means, strict=True), marker=MARKERS[kind], label=kind)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlabel("annotation hours (cost model)")
        axes.set_ylabel("student mask AP on val")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
