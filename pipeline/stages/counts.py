"""What people marked, image by image: the kind of a weak image's labels, and the objects a human found in it."""

from collections.abc import Iterator
from dataclasses import replace

from pipeline.data.records import Record, Role, Source, WeakKind
from pipeline.engine.stage import Records

LOCALISED = (WeakKind.POINT, WeakKind.BOX)


def kind_of(record: Record, kind: WeakKind) -> WeakKind:
    """What a weak image was in fact labelled with, in a run that may see up to `kind`."""
    labels = [i for i in record.instances if i.human_id is not None]
    if any(i.box_xyxy is not None for i in labels):
        return WeakKind.BOX
    if labels:
        return WeakKind.POINT
    if record.instructions:
        return WeakKind.INSTRUCTION
    if record.tags is None:
        return WeakKind.NONE
    # An image that was checked and found empty cost what the run's own kind costs.
    return WeakKind.CLASS if record.tags else kind


def human_counts(data: Records, kind: WeakKind) -> Iterator[Record]:
    """Images whose every object a human marked, as human-masked ones: points and boxes tell how many things there are.

    Instances keep nothing but what is counted.
    """
    for record in data:
        if record.dropped is not None:
            continue
        if record.role is Role.WEAK:
            labels = [i for i in record.instances if i.human_id is not None]
            if kind not in LOCALISED or (record.tags is None and not labels):
                continue
            if set(record.tags or ()) - {i.class_id for i in labels}:
                continue  # a class that is known present, but not where: objects are missing
        else:
            labels = [i for i in record.instances if i.source is Source.HUMAN]
        bare = tuple(replace(i, source=Source.HUMAN, rle=None, dropped=None) for i in labels)
        yield replace(record, role=Role.HUMAN_MASKED, instances=bare, proposals=(), crowd=())
