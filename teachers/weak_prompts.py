"""From what is known of a weak image to what SAM is asked (Das et al. 2024; the mixed kinds of one image are ours).

A localised instance goes the way of its own label: a box straight to B-SAM, points to P-SAM and Algorithm 1. Tags whose
class has no localised instance go the class way (proposals of those classes become box prompts); an image of which
nothing is known goes the none way (proposals of every class).
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pipeline.data.boxes import nms
from pipeline.data.records import Instance, Origin, Prompt, Record, Source, WeakKind
from teachers.refine import MIN_SIDE
from teachers.settings import SamSettings


class Way(StrEnum):
    """Which head answers, and whether Algorithm 1 has its say."""

    HUMAN_BOX = "human_box"
    HUMAN_POINT = "human_point"
    PROPOSAL = "proposal"


@dataclass(frozen=True)
class Request:
    """One pseudo-mask to make: its first prompt, and the human label that it stems from, if any."""

    way: Way
    prompt: Prompt
    weak_kind: WeakKind
    human: Instance | None = None


def requests(record: Record, settings: SamSettings) -> list[Request]:
    """Human labels in their order, then proposals, best first."""
    located = [instance for instance in record.instances if is_located(instance)]
    found = [_human(instance) for instance in located if instance.rle is None]
    missing = unlocated(record)
    if missing == frozenset():
        return found
    kind = WeakKind.NONE if record.tags is None else WeakKind.CLASS
    return found + _proposed(record, missing, settings, kind)


def unlocated(record: Record) -> frozenset[int] | None:
    """The classes that are to be found, as they are on the image and nothing says where; None: any may be there."""
    located = [instance for instance in record.instances if is_located(instance)]
    if record.tags is None:
        return frozenset() if located else None
    return frozenset(record.tags) - {i.class_id for i in located if i.class_id is not None}


def is_located(instance: Instance) -> bool:
    """Whether its place is known: by a mask, a human's or a machine's, or by a human's box or point on it."""
    if instance.dropped is not None:
        return False
    if instance.rle is not None:
        return True
    placed = instance.box_xyxy is not None or any(point.label == 1 for point in instance.points)
    return placed and instance.source is Source.HUMAN


def _human(instance: Instance) -> Request:
    boxed = instance.box_xyxy is not None
    points = () if boxed else instance.points
    way, kind = (Way.HUMAN_BOX, WeakKind.BOX) if boxed else (Way.HUMAN_POINT, WeakKind.POINT)
    prompt = Prompt(
        Origin.HUMAN, instance.box_xyxy, points, class_id=instance.class_id, phrase=instance.phrase
    )
    return Request(way, prompt, instance.weak_kind or kind, instance)


def _proposed(
    record: Record, classes: Collection[int] | None, settings: SamSettings, kind: WeakKind
) -> list[Request]:
    """Proposals of `classes` (None: of all) that pass the score threshold and NMS."""
    wanted = [p for p in record.proposals if classes is None or p.class_id in classes]
    sure = [p for p in wanted if (p.score or 0.0) >= settings.score and _is_wide(p)]
    kept = [sure[index] for index in _suppressed(sure, settings)]
    return [Request(Way.PROPOSAL, prompt, kind) for prompt in kept]


def _is_wide(prompt: Prompt) -> bool:
    if prompt.box_xyxy is None:
        return False
    x0, y0, x1, y1 = prompt.box_xyxy
    return x1 - x0 >= MIN_SIDE and y1 - y0 >= MIN_SIDE


def _suppressed(prompts: list[Prompt], settings: SamSettings) -> list[int]:
    """Indices that NMS keeps, best first; across classes unless `nms_by_class`."""
    boxes = np.array([p.box_xyxy for p in prompts], np.float64).reshape(-1, 4)
    scores = np.array([p.score or 0.0 for p in prompts], np.float64)
    groups: dict[object, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault((prompt.class_id, prompt.phrase) if settings.nms_by_class else None, []).append(
            index
        )
    kept = [rows[k] for rows in groups.values() for k in nms(boxes[rows], scores[rows], settings.nms)]
    return sorted(kept, key=lambda index: (-scores[index], index))
