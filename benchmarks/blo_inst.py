"""BLO-Inst's claims, checked on the embedded models; resumable.

    python -m benchmarks.blo_inst --ledger docs/ledgers/blo_inst.jsonl --data=DIR        (or: make blo-study)
    python -m benchmarks.blo_inst --ledger docs/ledgers/blo_inst.jsonl --write docs/results.md

Students of toyworld, penn-fudan and car-parts (the splits of the paper) that learn from all true masks, by each order:
`joint`, `separate`, `first`, `second`, and `none`, the detector alone with zero-shot SAM. On penn-fudan also other
shares of the images for SAM's part, and other parts of SAM that are trained. On toyworld a seed has scenes of its own;
on photographs it varies the training and which images are in which half, not the data.

Beside each AP stands what the pair misses of the images that it learned from and of those that it is scored on
(`BloInst.missed`), of either half apart: the difference is the gap. Each is a `pipeline run`; what is in the ledger,
made by the same settings and weights of the same files, is not run again. What the students of a world and seed have in
common, their detector's training alone, is run once (`blo_cells.Start`). `--write` takes nothing else, and names on
standard error what cells it lacks; without `--data` it asks no more than that a world's rows are of the same files.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks import studies
from benchmarks.blo_cells import WORLDS, Cell, Row, Start, cells_of, config_of, from_start, start_config
from benchmarks.blo_gap import judged_in_test
from benchmarks.blo_tables import tables
from benchmarks.studies import Settings
from pipeline.engine.status import find_results
from teachers.fitted_detector import open_detector

NAME = "blo-inst"  # of its marks in a document


COSTS = ("steps", "seconds", "core_seconds")


def row_of(cell: Cell, made_by: str, run: Path, start: Path) -> Row:
    """What a finished run's files say, and those of its start of what both took."""
    score = _read(run / "metrics.json")["students"]["aligned"]
    training, before = (_training(folder) for folder in (run, start))
    missed, found = judged_in_test(run)
    return Row(
        cell,
        made_by,
        **{name: score[name] for name in ("AP", "AP50", "AP75")},
        training=training | {name: round(training[name] + before[name], 1) for name in COSTS},
        missed_in_test=missed,
        found_in_test=found,
    )


def detector_of(start: Path) -> Path:
    """The file of a start's detector, beside its run."""
    return start.with_suffix(".safetensors")


def write_detector(start: Path) -> None:
    """Write that file, as a student's `detector_weights` has it."""
    (artifact,) = find_results(start, "train_student").values()
    detector, _ = open_detector(artifact)
    save_file(detector.model.state_dict(), detector_of(start))


def main(arguments: list[str] | None = None) -> int:
    """Run what is left (1 if a cell failed, after the others), or write the tables."""
    options = _options(arguments)
    rows = [Row.of(line) for line in studies.read_lines(options.ledger)]
    if options.write:
        _write(options, rows)
        return 0
    torch.set_num_threads(1)  # what is judged here takes no more of the cores that runs are timed on
    done = {(row.cell, row.made_by, row.data) for row in rows}
    data = _digests(options.worlds, options.data)
    runs = studies.Runs(options.ledger, options.out, None, options.data)
    every = [cell for seed in options.seeds for world in options.worlds for cell in cells_of(world, seed)]
    made = {cell: studies.made_by(config_of(cell, effort=options.effort)) for cell in every}
    todo = [cell for cell in every if (cell, made[cell], data[cell.world]) not in done]
    started: dict[Start, Path] = {}

    def start(one: Start) -> bool:
        folder = runs.run(one.name, start_config(one, effort=options.effort))
        if folder is not None:
            write_detector(folder)
            started[one] = folder
        return folder is not None

    def run(cell: Cell) -> bool:
        before = started[cell.start]
        config = from_start(cell, detector_of(before).absolute(), effort=options.effort)
        return runs.one(cell.name, config, _line(cell, made[cell], data[cell.world], before))

    at_a_time = options.at_a_time
    failed = studies.run_all(dict.fromkeys(cell.start for cell in todo), start, at_a_time=at_a_time)
    todo = [cell for cell in todo if cell.start in started]
    return studies.run_all(todo, run, at_a_time=at_a_time) or failed


def _write(options: argparse.Namespace, rows: list[Row]) -> None:
    """The tables of the rows that whole runs would give now."""
    if options.data is not None:
        data = _digests(WORLDS, options.data)
        rows = [row for row in rows if row.data == data[row.cell.world]]
    found = studies.newest(options.ledger, rows, lambda row: studies.made_by(config_of(row.cell)))
    for world in WORLDS:
        if len({row.data for row in found if row.cell.world == world}) > 1:
            sys.exit(
                f"{options.ledger}: rows of {world} were made of different files; say by --data which count"
            )
    there = {row.cell for row in found}
    every = (cell for world in WORLDS for seed in options.seeds for cell in cells_of(world, seed))
    sys.stderr.write("".join(f"missing: {cell.name}\n" for cell in every if cell not in there))
    studies.write(options.write, NAME, tables(found))


def _digests(worlds: Iterable[str], folder: Path | None) -> dict[str, str]:
    """Of the files of each world."""
    return {world: studies.data_digest(config_of(next(cells_of(world, 0))), folder) for world in worlds}


def _line(cell: Cell, made_by: str, data: str, start: Path) -> Callable[[Path], Settings]:
    return lambda run: asdict(replace(row_of(cell, made_by, run, start), data=data))


def _training(run: Path) -> Settings:
    (trained,) = (stage for stage in _read(run / "run.json")["stages"] if stage["label"] == "train_student")
    metrics: Settings = trained["metrics"]
    return metrics


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--write", type=Path, help="put the ledger's tables into this file; runs nothing")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=["toyworld"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--effort", type=float, default=1.0, help="share of the steps, for a quick try")
    parser.add_argument("--data", type=Path, help="the folder of the sets of photographs")
    parser.add_argument("--out", type=Path, default=Path("runs/blo-inst"))
    parser.add_argument("--at-a-time", type=int, default=2, help="runs; each has one thread")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
