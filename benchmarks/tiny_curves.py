"""The losses of the embedded models' trainings, from the logs that they leave.

    python -m benchmarks.tiny_curves docs/ledgers/tiny-*.jsonl --out docs/tiny-family.png

A panel a log, named as its file: the loss and its parts over the steps, each value a mean over the steps since the one
before. The steps of a training's later stages follow those of the earlier ones.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

PANEL = (4.0, 3.0)  # inches
APART = ("step", "seconds", "lr")
SMOOTH = 8  # lines of a log that a point is the mean of


def read(path: Path) -> list[dict[str, float]]:
    """The lines of a log, the steps of later stages counted on."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    before = last = 0.0
    for line in lines:
        if line["step"] <= last:
            before += last
        last = line["step"]
        line["step"] += before
    return lines


def curves(lines: Sequence[Mapping[str, float]]) -> dict[str, tuple[list[float], list[float]]]:
    """Steps and smoothed values of each part, in the order of their first lines."""
    names = dict.fromkeys(name for line in lines for name in line if name not in APART)
    found = {}
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line]
        groups = [points[k : k + SMOOTH] for k in range(0, len(points), SMOOTH)]
        found[name] = (
            [group[-1][0] for group in groups],
            [sum(value for _, value in group) / len(group) for group in groups],
        )
    return found


def draw(logs: Sequence[Path], out: Path) -> None:
    """Write the picture of all logs."""
    figure = Figure(figsize=(PANEL[0] * len(logs), PANEL[1]), layout="constrained")
    for axes, log in zip(figure.subplots(1, len(logs), squeeze=False)[0], logs, strict=True):
        for name, (steps, values) in curves(read(log)).items():
            axes.plot(steps, values, label=name, linewidth=1.2 if name == "loss" else 0.8)
        axes.set_title(log.stem)
        axes.set_xlabel("step")
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    figure.savefig(out, dpi=110)


def main() -> int:
    """Draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    draw(asked.logs, asked.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
