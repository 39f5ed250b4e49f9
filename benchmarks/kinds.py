"""What each kind of weak label is worth: every kind and 5 seeds through the whole pipeline, without students.

    python -m benchmarks.kinds            (or: make kinds)

Each seed has scenes of its own. Runs `pipeline run configs/kinds.yaml` into runs/kinds/<kind>-<seed>, the zero-shot
teacher on the same points into runs/kinds/zero-shot-<seed>, and trivial baselines on the same prompts (ellipse in the
box; disc of the class's mean area at the point). Writes runs/kinds/metrics.json with mean and spread (standard
deviation over seeds) of the pseudo-mask mIoU, prints it as one JSON line, and exits 1 unless

    none <= class <= point+class <= box+class, points and boxes beat their baselines,
    on points what the gate chose of the tuned teacher is at most SLACK below the zero-shot one.

Finished runs are kept: a second call repeats only what changed.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import TypedDict

from benchmarks.baselines import Run, baselines

KINDS = ("none", "class", "point+class", "box+class")
SEEDS = range(5)
OUT = Path("runs/kinds")
BASELINE_OF = {"point+class": "disc", "box+class": "ellipse"}
ZERO_SHOT = "zero-shot"
SLACK = 0.01  # mIoU: the gate may err by the noise of its few reserved masks
AT_A_TIME = 2  # seeds; a run has one thread


def run_pipeline(config: str, out: Path, *settings: str, weak: str, seed: int) -> Run:
    """One run by the command line a user would type, `settings` as `--set` has them; CalledProcessError if it fails."""
    command = [sys.executable, "-m", "pipeline.cli", "run", config, f"--weak={weak}", f"--out={out}"]
    given = (f"seed={seed}", f"data.seed={seed}", *settings)
    subprocess.run([*command, *(f"--set={one}" for one in given)], check=True)
    return Run.open(out)


class Spread(TypedDict):
    """Mean and standard deviation of a score over the seeds, and the scores."""

    mean: float
    spread: float
    values: list[float]


def spread(values: Sequence[float]) -> Spread:
    """Those of several scores."""
    return Spread(mean=statistics.fmean(values), spread=statistics.stdev(values), values=list(values))


def checks(means: Mapping[str, float]) -> dict[str, bool]:
    """The order that the means must have."""
    ordered = all(means[worse] <= means[better] for worse, better in pairwise(KINDS))
    beaten = {
        f"{kind} above its {trivial}": means[kind] > means[trivial] for kind, trivial in BASELINE_OF.items()
    }
    return {
        "none <= class <= point+class <= box+class": ordered,
        **beaten,
        f"gated at most {SLACK} below zero-shot": means["point+class"] >= means[ZERO_SHOT] - SLACK,
    }


def scores_of(seed: int) -> dict[str, float]:
    """mIoU of every kind, baseline and of the zero-shot teacher on the scenes of one seed."""
    scores = {}
    for kind in KINDS:
        run = run_pipeline("configs/kinds.yaml", OUT / f"{kind}-{seed}", weak=kind, seed=seed)
        scores[kind] = run.miou()
        if kind in BASELINE_OF:
            scores[BASELINE_OF[kind]] = baselines(run, slow=False)[BASELINE_OF[kind]]
    out = OUT / f"{ZERO_SHOT}-{seed}"
    plain = run_pipeline("configs/kinds-zero-shot.yaml", out, weak="point+class", seed=seed)
    return scores | {ZERO_SHOT: plain.miou()}


def main() -> int:
    """Run everything, two seeds at a time, write and print the numbers."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        found = list(pool.map(scores_of, SEEDS))
    scores = {name: [one[name] for one in found] for name in found[0]}
    kinds = {name: spread(values) for name, values in scores.items()}
    passed = checks({name: statistics.fmean(values) for name, values in scores.items()})
    text = json.dumps({"seeds": len(SEEDS), "miou": kinds, "checks": passed})
    (OUT / "metrics.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
