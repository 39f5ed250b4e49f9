"""COCO files out: streaming, in constant memory, and atomic: a reader sees the old file or the new one, whole."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

from pipeline.data import masks
from pipeline.data.records import RLE, Box, Category, Instance, Match, Ontology, Prompt, Record, Source

_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)  # json.dumps would make one each time

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class CocoWriter:
    """Writes records, handed over by ascending image id, as one COCO file; use it in a `with` block.

    Category ids stay as given, annotation ids count from 1 (pycocotools takes id 0 for "unmatched"), masks are RLE with
    text counts and `iscrowd: 0`, `area` is the mask's, `bbox` is tight. Machine masks carry `score`. Whatever else is
    known goes under `pseudo`. Dropped instances become `pseudo.ignore` regions of their image. Crowd regions are
    written with `crowd=True` only (for files that score, not for those that train). An instance with an open phrase is
    written under the category of that very name (case aside) and counted in `left_out` when there is none; so are
    instances without a mask. Nothing appears at `path` unless the block ends well.
    """

    def __init__(
        self,
        path: Path,
        ontology: Ontology,
        *,
        info: Mapping[str, Json],
        crowd: bool = False,
        run: str | None = None,
        areas: Mapping[int, float] | None = None,
    ) -> None:
        """`info` is the file's info section; `run` goes under the `pseudo` of the masks that this run made.

        `areas`: those of human annotations by id, in place of their masks' pixels (a scorer sorts by them).
        """
        self.path, self.crowd, self.left_out, self._run, self._areas = path, crowd, 0, run, areas or {}
        self._names = {c.name.strip().casefold(): c.id for c in reversed(ontology.categories)}
        self._known = frozenset(ontology.ids)
        self._last_image: int | None = None
        self._next_id = 1
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._side = path.with_name(f".{path.name}.{os.getpid()}.annotations")
        self._head = (
            f'{{"info":{_text(dict(info))},"categories":{_text([_category(c) for c in ontology.categories])}'
        )

    def __enter__(self) -> "CocoWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._images: TextIO = self._part.open("w", encoding="ascii")
        self._annotations: TextIO = self._side.open("w+", encoding="ascii")
        self._images.write(self._head + ',"images":[')
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            self._images.close()
            self._annotations.close()
            self._side.unlink(missing_ok=True)
            self._part.unlink(missing_ok=True)

    def add(self, record: Record) -> None:
        """Write one image with its instances; ValueError unless its id is above the one before."""
        if self._last_image is not None and record.image_id <= self._last_image:
            raise ValueError(
                f"images must come by ascending id, got {record.image_id} after {self._last_image}"
            )
        self._images.write(("," if self._last_image is not None else "") + "\n" + _text(_image(record)))
        self._last_image = record.image_id
        for instance in record.instances:
            if instance.dropped is None:
                self._write(record, instance, crowd=False)
        for region in record.crowd if self.crowd else ():
            self._write(record, region, crowd=True)

    def _write(self, record: Record, instance: Instance, *, crowd: bool) -> None:
        class_id = self._class_of(instance)
        if instance.rle is None or class_id is None:
            self.left_out += 1
            return
        entry: dict[str, Json] = {
            "id": self._next_id,
            "image_id": record.image_id,
            "category_id": class_id,
            "iscrowd": int(crowd),
            "area": self._area(instance, instance.rle),
            "bbox": _tight_xywh(instance.rle),
            "segmentation": _rle(instance.rle),
        }
        if instance.source is not Source.HUMAN and instance.score is not None:
            entry["score"] = instance.score
        entry["pseudo"] = _pseudo(instance, self._run)
        self._annotations.write(("," if self._next_id > 1 else "") + "\n" + _text(entry))
        self._next_id += 1

    def _area(self, instance: Instance, rle: RLE) -> float:
        listed = None if instance.human_id is None else self._areas.get(instance.human_id)
        return masks.area(rle) if listed is None else listed

    def _class_of(self, instance: Instance) -> int | None:
        if instance.phrase is not None:
            return self._names.get(instance.phrase.strip().casefold())
        if instance.class_id is not None and instance.class_id not in self._known:
            raise ValueError(
                f"instance has class {instance.class_id}, which is no category of {self.path.name}"
            )
        return instance.class_id

    def _commit(self) -> None:
        self._images.write('],\n"annotations":[')
        self._annotations.seek(0)
        while block := self._annotations.read(1 << 20):
            self._images.write(block)
        self._images.write("]}\n")
        self._images.flush()
        os.fsync(self._images.fileno())
        os.replace(self._part, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself must survive a power cut
        finally:
            os.close(folder)


def _text(value: Json) -> str:
    return _ENCODER.encode(value)


def _category(category: Category) -> dict[str, Json]:
    entry: dict[str, Json] = {"id": category.id, "name": category.name}
    return entry if category.supercategory is None else entry | {"supercategory": category.supercategory}


def _image(record: Record) -> dict[str, Json]:
    entry: dict[str, Json] = {
        "id": record.image_id,
        "file_name": record.uri,
        "width": record.width,
        "height": record.height,
    }
    if record.tags is not None:
        entry["tags"] = list(record.tags)
    if record.instructions:
        entry["instructions"] = list(record.instructions)
    ignore: list[Json] = [
        _rle(i.rle) | {"reason": i.dropped}
        for i in record.instances
        if i.dropped is not None and i.rle is not None
    ]
    return entry | {"pseudo": {"role": record.role.value} | ({"ignore": ignore} if ignore else {})}


def _rle(rle: RLE) -> dict[str, Json]:
    return {"size": list(rle.size), "counts": rle.counts}


def _tight_xywh(rle: RLE) -> list[Json]:
    """COCO's bbox; an empty mask has [0, 0, 0, 0], as in pycocotools."""
    box = masks.tight_box(rle)
    return [0.0] * 4 if box is None else [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def _box(box: Box | None) -> Json:
    return None if box is None else [round(v, 3) for v in box]


def _pseudo(instance: Instance, run: str | None) -> dict[str, Json]:
    """All that is known of an instance beyond plain COCO; unknown values are left out."""
    made_here = instance.source is not Source.HUMAN and instance.prompt is not None  # not read from a file
    known: dict[str, Json] = {
        "source": instance.source.value,
        "human_id": instance.human_id,
        "weak_kind": None if instance.weak_kind is None else instance.weak_kind.value,
        "phrase": instance.phrase,
        "semantic": instance.semantic or None,
        "prompt": None if instance.prompt is None else _prompt(instance.prompt),
        "match": None if instance.match is None else _match(instance.match),
        "pred_iou": instance.pred_iou,
        "stability": instance.stability,
        "quality": instance.quality,
        "run": run if made_here else None,
        "model": instance.model,
    }
    return {key: value for key, value in known.items() if value is not None}


def _prompt(prompt: Prompt) -> dict[str, Json]:
    entry: dict[str, Json] = {
        "origin": prompt.origin.value,
        "box_xyxy": _box(prompt.box_xyxy),
        "score": prompt.score,
    }
    points: list[Json] = [[point.x, point.y, point.label] for point in prompt.points]
    if points:
        entry["points"] = points
    return {key: value for key, value in entry.items() if value is not None}


def _match(match: Match) -> dict[str, Json]:
    return {"proposal": match.proposal, "cost": match.cost, "iou": match.iou}
