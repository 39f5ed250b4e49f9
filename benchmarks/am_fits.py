"""One draw of the study of AM-SAM: its shots, the boxes they are asked with, and its fits one after the other."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.am_cells import MARKS, PLAIN, Cell, Draw, Row, detector_settings, settings_of
from benchmarks.am_world import Listed, Remembering, World, boxes_of, by_class, dice
from benchmarks.studies import Settings
from pipeline.data.boxes import iou_xyxy
from pipeline.data.records import Origin, Prompt, Record, Role
from pipeline.engine.context import TrainContext
from teachers.aligned_detector import AlignedDetector
from teachers.am_sam import AmSam, assembled
from teachers.am_sam_boxes import Find, asked, surest
from teachers.am_sam_settings import SCORE, AmSamSettings
from teachers.fitted_detector import open_detector

FOUND = 0.5  # IoU of a box and the true one

Finder = Callable[[Record], tuple[Prompt, ...]]


class Fits:
    """The fits of a draw of `world`, with `effort` of their epochs."""

    def __init__(self, draw: Draw, world: World, predictor: Remembering, *, effort: float) -> None:
        self.draw, self.world, self.predictor, self.effort = draw, world, predictor, effort
        self.shots, self.rest = world.drawn(draw.shots, draw.seed)
        self._finders: dict[str, Finder] = {"truth": _true_boxes}

    def row(self, cell: Cell, made_by: str) -> Row:
        """Fit and score on the test."""
        settings = AmSamSettings.model_validate(settings_of(cell, effort=self.effort))
        find = self._finder(cell.boxes)
        if cell.arm == PLAIN:
            teacher = assembled(settings, self.predictor, ontology=self.world.ontology)
            return Row(cell, made_by, self._score(teacher, find), **self._found(find))
        with TemporaryDirectory(prefix="omnimask-") as name:
            folder = Path(name)
            told = self._fit(settings, find, folder)
            teacher = assembled(
                settings, self.predictor, ontology=self.world.ontology, artifact=folder / "out"
            )
            curve = json.loads((folder / "out" / "dice.json").read_text(encoding="utf-8"))
            return Row(
                cell,
                made_by,
                self._score(teacher, find),
                of_d2=told["dice"],
                best_epoch=told["best_epoch"],
                curve={str(epoch): curve[epoch] for epoch in MARKS if epoch < len(curve)},
                own_masks=told.get("own_masks"),
                core_seconds=told["core_seconds"],
                **self._found(find),
            )

    def _fit(self, settings: AmSamSettings, find: Finder | None, folder: Path) -> Settings:
        weak = self.rest if settings.self_training else ()
        records = [
            *(replace(record, role=Role.HUMAN_MASKED) for record in self.shots),
            *(replace(record, role=Role.WEAK, instances=(), tags=None) for record in weak),
        ]
        if find is not None:
            boxes = {record.image_id: find(record) for record in (*self.shots, *weak)}
            records = [replace(record, proposals=boxes[record.image_id]) for record in records]
        teacher = assembled(settings, self.predictor, ontology=self.world.ontology)
        return dict(teacher.fit(Listed(records), self._context(folder)))

    def _context(self, folder: Path) -> TrainContext:
        for name in ("work", "out"):
            (folder / name).mkdir()
        return TrainContext(
            device="cpu",
            ontology=self.world.ontology,
            images_root=self.world.root,
            artifacts={},
            seed=self.draw.seed,
            workdir=folder / "work",
            out=folder / "out",
            progress=lambda *_: None,
            should_stop=lambda: False,
        )

    def _score(self, teacher: AmSam, find: Finder | None) -> float:
        """Mean Dice of the test images, one asked at a time."""
        scores = []
        for record in self.world.test:
            sample = self.world.sample(record)
            if find is not None:
                sample = replace(sample, record=replace(sample.record, proposals=find(record)))
            (labels,) = teacher.label([sample])
            scores.append(dice(by_class(record.instances), by_class(labels)))
        return float(np.mean(scores))

    def _found(self, find: Finder | None) -> Settings:
        if find is None:
            return {}
        return {
            "found": share_found(self.world.test, find),
            "found_in_shots": share_found(self.shots, find),
        }

    def _finder(self, boxes: str) -> Finder | None:
        if boxes == "none":
            return None
        if boxes not in self._finders:
            self._finders[boxes] = self._tuned()
        return self._finders[boxes]

    def _tuned(self) -> Finder:
        """A detector tuned on the shots; what it says of an image is kept."""
        settings = AmSamSettings.model_validate(detector_settings(effort=self.effort))
        with TemporaryDirectory(prefix="omnimask-") as name:
            folder = Path(name)
            self._fit(settings, None, folder)
            detector, facts = open_detector(folder / "out")
        ontology = self.world.ontology
        find: Find = asked(AlignedDetector(detector, facts, ontology=ontology, device="cpu"))
        known: dict[int, tuple[Prompt, ...]] = {}

        def proposals(record: Record) -> tuple[Prompt, ...]:
            if record.image_id not in known:
                known[record.image_id] = tuple(find(self.world.sample(record), ontology.ids))
            return known[record.image_id]

        return proposals


def _true_boxes(record: Record) -> tuple[Prompt, ...]:
    boxes = boxes_of(record.instances)
    return tuple(Prompt(Origin.HUMAN, box, class_id=class_id, score=1.0) for class_id, box in boxes.items())


def share_found(records: Iterable[Record], find: Finder) -> float:
    """Of the classes of all images, those whose box would be asked with and is about the true one."""
    hits = list[bool]()
    for record in records:
        true = boxes_of(record.instances)
        best = surest(find(record), list(true))
        hits += [_is_about(best.get(class_id), box) for class_id, box in true.items()]
    return float(np.mean(hits))


def _is_about(prompt: Prompt | None, true: Sequence[float]) -> bool:
    if prompt is None or prompt.box_xyxy is None or (prompt.score or 0.0) < SCORE:
        return False
    pair = (np.array([box], np.float64) for box in (prompt.box_xyxy, true))
    return float(iou_xyxy(*pair)[0, 0]) >= FOUND
