"""What a pair of BLO-Inst is worth, and how much of its upper gradient is the implicit term."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from students.blo_bench import Bench
from students.blo_objective import UNKNOWN, missed
from teachers.bilevel import hypergradient
from teachers.targets import labels_of

MOST_JUDGED = 100  # images with objects


@dataclass(frozen=True)
class Judged:
    """What a pair is worth: `missed`, the mean over objects of the loss of their best box's mask, and share `found`.

    ln 2 and 0 where no box found anything, or nothing was there to find.
    """

    missed: float
    found: float


def judge(bench: Bench, places: Sequence[int]) -> Judged:
    """The pair on up to 100 of some images (`blo_objective.missed`); images without objects do not count.

    Each process of a team looks at its own share of them.
    """
    team, pool, index = bench.team, bench.whole.pool, bench.whole.class_index
    shown = (place for place in places if labels_of(pool[place], index).found)
    own = bench.side(tuple(islice(shown, MOST_JUDGED))[team.rank :: team.world])
    sums = torch.zeros(3, dtype=torch.float64, device=bench.device)
    for images in own.in_order():
        sums += sums.new_tensor(missed(bench.pair.sam, images, bench.choice(images)))
    lost, found, objects = team.total(sums).tolist()
    return Judged(lost / objects, found / objects) if objects else Judged(UNKNOWN, 0.0)


def implicit_share(bench: Bench) -> float:
    """Length of the hypergradient's implicit term over the direct one's, for the pair as it is and the first batches.

    How far `second` goes beside `first` at the learning rates that the training begins with.
    """
    lower, upper = bench.levels()
    ((first, second),) = bench.pairs(0, 1)
    choices = bench.choice(first), bench.choice(second)
    found = hypergradient(
        lower, upper, lambda: bench.loss(first, choices[0]), lambda: bench.loss(second, choices[1])
    )
    direct = _length(found.direct)
    return _length(found.implicit) / direct if direct else 0.0


def _length(parts: tuple[Tensor, ...]) -> float:
    return float(torch.stack([part.double().square().sum() for part in parts]).sum().sqrt())
