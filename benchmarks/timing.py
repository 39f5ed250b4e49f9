"""What the speed benchmarks share: ways to do one thing timed in turns, settings, and the JSON line at the end."""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True)
class Timed(Generic[T]):
    """Wall seconds of each repeat of one way, and what it made in the warm-up."""

    seconds: tuple[float, ...]
    result: T

    @property
    def median(self) -> float:
        """Seconds of the middle repeat."""
        return statistics.median(self.seconds)


def in_turns(ways: Mapping[str, Callable[[], T]], *, repeats: int) -> dict[str, Timed[T]]:
    """Every way once to warm up, then all of them one after the other (A B A B ...), `repeats` times."""
    made = {name: way() for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
        print(f"turn {turn + 1} of {repeats}", file=sys.stderr)
    return {name: Timed(tuple(seconds[name]), made[name]) for name in ways}


def times_faster(slow: Timed[T], fast: Timed[T]) -> float:
    """Ratio of the medians, to three digits."""
    return round3(slow.median / fast.median)


def round3(value: float) -> float:
    """A number to three significant digits, as the lines show them."""
    return float(f"{value:.3g}")


def options(
    about: str | None,
    arguments: Sequence[str] | None,
    *,
    texts: Mapping[str, str] | None = None,
    **numbers: int,
) -> argparse.Namespace:
    """`--repeats=3` for `repeats`, each with its default, and `--threads` (2 unless given), which is set at once."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for name, value in {"threads": 2, **numbers}.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    for name, text in (texts or {}).items():
        parser.add_argument(f"--{name}", default=text, help=f"default {text}")
    found = parser.parse_args(arguments)
    if low := [name for name in (*numbers, "threads") if getattr(found, name) < 1]:
        parser.error(f"--{low[0]}: expected at least 1")
    use_threads(found.threads)
    return found


def use_threads(count: int) -> None:
    """One number of threads for torch and for what hotcoco does, which looks at it once, before its first work."""
    import torch

    os.environ["RAYON_NUM_THREADS"] = str(count)
    torch.set_num_threads(count)


def finish(benchmark: str, numbers: Mapping[str, Json], checks: Mapping[str, bool]) -> int:
    """Print the line; 0 if every check holds, else 1."""
    print(json.dumps({"benchmark": benchmark, **numbers, "checks": dict(checks)}))
    return 0 if all(checks.values()) else 1
