"""The omni-supervised paper's relative claims, checked on the embedded models; resumable.

    python -m benchmarks.omni_study --ledger docs/ledgers/study.jsonl        (or: make study)
    python -m benchmarks.omni_study --ledger docs/ledgers/study.jsonl --write docs/results.md --plot docs/study.png

Runs each cell of the paper's tables 5, 2 and 4, and what goes past the paper, by `pipeline run` on a config made from
the world's (configs/study.yaml, configs/penn-fudan.yaml, configs/car-parts.yaml), seed after seed. All cells share one
store, so what is equal is made once. A cell that the ledger has, made by the same settings and weights, is not run
again. Photographs (`--worlds penn-fudan car-parts`) need `--data`; the embedded proposer knows few of their classes,
so there are points and boxes only.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import yaml

from benchmarks import studies
from benchmarks.omni_study import ledger
from benchmarks.omni_study.cells import (
    BOX,
    POINT,
    Cell,
    class_branch,
    config_of,
    longer,
    past_the_paper,
    table_2,
    table_4,
    table_5,
)
from benchmarks.omni_study.plot import draw
from benchmarks.omni_study.tables import tables
from benchmarks.studies import Settings

CONFIGS = {
    "toyworld": Path("configs/study.yaml"),
    "penn-fudan": Path("configs/penn-fudan.yaml"),
    "car-parts": Path("configs/car-parts.yaml"),
}
NAME = "study"  # of its marks in a document
PHOTO_SHARES = ("10%",)  # 1% of 74 photos is one


def cells_of(world: str, seed: int) -> list[Cell]:
    """The cells of a world and seed, each once, in the order they are run."""
    if world == "toyworld":
        parts = [
            table_5(world, seed),
            table_2(world, seed),
            table_4(world, seed),
            past_the_paper(world, seed),
            class_branch(world, seed),
            longer(world, seed),
        ]
    else:
        parts = [
            table_5(world, seed, shares=PHOTO_SHARES),
            table_2(world, seed, kinds=(POINT, BOX), shares=PHOTO_SHARES),
        ]
    return list(dict.fromkeys(chain.from_iterable(parts)))


class Study:
    """Runs cells below a folder and writes what they gave into a ledger."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.done = {row.name for row in ledger.read(options.ledger)}
        self.runs = studies.Runs(options.ledger, options.out, options.store, options.data)

    def base(self, world: str) -> Settings:
        """What all cells of a world are made from."""
        base: Settings = yaml.safe_load(CONFIGS[world].read_text(encoding="utf-8"))
        if world == "toyworld":
            base["data"] |= {"train": self.options.train, "val": self.options.val}
        for stage in base["stages"]:
            for settings in stage.values():
                if "steps" in settings:
                    settings["steps"] = max(1, round(settings["steps"] * self.options.effort))
        return base

    def config(self, cell: Cell) -> Settings:
        """What `pipeline run` is given."""
        return config_of(self.base(cell.world), cell)

    def made_by(self, cell: Cell) -> str:
        """What a row of the cell would be made by now."""
        return studies.made_by(self.config(cell))

    def todo(self) -> Iterator[Cell]:
        """The cells that the ledger lacks."""
        for seed in self.options.seeds:
            for world in self.options.worlds:
                for cell in cells_of(world, seed):
                    if (cell.name, self.made_by(cell)) not in self.done:
                        yield cell

    def run(self, cell: Cell) -> bool:
        """One cell; False if its run fails."""
        base = self.base(cell.world)
        return self.runs.one(
            cell.name, config_of(base, cell), lambda out: asdict(ledger.row_of(cell, base, out))
        )


def main(arguments: list[str] | None = None) -> int:
    """Run what is left (1 if a cell failed, after the others), or write the tables and draw the curve of it all."""
    options = _options(arguments)
    study = Study(options)
    if options.write or options.plot:
        rows = studies.newest(
            options.ledger, ledger.read(options.ledger), lambda row: study.made_by(row.cell)
        )
        if options.write:
            studies.write(options.write, NAME, tables(rows))
        if options.plot:
            draw(rows, options.plot)
        return 0
    return studies.run_all(study.todo(), study.run, at_a_time=options.at_a_time)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--write", type=Path, help="put the ledger's tables into this file; runs nothing")
    parser.add_argument("--plot", type=Path, help="draw AP against hours into this PNG; runs nothing")
    parser.add_argument("--worlds", nargs="+", choices=CONFIGS, default=["toyworld"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=600, help="toyworld: scenes to label and learn from")
    parser.add_argument("--val", type=int, default=150, help="toyworld: scenes to score students on")
    parser.add_argument(
        "--effort", type=float, default=1.0, help="share of the training steps, for a quick try"
    )
    parser.add_argument("--data", type=Path, help="the folder of the sets of photographs")
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--store", type=Path, help="default: OUT/.store")
    parser.add_argument("--at-a-time", type=int, default=2, help="runs; each has one thread")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
