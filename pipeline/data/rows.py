"""Records as plain nested rows and back, exactly; and the digest of what a record holds.

A row is the shape that Parquet stores (arrow.py) and JSON can write. None and () stay different values.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import TypedDict

from pipeline.data.records import (
    RLE,
    Box,
    Instance,
    Match,
    Origin,
    Point,
    Prompt,
    Record,
    Role,
    Source,
    WeakKind,
)


class PointRow(TypedDict):
    x: float
    y: float
    label: int


class RleRow(TypedDict):
    height: int
    width: int
    counts: str


class PromptRow(TypedDict):
    origin: str
    box_xyxy: list[float] | None
    points: list[PointRow]
    class_id: int | None
    phrase: str | None
    score: float | None


class MatchRow(TypedDict):
    proposal: int | None
    cost: float | None
    iou: float | None


class InstanceRow(TypedDict):
    source: str
    class_id: int | None
    phrase: str | None
    points: list[PointRow]
    box_xyxy: list[float] | None
    rle: RleRow | None
    semantic: bool
    human_id: int | None
    weak_kind: str | None
    prompt: PromptRow | None
    match: MatchRow | None
    score: float | None
    pred_iou: float | None
    stability: float | None
    quality: float | None
    dropped: str | None
    model: str | None


class RecordRow(TypedDict):
    image_id: int
    uri: str
    sha256: str
    width: int
    height: int
    split: str
    role: str
    tags: list[int] | None
    instructions: list[str]
    instances: list[InstanceRow]
    proposals: list[PromptRow]
    crowd: list[InstanceRow]
    dropped: str | None


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _box(values: Sequence[float] | None) -> Box | None:
    if values is None:
        return None
    x0, y0, x1, y1 = values
    return (x0, y0, x1, y1)


def _floats(box: Box | None) -> list[float] | None:
    return None if box is None else [float(v) for v in box]


def _point_rows(points: Sequence[Point]) -> list[PointRow]:
    return [{"x": float(p.x), "y": float(p.y), "label": p.label} for p in points]


def _points(rows: Sequence[PointRow]) -> tuple[Point, ...]:
    return tuple(Point(row["x"], row["y"], row["label"]) for row in rows)


def _prompt_row(prompt: Prompt) -> PromptRow:
    return {
        "origin": prompt.origin.value,
        "box_xyxy": _floats(prompt.box_xyxy),
        "points": _point_rows(prompt.points),
        "class_id": prompt.class_id,
        "phrase": prompt.phrase,
        "score": _float(prompt.score),
    }


def _prompt(row: PromptRow) -> Prompt:
    return Prompt(
        Origin(row["origin"]),
        box_xyxy=_box(row["box_xyxy"]),
        points=_points(row["points"]),
        class_id=row["class_id"],
        phrase=row["phrase"],
        score=row["score"],
    )


def _match_row(match: Match) -> MatchRow:
    return {"proposal": match.proposal, "cost": _float(match.cost), "iou": _float(match.iou)}


def _instance_row(instance: Instance) -> InstanceRow:
    rle = instance.rle
    return {
        "source": instance.source.value,
        "class_id": instance.class_id,
        "phrase": instance.phrase,
        "points": _point_rows(instance.points),
        "box_xyxy": _floats(instance.box_xyxy),
        "rle": None if rle is None else {"height": rle.size[0], "width": rle.size[1], "counts": rle.counts},
        "semantic": instance.semantic,
        "human_id": instance.human_id,
        "weak_kind": None if instance.weak_kind is None else instance.weak_kind.value,
        "prompt": None if instance.prompt is None else _prompt_row(instance.prompt),
        "match": None if instance.match is None else _match_row(instance.match),
        "score": _float(instance.score),
        "pred_iou": _float(instance.pred_iou),
        "stability": _float(instance.stability),
        "quality": _float(instance.quality),
        "dropped": instance.dropped,
        "model": instance.model,
    }


def _instance(row: InstanceRow) -> Instance:
    rle, prompt, match = row["rle"], row["prompt"], row["match"]
    return Instance(
        Source(row["source"]),
        class_id=row["class_id"],
        phrase=row["phrase"],
        points=_points(row["points"]),
        box_xyxy=_box(row["box_xyxy"]),
        rle=None if rle is None else RLE((rle["height"], rle["width"]), rle["counts"]),
        semantic=row["semantic"],
        human_id=row["human_id"],
        weak_kind=None if row["weak_kind"] is None else WeakKind(row["weak_kind"]),
        prompt=None if prompt is None else _prompt(prompt),
        match=None if match is None else Match(match["proposal"], match["cost"], match["iou"]),
        score=row["score"],
        pred_iou=row["pred_iou"],
        stability=row["stability"],
        quality=row["quality"],
        dropped=row["dropped"],
        model=row["model"],
    )


def record_row(record: Record) -> RecordRow:
    """A record as a row."""
    return {
        "image_id": record.image_id,
        "uri": record.uri,
        "sha256": record.sha256,
        "width": record.width,
        "height": record.height,
        "split": record.split,
        "role": record.role.value,
        "tags": None if record.tags is None else list(record.tags),
        "instructions": list(record.instructions),
        "instances": [_instance_row(i) for i in record.instances],
        "proposals": [_prompt_row(p) for p in record.proposals],
        "crowd": [_instance_row(i) for i in record.crowd],
        "dropped": record.dropped,
    }


def row_record(row: RecordRow) -> Record:
    """The record of a row; ValueError when the row breaks a rule of the records."""
    return Record(
        row["image_id"],
        row["uri"],
        row["sha256"],
        row["width"],
        row["height"],
        row["split"],
        Role(row["role"]),
        tags=None if row["tags"] is None else tuple(row["tags"]),
        instructions=tuple(row["instructions"]),
        instances=tuple(_instance(i) for i in row["instances"]),
        proposals=tuple(_prompt(p) for p in row["proposals"]),
        crowd=tuple(_instance(i) for i in row["crowd"]),
        dropped=row["dropped"],
    )


def row_digest(row: RecordRow) -> bytes:
    """sha256 (32 bytes) of a row's canonical JSON text."""
    # Python writes a float as its shortest exact text, so equal numbers and only these have equal text.
    return hashlib.sha256(json.dumps(row, separators=(",", ":"), sort_keys=True).encode()).digest()


def record_digest(record: Record) -> bytes:
    """sha256 (32 bytes) of all that a record holds; independent of Parquet and its version."""
    return row_digest(record_row(record))
