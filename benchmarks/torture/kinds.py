"""The table of kinds: what each does, on which engines, and how often a mixed series takes it."""

import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.torture import content, faults, kills, sharing
from benchmarks.torture.ground import ENGINES, LOCAL, RAY, Trial


@dataclass(frozen=True)
class Kind:
    """`act` does a trial; `weight`: its share of a mixed series."""

    act: Callable[[Trial], None]
    weight: int = 1
    engines: tuple[str, ...] = ENGINES


KINDS = {
    "driver": Kind(kills.driver, 6),
    "worker": Kind(kills.worker, 6),
    "raylet": Kind(kills.raylet, 2, (RAY,)),
    "frozen": Kind(kills.frozen),
    "orphans": Kind(kills.orphans),
    "signals": Kind(kills.signals, 2),
    "syscalls": Kind(faults.syscalls, 0, (LOCAL,)),
    "disk": Kind(faults.disk),
    "poison": Kind(content.poison),
    "bitflips": Kind(content.bitflips),
    "changed": Kind(content.changed),
    "two": Kind(sharing.two),
    "raylets": Kind(sharing.raylets, 1, (RAY,)),
}


def plan(kind: str, engines: Sequence[str], seed: int, count: int) -> Iterator[tuple[str, str, int, int]]:
    """The trials of a series, each as (kind, engine, seed, number): the same ones for the same arguments."""
    all_of = [
        (name, engine, entry.weight)
        for name, entry in KINDS.items()
        for engine in engines
        if engine in entry.engines and kind in ("mix", "all", name)
    ]
    if not all_of:
        raise SystemExit(f"--kind={kind}: not on this engine")
    draw = random.Random(seed)
    for number in range(count):
        if kind == "mix":
            ((name, engine, _),) = draw.choices(all_of, [weight for *_, weight in all_of])
        else:
            name, engine, _ = all_of[number % len(all_of)]
        yield name, engine, seed, number


def remove(folder: Path) -> None:
    """Remove a series' ground."""
    shutil.rmtree(folder, ignore_errors=True)
