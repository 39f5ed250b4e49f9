"""AM-SAM's claims, checked on the embedded SAM; resumable.

    python -m benchmarks.am_sam --ledger docs/ledgers/am_sam.jsonl --data=DIR            (or: make am-study)
    python -m benchmarks.am_sam --ledger docs/ledgers/am_sam.jsonl --write docs/results.md

Teachers of 4, 8 and 16 masks of human-seg, car-parts and toyworld: plain SAM, one level, BLO-SAM, AM-SAM with and
without its calibration, and what is ours; without boxes, with those of a detector that is tuned on the same masks, and
with those of the truth, an upper bound. Each seed draws other shots, of which more hold the fewer ones; the test images
are the same. `102.jpg` of human-seg is no shot, as it is one of them.

A data set is taken in by `pipeline run`, the fits are made in processes of the study's own, as the features of an image
need to be made only once in each. What is in the ledger, made by the same settings, weights and files, is not made
again. `--write` takes nothing else, and names on standard error what it lacks.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path

import torch
import yaml

from benchmarks import studies
from benchmarks.am_cells import COPIES, SHOTS, WORLDS, Cell, Draw, Row, cells_of, config_of, data_of
from benchmarks.am_fits import Fits
from benchmarks.am_tables import tables
from benchmarks.am_world import Remembering, World
from teachers.sam.load import load_sam
from teachers.sam.predictor import SamPredictor

NAME = "am-sam"  # of its marks in a document


def main(arguments: list[str] | None = None) -> int:
    """Make what is left (1 if a draw failed, after the others), or write the tables."""
    options = _options(arguments)
    rows = [Row.of(line) for line in studies.read_lines(options.ledger)]
    if options.write:
        _write(options, rows)
        return 0
    data = {world: studies.data_digest({"data": data_of(world)}, options.data) for world in options.worlds}
    done = {(row.cell, row.made_by, row.data) for row in rows}
    failed = []
    with ProcessPoolExecutor(options.at_a_time, mp_context=get_context("spawn")) as pool:
        taken = {world: _taken_in(world, options) for world in options.worlds}
        pending = {}
        for draw in _draws(options):
            made = {cell: studies.made_by(config_of(cell, effort=options.effort)) for cell in cells_of(draw)}
            left = {cell: by for cell, by in made.items() if (cell, by, data[draw.world]) not in done}
            if left:
                pending[pool.submit(fits, taken[draw.world], draw, left, options.effort)] = draw
        for future in as_completed(pending):
            draw = pending[future]
            if (error := future.exception()) is not None:
                failed.append(f"{draw}: {error!r}")
                continue
            for row in future.result():
                studies.add_line(options.ledger, asdict(replace(row, data=data[draw.world])))
    sys.stderr.write("".join(f"failed: {line}\n" for line in failed))
    return 1 if failed else 0


def fits(run: Path, draw: Draw, cells: dict[Cell, str], effort: float) -> list[Row]:
    """The rows of some cells of a draw, by what each is made by."""
    torch.set_num_threads(1)
    own = Fits(draw, _world(run, draw.world), _predictor(), effort=effort)
    return [own.row(cell, made_by) for cell, made_by in cells.items()]


@lru_cache(maxsize=1)
def _world(run: Path, name: str) -> World:
    return World.of(run, without=COPIES.get(name, ()))


@lru_cache(maxsize=1)
def _predictor() -> Remembering:
    return Remembering(SamPredictor(load_sam("tiny")))


def _taken_in(world: str, options: argparse.Namespace) -> Path:
    """A run that has taken in a data set, with all masks; it goes on where it was broken off."""
    out: Path = options.out / world
    out.parent.mkdir(parents=True, exist_ok=True)
    config = {
        "name": world,
        "seed": 0,
        "data": data_of(world),
        "weak": "none",
        "masks": "100%",
        "models": {"teacher": {"use": "am_sam", "mode": "blo_sam", "steps": 1}},
        "stages": [{"finetune_teacher": {"model": "teacher"}}],
    }
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "pipeline.cli", "run", str(file), f"--out={out}"]
    command += [f"--store={options.out / '.store'}"]
    command += [f"--data={options.data}"] if options.data else []
    subprocess.run(command, check=True)
    return out


def _draws(options: argparse.Namespace) -> Iterator[Draw]:
    for world in options.worlds:
        for seed in options.seeds:
            yield from (Draw(world, shots, seed) for shots in options.shots)


def _write(options: argparse.Namespace, rows: Sequence[Row]) -> None:
    """The tables of the rows that whole fits would give now."""
    found = studies.newest(options.ledger, rows, lambda row: studies.made_by(config_of(row.cell)))
    there = {row.cell for row in found}
    every = (cell for draw in _draws(options) for cell in cells_of(draw))
    sys.stderr.write("".join(f"missing: {cell.name}\n" for cell in every if cell not in there))
    studies.write(options.write, NAME, tables(found))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--write", type=Path, help="put the ledger's tables into this file; makes nothing")
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--shots", type=int, nargs="+", choices=SHOTS, default=list(SHOTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--effort", type=float, default=1.0, help="share of the epochs, for a quick try")
    parser.add_argument("--data", type=Path, help="the folder of the sets of photographs")
    parser.add_argument("--out", type=Path, default=Path("runs/am-sam"))
    parser.add_argument("--at-a-time", type=int, default=2, help="processes; each has one thread")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
