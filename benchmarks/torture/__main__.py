"""Faults put into seeded runs of configs/torture.yaml, each judged by what it leaves (docs/reliability.md).

    python -m benchmarks.torture --n=20 --seed=0 --kind=driver --engine=local       (or: make torture)
    python -m benchmarks.torture --table                                            # of the ledger, as Markdown

`--kind=all` takes all kinds in turn, `--kind=mix` draws them by weight, most of them kills. Trials that the ledger
holds of the same code are not done again, unless they failed. Prints one line at the end; exits 1 if a trial failed.
"""

import argparse
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from benchmarks.torture import faults, kinds, ledger
from benchmarks.torture.data import make_data
from benchmarks.torture.ground import ENGINES, ROOT, Oracle, Trial, make_oracle

LEDGER = ROOT / "docs" / "ledgers" / "torture.jsonl"


def options(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=20, help="trials; default 20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", default="mix", choices=("mix", "all", *kinds.KINDS))
    parser.add_argument("--engine", default="both", choices=("both", *ENGINES))
    parser.add_argument("--ledger", type=Path, default=LEDGER)
    parser.add_argument("--table", action="store_true", help="only print the ledger's table")
    parser.add_argument("--code", action="store_true", help="only print the digest of this code")
    parser.add_argument(
        "--data", type=Path, help="only make the images of configs/torture.yaml, in this folder"
    )
    return parser.parse_args(arguments)


def one(plan: tuple[str, str, int, int], folder: Path, oracle: Oracle, code: str) -> ledger.Row:
    """Do one trial of the code with that digest: (kind, engine, seed, number)."""
    kind, engine, _, number = plan
    draw = random.Random("/".join(map(str, plan)))
    trial = Trial(kind, engine, draw, folder, oracle, number=number)
    began = time.monotonic()
    try:
        kinds.KINDS[kind].act(trial)
    except Exception:  # noqa: BLE001 (a trial that cannot be judged has failed, and the others go on)
        trial.failures.append(traceback.format_exc(limit=-3))
    trial.no_strays()
    seconds = round(time.monotonic() - began, 1)
    trial.keep_or_remove()
    return ledger.Row(code, *plan, trial.kills, trial.redone, seconds, trial.how, tuple(trial.failures))


def main(arguments: list[str] | None = None) -> int:
    """Do the trials that the ledger lacks."""
    asked = options(arguments)
    if asked.data:
        make_data(asked.data)
        return 0
    if asked.table:
        print(ledger.table(ledger.read(asked.ledger)))
        return 0
    code = ledger.code_digest(ROOT)
    if asked.code:
        print(code)
        return 0
    engines = ENGINES if asked.engine == "both" else (asked.engine,)
    plans = list(kinds.plan(asked.kind, engines, asked.seed, asked.n))
    rows = {row.name: row for row in ledger.read(asked.ledger) if row.code == code}
    todo = [plan for plan in plans if plan not in rows or rows[plan].failures]
    base = Path(tempfile.mkdtemp(prefix="ot-", dir="/tmp"))  # short: Ray's sockets lie below it
    if todo:
        make_data(base / "data")
        oracle = make_oracle(base / "oracle", base / "data")
    if todo and asked.kind == "syscalls":  # each point once
        plans = plans[: len(faults.points(base))]
        todo = [plan for plan in todo if plan in plans]
    for number, plan in enumerate(todo):
        row = one(plan, base / str(number), oracle, code)
        ledger.add(asked.ledger, row)
        rows[row.name] = row
        text = "ok" if not row.failures else "FAILED: " + "; ".join(row.failures)
        print(
            f"{'/'.join(map(str, plan))}: {row.kills} {row.how} {row.seconds} s {text}",
            file=sys.stderr,
            flush=True,
        )
    done = [rows[plan] for plan in plans]
    failed = any(row.failures for row in done)
    if failed:
        print(f"the grounds of what failed are kept in {base}", file=sys.stderr)
    else:
        kinds.remove(base)
    print(ledger.summary(done))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
