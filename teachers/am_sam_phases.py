"""How AM-SAM and BLO-SAM are trained: the levels, the losses on the halves, and the judge of an epoch.

In the bi-level modes theta learns from D1, then phi from what that does to D2; in `single_level` both learn from both
halves at once, as many images of each. Each half is gone through in a new order, pass after pass, so that every image
of D2 is used. An epoch is as many steps as show the larger half once. In a team of processes each one's loss is over
its own images and gradients are averaged: near the step of one process, not the same.

Legend: theta, phi as in am_sam_network.py; D1, D2 the halves; places are those of the pool.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.engine.team import Team
from teachers.am_sam_boxes import Question
from teachers.am_sam_data import Truth, mean_dice
from teachers.am_sam_network import AmSamNetwork
from teachers.am_sam_settings import BETAS, POLY, AmSamSettings
from teachers.bilevel import Level, bilevel_step, joint_step
from teachers.detector import DetectorNetwork
from teachers.embedding_cache import EmbeddingCache
from teachers.losses import semantic_loss
from teachers.phases import BestKept, Phase, Watch, mean_loss
from teachers.pool import Halves, drawn

_LOWER, _UPPER = 4, 5  # streams of random numbers: the orders of the halves

Pair = tuple[list[int], list[int]]  # places of D1 and of D2


class Learner(BestKept):
    """The network and what it was at its best epoch; the detector, if one is tuned; the Dice on D2 before each epoch.

    `curve` (judgements,) float64: NaN where it was not judged.
    """

    network: AmSamNetwork
    curve: Tensor

    def __init__(self, network: AmSamNetwork, detector: DetectorNetwork | None, *, judgements: int) -> None:
        super().__init__(network=network)
        self.detector = detector
        self.register_buffer("curve", torch.full((judgements,), torch.nan, dtype=torch.float64))


@dataclass(frozen=True)
class Bench:
    """What a training works with. `truth` and `question` tell of a place what is on it, and what it is asked with.

    `question` None: nothing prompts. `steps` are those of both levels, `epoch` those between two judgements.
    """

    network: AmSamNetwork
    settings: AmSamSettings
    halves: Halves
    cache: EmbeddingCache
    truth: Callable[[int], Truth]
    question: Callable[[int], Question] | None
    epoch: int
    steps: int
    device: str
    seed: int
    team: Team

    def logits(self, places: Sequence[int]) -> Tensor:
        """(len(places), n, 4g, 4g) with gradients."""
        found = self.cache.gather([(place, None) for place in places])
        boxes = None
        if self.question is not None:
            each = [self.question(p).tensor(frame) for p, frame in zip(places, found.frames, strict=True)]
            boxes = torch.stack(each).to(self.device)
        logits: Tensor = self.network(found.features, boxes)
        return logits

    def loss(self, places: Sequence[int]) -> Tensor:
        """L on some images."""
        truth = Truth.of([self.truth(place) for place in places]).to(self.device)
        return semantic_loss(self.logits(places), truth.shares, truth.known, dice=self.settings.dice)

    def levels(self) -> tuple[Level, Level]:
        """Theta's and phi's, with optimisers of their own."""
        theta, phi = self.network.theta(), self.network.phi()
        lower = self._adamw(theta, self.settings.lr)
        upper = self._adamw(phi, self.settings.lr_prompt)
        return Level(theta, lower, team=self.team), Level(phi, upper, team=self.team)

    def pairs(self, first: int, last: int) -> Iterator[Pair]:
        """Our share of a batch of each half for the steps [first, last)."""
        for step in range(first, last):
            yield self._drawn(self.halves.lower, step, _LOWER), self._drawn(self.halves.upper, step, _UPPER)

    @torch.no_grad()
    def dice(self, places: Sequence[int], watch: Watch) -> float:
        """Mean Dice of some images, one at a time.

        Each process of a team looks at its own share of them; all ask `watch` equally often, before each image.
        """
        own = places[self.team.rank :: self.team.world]
        total = torch.zeros(1, dtype=torch.float64, device=self.device)
        for turn, done in enumerate(range(0, len(places), self.team.world)):
            watch(done, len(places))
            for place in own[turn : turn + 1]:
                total += mean_dice(self.logits([place]), self.truth(place).to(self.device))[0]
        return float(self.team.total(total)) / len(places)

    def _drawn(self, half: Sequence[int], step: int, order: int) -> list[int]:
        size = self.settings.batch_size
        found = [half[index] for index in drawn(len(half), step, size, seed=self.seed, order=order)]
        return found[self.team.share(size)]

    def _adamw(self, parameters: Sequence[nn.Parameter], lr: float) -> torch.optim.AdamW:
        decay = self.settings.weight_decay
        return torch.optim.AdamW(parameters, lr=lr, betas=BETAS, weight_decay=decay, foreach=False)


def tuning(bench: Bench, learner: Learner, name: str = "masks", *, first: int = 0) -> Phase:
    """The phase that tunes the network; before each epoch and after the last D2 judges, the first time the `first`-th.

    In `single_level` D2 is learned from, so it chooses no epoch: the last one stays, as SAMed's.
    """
    lower, upper = bench.levels()
    settings, steps = bench.settings, bench.steps

    def step(places: Pair) -> tuple[float, float]:
        first, second = places

        def lower_loss() -> Tensor:
            return bench.loss(first)

        def upper_loss() -> Tensor:
            return bench.loss(second)

        if settings.mode == "single_level":
            found = joint_step(lower, upper, lower_loss, upper_loss)
        else:
            found = bilevel_step(lower, upper, lower_loss, upper_loss, order=settings.order)
        losses = torch.tensor([found.upper, found.lower], device=bench.device)
        return mean_loss(losses[0], bench.team), mean_loss(losses[1], bench.team)

    def judge(epoch: int, watch: Watch) -> bool:
        dice = bench.dice(bench.halves.upper, watch)
        learner.curve[first + epoch] = dice
        if settings.mode != "single_level":
            learner.note(1 - dice, first + epoch)
        return True

    def rate(number: int) -> float:
        return float((1 - number / steps) ** POLY)

    optimizers = [lower.optimizer, upper.optimizer]
    return Phase(name, steps, optimizers, bench.pairs, step, rate, bench.epoch, judge, "D1")
