"""Stage `calibrate`: what the teacher's masks are worth on images that it was not fitted on, whose human masks say it.

Each such image is shown as weakly as the run's others, labelled as they are, and its masks held against the human ones.
`filter` then gives every pseudo-mask the IoU that masks like it were found to have.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from pydantic import Field

from pipeline.data import calibration
from pipeline.data.errors import BadInput
from pipeline.data.matching import match_image
from pipeline.data.records import Instance, Record, Role, WeakKind
from pipeline.data.weak import parse_kind
from pipeline.engine.stage import JobStage, Metrics, Records, StageConfig, TrainContext
from pipeline.report.documents import CalibrationFile, GateFile, SummaryFile
from pipeline.stages.models import load_proposer, load_teacher
from pipeline.stages.rehearsal import as_weak
from pipeline.stages.samples import read_batches
from pipeline.stages.stopping import heed_stop
from pipeline.stages.trust import reliability
from teachers.catalog import ModelSpec
from teachers.gating import GatedTeacher
from teachers.protocols import Proposer, Teacher
from teachers.settings import PAPER_TAU

CALIBRATION = "calibration.json"
Round = tuple[Teacher, frozenset[int]]  # a teacher, and images that it was not fitted on


class CalibrateConfig(StageConfig):
    """`model`, `proposer` and `score` as in `pseudo_label` and `propose`; `batch_size`: images at a time.

    `images`: at most so many, drawn by a hash of their ids.
    """

    model: ModelSpec
    proposer: ModelSpec | None = None
    score: float = Field(PAPER_TAU, ge=0, le=1)
    images: int = Field(500, ge=2)
    batch_size: int = Field(4, ge=1)


class Tally:
    """Of every mask compared: what is known of it, its IoU, and its image; the masks themselves are let go."""

    def __init__(self) -> None:
        self.known, self.iou, self.image_ids = array("d"), array("d"), array("q")
        self.kinds: Counter[str] = Counter()
        self.images = 0

    def note(self, truth: Record, found: list[Instance]) -> None:
        """One image's masks; those that match no object have IoU 0."""
        self.images += 1
        pairs, false = match_image(truth, replace(truth, instances=tuple(found)))
        scored = [(pair.pseudo, pair.iou) for pair in pairs if pair.pseudo is not None]
        for instance, iou in [*scored, *((instance, 0.0) for instance in false)]:
            self.known.extend(calibration.features(instance).values())
            self.iou.append(iou)
            self.image_ids.append(truth.image_id)
            if instance.weak_kind is not None:
                self.kinds[instance.weak_kind.value] += 1

    def file(self, kind: WeakKind, masks: str) -> CalibrationFile:
        """The regression on all of it, and what it is worth by cross-fitting."""
        iou, ids = np.array(self.iou), np.array(self.image_ids)
        known = np.array(self.known).reshape(len(iou), len(calibration.FEATURES))
        images = len(set(ids.tolist()))
        file = CalibrationFile(
            weak=kind.value, why=masks, images=self.images, masks=len(iou), kinds=dict(sorted(self.kinds.items())),
            calibrator=None, reliability=None, said=[], true=[], image_ids=[],
        )  # fmt: skip
        if len(iou) < calibration.LEAST_MASKS or images < 2:
            least = f"at least {calibration.LEAST_MASKS} masks on at least 2 images"
            why = f"expected {least} to learn from ({masks}), found {len(iou)} on {images}"
            return file.model_copy(update={"why": why})
        said = calibration.cross_fitted(known, iou, ids)
        return file.model_copy(
            update={
                "calibrator": calibration.fit(known, iou),
                "reliability": reliability(said, iou),
                "said": said.tolist(),
                "true": iou.tolist(),
                "image_ids": ids.tolist(),
            }
        )


class Calibrate(JobStage):
    """Labels the reserved images or, where there were too few to reserve any, those that a fold left out."""

    name = "calibrate"
    version = 2
    Config = CalibrateConfig
    roles = frozenset({Role.HUMAN_MASKED, Role.RESERVED})
    uses = ("dataset",)
    may_use = ("teacher", "gate")
    produces = "calibration"
    publishes = MappingProxyType({CALIBRATION: CALIBRATION})

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, CalibrateConfig)
        self.config = config

    def run(self, data: Records, context: TrainContext) -> Metrics:
        """Write calibration.json; BadInput for a set without instances."""
        summary = SummaryFile.read(context.artifacts["dataset"] / "summary.json")
        if summary.semantic:
            raise BadInput("calibrate: expected a data set of instances, found one of semantic masks")
        kind = parse_kind(summary.weak)
        proposer = None if self.config.proposer is None else load_proposer(self.config.proposer, context)
        tally = Tally()
        why, rounds = self._rounds(data, context)
        for teacher, images in rounds:
            unseen = (record for record in data if record.image_id in images)
            self._label(teacher, unseen, proposer=proposer, kind=kind, tally=tally, context=context)
        file = tally.file(kind, why)
        file.write(context.out / CALIBRATION)
        error = None if file.reliability is None else file.reliability.error
        return {"masks": file.masks, "images": file.images, "error": error}

    def _rounds(self, data: Records, context: TrainContext) -> tuple[str, Iterator[Round]]:
        """On which masks the teacher is tried, in words, and each teacher with its images."""
        folder = context.artifacts.get("teacher")
        teacher = self._load(folder, context)
        if folder is not None and not isinstance(teacher, GatedTeacher):
            raise BadInput(
                f"calibrate: nothing tells which masks model {self.config.model.name!r} was not fitted on"
            )
        if folder is None or not isinstance(teacher, GatedTeacher) or teacher.zero_shot_reason is not None:
            everything = self._drawn(data, frozenset(Role))
            return "any human masks, as the teacher was not tuned", iter([(teacher, everything)])
        if teacher.folds:
            drawn = self._drawn(data, frozenset({Role.HUMAN_MASKED}))
            each = ((folder / fold.path, drawn.intersection(fold.held_out)) for fold in teacher.folds)
            return "masks that a fold of the teacher left out", self._tuned_folds(each, context)
        return "reserved masks", iter([(teacher, self._drawn(data, frozenset({Role.RESERVED})))])

    def _tuned_folds(
        self, folds: Iterable[tuple[Path, frozenset[int]]], context: TrainContext
    ) -> Iterator[Round]:
        """The teachers of the folds; one whose other images had no mask was not tuned and is left out."""
        for path, ids in folds:
            teacher = self._load(path, context)
            if isinstance(teacher, GatedTeacher) and teacher.zero_shot_reason is None:
                yield teacher, ids

    def _drawn(self, data: Records, roles: frozenset[Role]) -> frozenset[int]:
        ids = [record.image_id for record in data if record.role in roles and record.dropped is None]
        ranked = sorted(ids, key=lambda i: hashlib.sha256(f"calibrate:{i}".encode()).digest())
        return frozenset(ranked[: self.config.images])

    def _load(self, artifact: Path | None, context: TrainContext) -> Teacher:
        """The teacher as it labels the weak images: with the gate's choice, where there is one."""
        teacher = load_teacher(self.config.model, context, artifact=artifact)
        gate = context.artifacts.get("gate")
        if gate is not None and isinstance(teacher, GatedTeacher):
            chosen = GateFile.read(gate / "gate.json").root
            teacher.select({name: variant.use for name, variant in chosen.items()})
        return teacher

    def _label(
        self,
        teacher: Teacher,
        records: Iterable[Record],
        *,
        proposer: Proposer | None,
        kind: WeakKind,
        tally: Tally,
        context: TrainContext,
    ) -> None:
        for batch in read_batches(records, context.images_root, size=self.config.batch_size):
            heed_stop(context)
            weak = as_weak(
                batch,
                kind,
                proposer=proposer,
                ontology=context.ontology,
                seed=context.seed,
                score=self.config.score,
            )
            for sample, instances in zip(batch, teacher.label(weak), strict=True):
                tally.note(sample.record, [i for i in instances if i.rle is not None])
            context.progress(tally.images, 0, "images")
