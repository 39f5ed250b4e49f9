"""What a teacher learns from: the human masks of the human-masked images, and which images a fold leaves out."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.data import masks
from pipeline.data.records import RLE, Box, Instance, Origin, Point, Prompt, Record, Role, Source
from pipeline.data.weak import RESERVED_FROM
from teachers.sam.zoom import Part, Zoom
from teachers.settings import BOX, PLAIN_BOX, POINT

MAX_FOLDS = 5
MOST_MOVED = 0.4  # of a box's side
Use = Literal["fit", "cross_fit", "zero_shot"]


@dataclass(frozen=True)
class Target:
    """One human mask: `image` is its index in the training set, `area` its pixels, `box` its tight box."""

    image: int
    rle: RLE
    box: Box
    area: int
    class_id: int | None
    phrase: str | None

    def prompt(self, variant: str, rng: np.random.Generator, *, jitter: float = 0.0) -> Prompt:
        """The prompt that a variant learns from: a box and/or the centre of a uniformly random foreground pixel.

        The box is the tight one, each side moved by a normal draw of `jitter` shares of the width or height, at most by
        MOST_MOVED of it.
        """
        x, y = masks.foreground_pixel(self.rle, int(rng.integers(self.area)))
        points = () if variant in (BOX, PLAIN_BOX) else (Point(x + 0.5, y + 0.5),)
        box = None if variant == POINT else self._moved(jitter, rng)
        return Prompt(Origin.HUMAN, box, points, class_id=self.class_id, phrase=self.phrase)

    def part(self, variant: str, zoom: Zoom, *, jitter: float = 0.0) -> Part:
        """What of its image is seen with the prompt of a variant.

        With `jitter` it is seen around one moved box, always the same: else it would show where the tight one is.
        """
        if variant == POINT:
            return self.image, None
        rng = np.random.default_rng([self.image, self.area, *map(int, self.box)])
        # The point of a variant that has one too lies in the tight box, and that in the part but for an edge at times.
        return self.image, zoom.window(Prompt(Origin.HUMAN, self._moved(jitter, rng)), *self.rle.size)

    def _moved(self, jitter: float, rng: np.random.Generator) -> Box:
        if not jitter:
            return self.box
        x0, y0, x1, y1 = self.box
        height, width = self.rle.size
        left, top, right, bottom = (rng.normal(size=4) * jitter).clip(-MOST_MOVED, MOST_MOVED)
        return (
            max(x0 + left * (x1 - x0), 0.0),
            max(y0 + top * (y1 - y0), 0.0),
            min(x1 + right * (x1 - x0), float(width)),
            min(y1 + bottom * (y1 - y0), float(height)),
        )


@dataclass(frozen=True)
class TrainingImage:
    """Where an image is, the sha256 of its file, and its size in pixels."""

    image_id: int
    uri: str
    sha256: str
    height: int
    width: int


@dataclass(frozen=True)
class TrainingSet:
    """Images in image_id order with the targets on them; `reserved`: whether other masks were kept out for the gate."""

    images: tuple[TrainingImage, ...]
    targets: tuple[Target, ...]
    reserved: bool

    @property
    def use(self) -> Use:
        """Fit on all; with 2-19 images and none reserved also in folds; with 0-1 images or no mask not at all."""
        if len(self.images) < 2 or not self.targets:
            return "zero_shot"
        return "cross_fit" if len(self.images) < RESERVED_FROM and not self.reserved else "fit"

    def without(self, held_out: frozenset[int]) -> tuple[Target, ...]:
        """The targets of images whose ids are not held out."""
        return tuple(t for t in self.targets if self.images[t.image].image_id not in held_out)


def collect(data: Iterable[Record]) -> TrainingSet:
    """The human-masked records of `data`; of reserved ones nothing but that they exist is looked at."""
    images: list[TrainingImage] = []
    targets: list[Target] = []
    reserved = False
    for record in data:
        reserved |= record.role is Role.RESERVED
        if record.role is Role.HUMAN_MASKED and record.dropped is None:
            found = (target_of(instance, len(images)) for instance in record.instances)
            targets.extend(target for target in found if target is not None)
            images.append(
                TrainingImage(record.image_id, record.uri, record.sha256, record.height, record.width)
            )
    return TrainingSet(tuple(images), tuple(targets), reserved)


def target_of(instance: Instance, image: int, *, source: Source = Source.HUMAN) -> Target | None:
    """An instance of that source with a mask of at least one pixel as a target; None for any other."""
    if instance.source is not source or instance.rle is None or instance.dropped is not None:
        return None
    box = masks.tight_box(instance.rle)
    if box is None:
        return None
    area = masks.area(instance.rle)
    return Target(image, instance.rle, box, area, instance.class_id, instance.phrase)


def folds(image_ids: Iterable[int], seed: int) -> list[frozenset[int]]:
    """min(5, n) sets of held-out ids that together hold every image once; a hash rank of (seed, id) deals them out."""
    ranked = sorted(image_ids, key=lambda i: (hashlib.sha256(f"fold:{seed}:{i}".encode()).digest(), i))
    count = min(MAX_FOLDS, len(ranked))
    return [frozenset(ranked[k::count]) for k in range(count)]
