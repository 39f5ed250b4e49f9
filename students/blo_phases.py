"""What BLO-Inst's phases are in each of its four orders (Liao et al. 2026, sec. 3.3 and its ablations).

The detector alone on all images first, in every order. Then `first` and `second`: SAM's part learns from one half of
the images, the detector from the other; `joint`: both from both halves at once; `separate`: the detector alone, for as
many steps, and then SAM's part on the boxes of the frozen detector; without a weight of L_seg the detector alone.

All orders give each level as many updates, of as many images each; in `joint` each update is of both batches. In a team
of processes each one's losses are over the number of its own objects, and gradients are averaged: near the step of one
process, not the same.

Legend: theta SAM's trained part, phi the detector, D1 and D2 the halves.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from pipeline.engine.team import Team
from students import blo_settings as numbers
from students.blo_data import Halves, Side, detector_targets, square_pixels
from students.blo_objective import (
    UNKNOWN,
    Choice,
    Images,
    Keeping,
    Weights,
    choose,
    losses,
    mask_loss,
    missed,
    total,
)
from students.blo_settings import BloInstSettings
from students.blo_trainer import Pair, Phase
from students.pool import Loader
from students.targets import labels_of
from teachers.bilevel import Level, bilevel_step, joint_step
from teachers.detector import Targets
from teachers.embedding_cache import EmbeddingCache

MOST_JUDGED = 100  # images of D2 with objects that an epoch is judged by
WARMUP = 50  # steps of the detector's own training
_MAX_THREADS = 16

Seen = tuple[Tensor, tuple[Targets, ...]]  # images (B, 3, S, S) and the objects of each


@dataclass(frozen=True)
class Bench:
    """What a training works with. `jittered` draws parts of images for the detector alone, `whole` whole images."""

    pair: Pair
    settings: BloInstSettings
    halves: Halves
    jittered: Loader
    whole: Loader
    cache: EmbeddingCache
    device: str

    @property
    def team(self) -> Team:
        return self.whole.team

    @property
    def everything(self) -> tuple[int, ...]:
        """All places in the pool."""
        return tuple(range(len(self.whole.pool)))

    def side(self, places: tuple[int, ...], *, upper: bool = False) -> Side:
        """Batches of some of the images, for one of the levels."""
        return Side.of(self.whole, places, self.cache, device=self.device, upper=upper)

    def epoch(self, images: int) -> int:
        """Steps in which so many images are seen once."""
        return -(-images // self.settings.batch_size)

    @property
    def steps(self) -> int:
        """Of both levels."""
        return self.settings.steps or self.settings.epochs * self.aligned_epoch

    @property
    def aligned_epoch(self) -> int:
        """Steps in which the larger half is seen once."""
        return self.epoch(max(len(self.halves.lower), len(self.halves.upper)))

    def loss(self, images: Images, choice: Choice) -> Tensor:
        """L of eq. 1."""
        own = self.settings
        weights = Weights(own.box, own.obj, own.cls, own.seg)
        return total(losses(self.pair.detector, self.pair.sam, images, choice, weights))

    def segmenting(self, images: Images, choice: Choice) -> Tensor:
        """All of L that depends on theta, for the boxes as they were chosen."""
        return self.settings.seg * mask_loss(self.pair.sam, images, choice, choice.boxes)

    def choice(self, images: Images) -> Choice:
        """What stays fixed in a step on these images."""
        keeping = Keeping(self.settings.confidence, self.settings.overlap, numbers.PROMPT_MOST)
        return choose(self.pair.detector, images, keeping, match=self.settings.match)

    def levels(self) -> tuple[Level, Level]:
        """Theta's and phi's, with optimisers of their own."""
        theta = tuple(self.pair.sam.trained().values())
        phi = tuple(self.pair.detector.parameters())
        lower = _sgd(theta, self.settings.lr_sam, decay=0.0)
        upper = _sgd(phi, self.settings.lr_detector, decay=numbers.WEIGHT_DECAY)
        return (
            Level(theta, lower, numbers.CLIP, self.team),
            Level(phi, upper, numbers.CLIP, self.team),
        )


def phases(bench: Bench) -> list[Phase]:
    """In their order."""
    own = bench.settings
    found = [_pretraining(bench)] if own.pretrain_epochs else []
    if not bench.steps:
        return found
    return [*found, *(_separate(bench) if own.order == "separate" else [_aligned(bench)])]


def _pretraining(bench: Bench) -> Phase:
    """The detector alone, on parts of all images."""
    epoch = bench.epoch(len(bench.whole.pool))
    steps = bench.settings.pretrain_epochs * epoch
    phi = tuple(bench.pair.detector.parameters())
    optimizer = torch.optim.AdamW(phi, lr=bench.settings.pretrain_lr, weight_decay=numbers.PRETRAIN_DECAY)
    level = Level(phi, optimizer, numbers.CLIP, bench.team)

    def rate(step: int) -> float:
        warm = min((step + 1) / min(WARMUP, steps), 1.0)
        return warm * 0.5 * (1 + math.cos(math.pi * step / steps))

    def draw(first: int, last: int) -> Iterator[Seen]:
        for batch in bench.jittered.batches(first, last, threads=_threads()):
            there = batch.to(bench.device)
            yield square_pixels(there), detector_targets(there)

    return Phase("detector", steps, [optimizer], draw, _detecting(bench, level), rate, epoch)


def _separate(bench: Bench) -> list[Phase]:
    """The detector for as many steps as theta, then theta on the boxes of the frozen detector; both on all images.

    Without a weight of L_seg theta has nothing to learn, and there is no second phase.
    """
    lower, upper = bench.levels()
    side = bench.side(bench.everything)
    epoch, steps = bench.aligned_epoch, bench.steps

    def segment(images: Images) -> float:
        loss = bench.segmenting(images, bench.choice(images))
        lower.apply(lower.gradient(loss))
        return _mean(loss, bench.team)

    def draw(first: int, last: int) -> Iterator[Images]:
        return side.batches(first, last, threads=_threads())

    def seen(first: int, last: int) -> Iterator[Seen]:
        return ((images.pixels, images.targets) for images in draw(first, last))

    rate = _falling(steps, epoch)
    alone = Phase("alone", steps, [upper.optimizer], seen, _detecting(bench, upper), rate, epoch)
    if not bench.settings.seg:
        return [alone]
    return [alone, Phase("segmenter", steps, [lower.optimizer], draw, segment, rate, epoch, _judging(bench))]


def _aligned(bench: Bench) -> Phase:
    """Theta on D1 and phi on D2, or both on both."""
    lower, upper = bench.levels()
    sides = bench.side(bench.halves.lower), bench.side(bench.halves.upper, upper=True)
    epoch, steps = bench.aligned_epoch, bench.steps
    order = bench.settings.order

    def step(batch: tuple[Images, Images]) -> float:
        first, second = batch
        choices = bench.choice(first), bench.choice(second)

        def lower_loss() -> Tensor:
            loss = bench.segmenting if order == "first" else bench.loss
            return loss(first, choices[0])

        def upper_loss() -> Tensor:
            return bench.loss(second, choices[1])

        if order == "first" or order == "second":
            found = bilevel_step(lower, upper, lower_loss, upper_loss, order=order)
        else:
            found = joint_step(lower, upper, lower_loss, upper_loss)
        # All of L on D2, in each order; on D1 `first` asks for L_seg alone.
        return _mean(torch.tensor(found.upper, device=bench.device), bench.team)

    def draw(first: int, last: int) -> Iterator[tuple[Images, Images]]:
        return zip(*(side.batches(first, last, threads=_threads()) for side in sides), strict=True)

    optimizers = [lower.optimizer, upper.optimizer]
    return Phase("aligned", steps, optimizers, draw, step, _falling(steps, epoch), epoch, _judging(bench))


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


def _judging(bench: Bench) -> Callable[[int], bool]:
    """Note how good the pair is on images of D2; False once it was not better for `patience` epochs.

    While no object is found there is nothing to compare, and the training goes on.
    """

    def go_on(epoch: int) -> bool:
        judged = judge(bench, bench.halves.upper)
        if judged.found:
            bench.pair.note(judged.missed, epoch)
        best, patience = int(bench.pair.best_epoch), bench.settings.patience
        return not patience or best < 0 or epoch - best < patience

    return go_on


def _detecting(bench: Bench, level: Level) -> Callable[[Seen], float]:
    """A step of the detector on its own losses."""
    own, detector = bench.settings, bench.pair.detector

    def step(seen: Seen) -> float:
        pixels, targets = seen
        raw = detector.predict(pixels)
        parts = detector.losses(raw, targets, detector.assign(raw, targets))
        loss = own.box * parts["box"] + own.obj * parts["obj"] + own.cls * parts["cls"]
        level.apply(level.gradient(loss))
        return _mean(loss, bench.team)

    return step


def _falling(steps: int, epoch: int) -> Callable[[int], float]:
    """From 1 in the first epoch to a tenth in the last."""
    last = max(-(-steps // epoch) - 1, 1)
    return lambda step: 1 - (1 - numbers.LAST_RATE) * min(step // epoch / last, 1)


def _sgd(parameters: Sequence[nn.Parameter], lr: float, *, decay: float) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=lr, momentum=numbers.MOMENTUM, nesterov=True, weight_decay=decay)


def _mean(loss: Tensor, team: Team) -> float:
    return float(team.total(loss.detach())) / team.world


def _threads() -> int:
    return min(os.cpu_count() or 1, _MAX_THREADS)
