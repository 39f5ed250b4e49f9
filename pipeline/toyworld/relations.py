"""Spatial relations between the objects of a scene."""

from collections.abc import Mapping, Sequence
from typing import Protocol

Relation = tuple[int, str, int]
_MIN_HIDDEN = 16
_INSIDE = 0.9


class Located(Protocol):
    """What a relation needs to know of an object."""

    @property
    def object_id(self) -> int: ...
    @property
    def level(self) -> str: ...
    @property
    def parent_id(self) -> int | None: ...
    @property
    def box_xyxy(self) -> tuple[float, float, float, float]: ...


def relations(
    objects: Sequence[Located], hidden: Mapping[tuple[int, int], int], silhouette: Mapping[int, int]
) -> tuple[Relation, ...]:
    """All relations of a scene, sorted.

    Sideways and above/below hold between objects that stand side by side: parts of one parent, or any two that are
    not parts; the centre of each lies outside the other's box in that direction. `hidden[a, b]` counts the pixels of
    b that a covered when it was painted: 16 make a "in front of" b, nine tenths of a's silhouette put it "inside" b.
    """
    seen = {o.object_id for o in objects}
    out: list[Relation] = [(o.object_id, "part of", o.parent_id) for o in objects if o.parent_id is not None]
    for (a, b), pixels in hidden.items():
        if a in seen and b in seen:
            if pixels >= _MIN_HIDDEN:
                out.append((a, "in front of", b))
            if pixels >= _INSIDE * silhouette[a]:
                out.append((a, "inside", b))
    for i, first in enumerate(objects):
        for second in objects[i + 1 :]:
            if _side_by_side(first, second):
                out += _directions(first, second)
    return tuple(sorted(out))


def _side_by_side(a: Located, b: Located) -> bool:
    if a.object_id == b.parent_id or b.object_id == a.parent_id:
        return False
    if a.level == "part" or b.level == "part":
        return a.level == b.level and a.parent_id == b.parent_id
    return True


def _directions(a: Located, b: Located) -> list[Relation]:
    out: list[Relation] = []
    for axis, (less, more) in enumerate((("left of", "right of"), ("above", "below"))):
        middle_a = (a.box_xyxy[axis] + a.box_xyxy[axis + 2]) / 2
        middle_b = (b.box_xyxy[axis] + b.box_xyxy[axis + 2]) / 2
        if middle_a < b.box_xyxy[axis] and middle_b > a.box_xyxy[axis + 2]:
            out += [(a.object_id, less, b.object_id), (b.object_id, more, a.object_id)]
        elif middle_b < a.box_xyxy[axis] and middle_a > b.box_xyxy[axis + 2]:
            out += [(a.object_id, more, b.object_id), (b.object_id, less, a.object_id)]
    return out
