"""BLO-Inst's claims, checked on the embedded models; resumable.

    python -m benchmarks.blo_inst --ledger docs/ledgers/blo_inst.jsonl --data=DIR        (or: make blo-study)
    python -m benchmarks.blo_inst --ledger docs/ledgers/blo_inst.jsonl --write docs/results.md

Students of toyworld, penn-fudan and car-parts (the splits of the paper) that learn from all true masks, by each order:
`joint`, `separate`, `first`, `second`, and `none`, the detector alone with zero-shot SAM. On penn-fudan also other
shares of the images for SAM's part, and other parts of SAM that are trained. Beside each AP stands what the pair misses
of the images that it learned from and of those that it is scored on (`BloInst.missed`): their difference is the gap.
Each is a `pipeline run`; what is in the ledger is not run again.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import studies
from benchmarks.blo_gap import missed_in_test
from benchmarks.omni_study.values import spread
from benchmarks.studies import Settings

NAME = "blo-inst"  # of its marks in a document
WORLDS: dict[str, Settings] = {
    "toyworld": {"source": "toyworld", "train": 200, "val": 100},
    "penn-fudan": {},
    "car-parts": {},
}
ORDERS = ("none", "separate", "joint", "first", "second")
EVEN = 0.5
SPLITS = (0.2, 1 / 3, EVEN, 2 / 3, 0.8)  # SAM's images over the detector's: 1/4, 1/2, 1, 2, 4
PARTS = ("decoder", "prompt_encoder", "both")
WIDE_WORLD = "penn-fudan"  # where splits and parts are compared
EPOCHS = {"toyworld": 10, "penn-fudan": 20, "car-parts": 8}
PRETRAIN_EPOCHS = {"toyworld": 20, "penn-fudan": 60, "car-parts": 20}
PAPER = {"separate": 53.1, "joint": 56.0, "first": 59.3, "second": 62.2}  # mask AP on penn-fudan


@dataclass(frozen=True)
class Cell:
    """One student. `split`: share of the images that SAM's part learns from; `part`: what of SAM that is."""

    world: str
    seed: int
    order: str
    split: float = EVEN
    part: str = PARTS[0]

    @property
    def plain(self) -> bool:
        """Whether it differs from others in its order alone."""
        return self.split == EVEN and self.part == PARTS[0]

    @property
    def name(self) -> str:
        """A folder's name; no other cell has it."""
        words = [self.world, str(self.seed), self.order]
        words += [] if self.split == EVEN else [f"{self.split:.2f}"]
        return "-".join(words if self.part == PARTS[0] else [*words, self.part])


def cells_of(world: str, seed: int) -> Iterator[Cell]:
    """The cells of a world and seed, in the order they are run."""
    yield from (Cell(world, seed, order) for order in ORDERS)
    if world == WIDE_WORLD:
        yield from (Cell(world, seed, "first", split) for split in SPLITS if split != EVEN)
        yield from (Cell(world, seed, "first", part=part) for part in PARTS[1:])


def config_of(cell: Cell, *, effort: float = 1.0) -> Settings:
    """What `pipeline run` is given; `effort`: share of the epochs, for a quick try."""

    def share(epochs: int) -> int:
        return max(1, round(epochs * effort))

    student: Settings = {
        "use": "blo_inst",
        "split": cell.split,
        "part": cell.part,
        "pretrain_epochs": share(PRETRAIN_EPOCHS[cell.world]),
        "epochs": 0 if cell.order == "none" else share(EPOCHS[cell.world]),
    }
    if cell.order != "none":
        student["order"] = cell.order
    return {
        "name": cell.name,
        "seed": cell.seed,
        "data": _data(cell),
        "weak": "box+class",
        "masks": "100%",
        "torch_threads": 1,
        "models": {"aligned": student},
        "stages": [{"train_student": {"model": "aligned"}}, {"evaluate": {}}],
    }


def _data(cell: Cell) -> Settings:
    if cell.world == "toyworld":
        return {**WORLDS[cell.world], "seed": cell.seed}
    folder = cell.world
    return {
        "source": "coco",
        "json": f"{folder}/train.json",
        "images": f"{folder}/images",
        "val_json": f"{folder}/test.json",
    }


def row_of(cell: Cell, made_by: str, run: Path) -> Settings:
    """What a finished run's files say."""
    score = _read(run / "metrics.json")["students"]["aligned"]
    (trained,) = (stage for stage in _read(run / "run.json")["stages"] if stage["label"] == "train_student")
    return {
        "cell": asdict(cell),
        "made_by": made_by,
        **{name: score[name] for name in ("AP", "AP50", "AP75")},
        "training": trained["metrics"],
        "missed_in_test": missed_in_test(run),
    }


def tables(rows: Sequence[Settings]) -> str:
    """Markdown: each world's orders, and the splits and parts of one."""
    worlds = dict.fromkeys(row["cell"]["world"] for row in rows)
    found = [_orders(world, [row for row in rows if row["cell"]["world"] == world]) for world in worlds]
    return "\n\n".join([*found, *_splits(rows), *_parts(rows)])


def _orders(world: str, rows: Sequence[Settings]) -> str:
    even = [row for row in rows if Cell(**row["cell"]).plain]
    lines = []
    for order in ORDERS:
        own = [row for row in even if row["cell"]["order"] == order]
        gained = _gains(even, order)
        lines.append(
            (
                f"`{order}`",
                *(spread([100 * row[name] for row in own]) for name in ("AP", "AP50", "AP75")),
                spread(gained, signed=True) if order != "none" else "",
                *_gap(own),
                spread([row["training"]["seconds"] / 60 for row in own]),
                f"{PAPER[order]}" if world == WIDE_WORLD and order in PAPER else "-",
            )
        )
    gap = ("missed in training", "in test", "gap")
    header = (
        "order",
        "AP",
        "AP50",
        "AP75",
        "AP over `none`'s",
        *gap,
        "minutes of one core",
        "the paper's AP",
    )
    return studies.markdown(f"{world}, {len({row['cell']['seed'] for row in rows})} seeds", header, lines)


def _gap(rows: Sequence[Settings]) -> tuple[str, str, str]:
    """What is missed of the images learned from (the mean of the halves), of the others, and the difference."""
    trained = [(row["training"]["missed_of_sam"] + row["training"]["missed_of_detector"]) / 2 for row in rows]
    tested = [row["missed_in_test"] for row in rows]
    gaps = [test - train for train, test in zip(trained, tested, strict=True)]
    return (
        spread(trained, digits=3),
        spread(tested, digits=3),
        spread(gaps, signed=True, digits=3),
    )


def _gains(rows: Sequence[Settings], order: str) -> list[float]:
    """AP over that of the detector with zero-shot SAM, on each seed that has both."""
    by_seed = {
        name: {row["cell"]["seed"]: 100 * row["AP"] for row in rows if row["cell"]["order"] == name}
        for name in ("none", order)
    }
    both = sorted(by_seed["none"].keys() & by_seed[order].keys())
    return [by_seed[order][seed] - by_seed["none"][seed] for seed in both]


def _splits(rows: Sequence[Settings]) -> list[str]:
    own = [row for row in _wide(rows) if row["cell"]["part"] == PARTS[0]]
    if {row["cell"]["split"] for row in own} < set(SPLITS):
        return []
    lines = []
    for split in SPLITS:
        some = [row for row in own if row["cell"]["split"] == split]
        ap = spread([100 * row["AP"] for row in some])
        lines.append((f"{split / (1 - split):.3g}", ap, *_gap(some)))
    header = ("SAM's images over the detector's", "AP", "missed in training", "in test", "gap")
    return [studies.markdown(f"{WIDE_WORLD}, `first`, other splits", header, lines)]


def _parts(rows: Sequence[Settings]) -> list[str]:
    own = [row for row in _wide(rows) if row["cell"]["split"] == EVEN]
    if {row["cell"]["part"] for row in own} < set(PARTS):
        return []
    lines = []
    for part in PARTS:
        some = [row for row in own if row["cell"]["part"] == part]
        trained = some[0]["training"]["parameters_of_sam"]
        ap = spread([100 * row["AP"] for row in some])
        lines.append((f"`{part}`", f"{trained:,}", ap, *_gap(some)))
    header = ("trained part of SAM", "its parameters", "AP", "missed in training", "in test", "gap")
    return [studies.markdown(f"{WIDE_WORLD}, `first`, other parts", header, lines)]


def _wide(rows: Sequence[Settings]) -> list[Settings]:
    return [row for row in rows if row["cell"]["world"] == WIDE_WORLD and row["cell"]["order"] == "first"]


def newest(rows: Sequence[Settings]) -> list[Settings]:
    """Of each cell the row that was made last."""
    return list({tuple(row["cell"].values()): row for row in rows}.values())


def main(arguments: list[str] | None = None) -> int:
    """Run what is left (1 if a cell failed, after the others), or write the tables."""
    options = _options(arguments)
    rows = studies.read_lines(options.ledger)
    if options.write:
        studies.write(options.write, NAME, tables(newest(rows)))
        return 0
    done = {(Cell(**row["cell"]), row["made_by"]) for row in rows}
    runs = studies.Runs(options.ledger, options.out, None, options.data)
    every = [cell for seed in options.seeds for world in options.worlds for cell in cells_of(world, seed)]
    made = {cell: studies.made_by(config_of(cell, effort=options.effort)) for cell in every}
    todo = [cell for cell in every if (cell, made[cell]) not in done]

    def run(cell: Cell) -> str | None:
        config = config_of(cell, effort=options.effort)
        return runs.one(cell.name, config, _row(cell, made[cell]))

    return studies.run_all(todo, run, at_a_time=options.at_a_time)


def _row(cell: Cell, made_by: str) -> Callable[[Path], Settings]:
    return lambda run: row_of(cell, made_by, run)


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
    parser.add_argument("--effort", type=float, default=1.0, help="share of the epochs, for a quick try")
    parser.add_argument("--data", type=Path, help="the folder of the sets of photographs")
    parser.add_argument("--out", type=Path, default=Path("runs/blo-inst"))
    parser.add_argument("--at-a-time", type=int, default=2, help="runs; each has one thread")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
