"""What a training of BLO-Inst works with: the pair, its data, and the losses and levels that its settings make of them.

Legend: theta SAM's trained part, phi the detector, D1 and D2 the halves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.engine.team import Team
from students import blo_settings as numbers
from students.blo_data import Side
from students.blo_objective import (
    Choice,
    Images,
    Keeping,
    Weights,
    boxes_loss,
    choose,
    losses,
    mask_loss,
    total,
)
from students.blo_pair import Pair
from students.blo_settings import BloInstSettings
from teachers.bilevel import Level
from teachers.embedding_cache import EmbeddingCache
from teachers.pool import Halves, Loader, threads


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

    def coupling(self, images: Images, choice: Choice) -> Tensor:
        """All of L that depends on theta, for the boxes as the detector says them now: what has an implicit term."""
        raw = self.pair.detector.predict(images.pixels)
        return self.settings.seg * boxes_loss(self.pair.sam, images, choice, raw)

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

    def pairs(self, first: int, last: int) -> Iterator[tuple[Images, Images]]:
        """A batch of each half for the steps [first, last)."""
        sides = self.side(self.halves.lower), self.side(self.halves.upper, upper=True)
        return zip(*(side.batches(first, last, threads=threads()) for side in sides), strict=True)


def _sgd(parameters: Sequence[nn.Parameter], lr: float, *, decay: float) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=lr, momentum=numbers.MOMENTUM, nesterov=True, weight_decay=decay)
