"""AM-SAM's second round (ours): weak images with the surest masks that it gives them are learned from beside D1.

Pseudo-labels after Lee 2013 and Xie et al. 2020. D2 has no such masks and judges both rounds alike, so a second round
that does not help leaves what the first one kept.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.data.photos import read_unchanged
from pipeline.data.records import Instance, Record, Role
from pipeline.engine.context import TrainContext
from teachers.phases import watching
from teachers.pool import Pool
from teachers.protocols import Sample
from teachers.self_training import BATCH, Label, some_of

AGAIN = "again"  # the phase, and its folder


@dataclass(frozen=True)
class Joined:
    """The shots, then weak images with their masks."""

    pool: Pool
    more: Sequence[Record]

    def __len__(self) -> int:
        return len(self.pool) + len(self.more)

    def __iter__(self) -> Iterator[Record]:
        yield from (self.pool[place] for place in range(len(self.pool)))
        yield from self.more


def own_masks(data: Iterable[Record], label: Label, context: TrainContext, *, share: float) -> list[Record]:
    """Weak images with the masks that `label` gives them: the surest `share` of those on which it finds something.

    An image is as sure as its masks are on the mean. Stopped if the context asks for it.
    """
    weak = some_of(record for record in data if record.role is Role.WEAK and record.dropped is None)
    watch = watching(context, "labelling weak images")
    found: list[tuple[float, Record]] = []
    for first in range(0, len(weak), BATCH):
        watch(first, len(weak))
        chunk = weak[first : first + BATCH]
        for record, instances in zip(
            chunk, label([_sample(record, context) for record in chunk]), strict=True
        ):
            masks = tuple(instance for instance in instances if instance.rle is not None)
            if masks:
                found.append((_certainty(masks), replace(record, instances=masks)))
    order = sorted(range(len(found)), key=lambda row: -found[row][0])
    kept = sorted(order[: round(share * len(found))])
    return [found[row][1] for row in kept]


def _sample(record: Record, context: TrainContext) -> Sample:
    return Sample(record, read_unchanged(context.images_root / record.uri, record.sha256))


def _certainty(masks: tuple[Instance, ...]) -> float:
    return sum(mask.score or 0.0 for mask in masks) / len(masks)
