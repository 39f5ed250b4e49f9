"""What the models of the tiny family are worth on unseen scenes, over several seeds."""

import statistics
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from teachers.tiny.command import Options, export, restore, say

EVALUATIONS, SEED_STEP = 3, 100_000  # how many seeds are scored on, and how far each is from the next


def score_weights(
    model: nn.Module, options: Options, *, name: str, evaluate: Callable[[int], dict[str, float]]
) -> None:
    """Give the model the weights that are asked for, say what `evaluate(seed)` gives, export them if that is asked.

    `name`: of the embedded weights. BadInput if there are no weights, or another model's.
    """
    restore(model, options, name)
    seeds = range(options.evaluation_seed, options.evaluation_seed + EVALUATIONS * SEED_STEP, SEED_STEP)
    found = over_seeds([evaluate(seed) for seed in seeds])
    say(found)
    if options.export is not None:
        export(options, name, found)


def over_seeds(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Counts (whole numbers) are summed; of all else the mean, and as NAME_spread the standard deviation."""
    found: dict[str, float] = {}
    for name, first in runs[0].items():
        values = [run[name] for run in runs]
        if isinstance(first, int):
            found[name] = sum(values)
        else:
            found[name] = round(statistics.fmean(values), 4)
            found[f"{name}_spread"] = round(statistics.stdev(values), 4)
    return found
