"""Which of its own masks a tuned teacher goes on to learn from: the surest ones of weak images (ours).

Pseudo-labels after Lee 2013 and Xie et al. 2020: the labels of weak images prompt the tuned teacher, and its surest
masks join the human ones in a second round of tuning.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from heapq import nsmallest
from itertools import islice

from pipeline.data.paths import Place
from pipeline.data.photos import read_unchanged
from pipeline.data.records import Instance, Record, Role, Source
from teachers.protocols import Sample
from teachers.training_set import Target, TrainingImage, target_of
from teachers.weak_prompts import is_located

IMAGES = 200  # weak images at most, drawn by a hash of their ids
BATCH = 4

Label = Callable[[Sequence[Sample]], list[list[Instance]]]


def drawn(data: Iterable[Record]) -> list[Record]:
    """Weak images with a point or box of a human, in image_id order; of many, IMAGES are drawn."""
    return some_of(
        record
        for record in data
        if record.role is Role.WEAK
        and record.dropped is None
        and any(is_located(i) and i.rle is None for i in record.instances)
    )


def some_of(records: Iterable[Record]) -> list[Record]:
    """In image_id order; of many, IMAGES are drawn."""
    some = nsmallest(
        IMAGES, records, key=lambda r: hashlib.sha256(f"self-training:{r.image_id}".encode()).digest()
    )
    return sorted(some, key=lambda record: record.image_id)


def images_of(records: Iterable[Record]) -> tuple[TrainingImage, ...]:
    """What a training set keeps of images."""
    return tuple(TrainingImage(r.image_id, r.uri, r.sha256, r.height, r.width) for r in records)


def surest(
    records: Sequence[Record],
    label: Label,
    *,
    root: Place,
    share: float,
    first: int,
    heed_stop: Callable[[], None],
) -> tuple[Target, ...]:
    """The surest `share` of the masks that `label` gives, in their order; image k of `records` is `first` + k."""
    rest = iter(enumerate(records, start=first))
    found: list[tuple[float, Target]] = []
    while chunk := list(islice(rest, BATCH)):
        heed_stop()
        batch = [Sample(record, read_unchanged(root / record.uri, record.sha256)) for _, record in chunk]
        for (image, _), instances in zip(chunk, label(batch), strict=True):
            found += [
                (certainty(instance), target)
                for instance in instances
                if (target := target_of(instance, image, source=Source.TEACHER)) is not None
            ]
    order = sorted(range(len(found)), key=lambda row: -found[row][0])
    kept = sorted(order[: round(share * len(found))])
    return tuple(found[row][1] for row in kept)


def certainty(instance: Instance) -> float:
    """How sure the teacher is of a mask: the product of what it says of it, each in [0, 1]."""
    said = (instance.pred_iou, instance.stability)
    product = 1.0
    for value in said:
        product *= 1.0 if value is None else value
    return product
