"""What a pair of BLO-Inst is worth, and how much of its upper gradient is the implicit term."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from students.blo_bench import Bench
from students.blo_objective import UNKNOWN, missed
from teachers.bilevel import hypergradient
from teachers.phases import Watch
from teachers.targets import labels_of

MOST_JUDGED = 100  # images with objects
_PARTS = 10**6  # of a score, as teams compare whole numbers


@dataclass(frozen=True)
class Judged:
    """What a pair is worth: `missed`, the mean over objects of the loss of their best box's mask, and share `found`.

    ln 2 and 0 where no box found anything, or nothing was there to find. An object counts as much as its mask is
    trusted, if the settings trust. `surest`: the highest score that the detector gave anything, kept or not.
    """

    missed: float
    found: float
    surest: float = 0.0


def judge(bench: Bench, places: Sequence[int], watch: Watch) -> Judged:
    """The pair on up to 100 of some images (`blo_objective.missed`); images without objects do not count.

    Each process of a team looks at its own share of them; all ask `watch` equally often, before each batch.
    """
    team, pool, index = bench.team, bench.whole.pool, bench.whole.class_index
    shown = tuple(islice((p for p in places if labels_of(pool[p], index).found), MOST_JUDGED))
    own = bench.side(shown[team.rank :: team.world])
    batches, surest = own.in_order(), 0.0
    sums = torch.zeros(3, dtype=torch.float64, device=bench.device)
    turn = bench.settings.batch_size * team.world  # images of a batch of each process
    for done in range(0, len(shown), turn):
        watch(done, len(shown))
        for images in islice(batches, 1):
            choice = bench.choice(images)
            sums += sums.new_tensor(missed(bench.pair.sam, images, choice))
            surest = max(surest, choice.surest)
    lost, found, objects = team.total(sums).tolist()
    surest = team.most(round(surest * _PARTS)) / _PARTS
    return Judged(lost / objects, found / objects, surest) if objects else Judged(UNKNOWN, 0.0, surest)


def implicit_share(bench: Bench) -> float:
    """Length of the hypergradient's implicit term over the direct one's, for the pair as it is and the first batches.

    How far `second` goes beside `first` with such a pair, at the learning rates that a training begins with.
    """
    lower, upper = bench.levels()
    ((first, second),) = bench.pairs(0, 1)
    choices = bench.choice(first), bench.choice(second)
    found = hypergradient(
        lower, upper, lambda: bench.coupling(first, choices[0]), lambda: bench.loss(second, choices[1])
    )
    direct = _length(found.direct)
    return _length(found.implicit) / direct if direct else 0.0


def _length(parts: tuple[Tensor, ...]) -> float:
    return float(torch.stack([part.double().square().sum() for part in parts]).sum().sqrt())
