"""Stage `gate`: a tuned teacher must beat the zero-shot one on human masks it has not seen, else it is not used.

What counts is the whole labelling: images with human masks are shown as the weak ones are, with proposals if the run
has such, and labelled by every choice of the heads that this asks; the best choice is used. A head that is better alone
may well be worse there, as the next one is asked about what it said. Heads that labels of the run's kind do not ask are
compared alone, on the prompts that they were tuned with; all are in a set of semantic masks.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from pipeline.data.errors import BadInput
from pipeline.data.records import Record, Role, WeakKind
from pipeline.data.weak import parse_kind
from pipeline.engine.stage import JobStage, Metrics, Records, StageConfig, TrainContext
from pipeline.report.documents import GateFile, GateVariant, LabelledGate, SummaryFile
from pipeline.stages.models import load_proposer, load_teacher
from pipeline.stages.rehearsal import as_weak
from pipeline.stages.samples import read_batches
from pipeline.stages.stopping import heed_stop
from pipeline.stages.trial import Trial
from teachers.catalog import ModelSpec
from teachers.gating import GatedTeacher
from teachers.protocols import Proposer, Sample
from teachers.settings import PAPER_TAU

Method = Literal["reserved", "cross-fitting"]
Round = tuple[GatedTeacher, Iterable[Record]]  # a teacher, and images that it was not fitted on


class GateConfig(StageConfig):
    """`model`, `proposer` and `score` as in `pseudo_label` and `propose`; `batch_size`: images at a time."""

    model: ModelSpec
    proposer: ModelSpec | None = None
    score: float = Field(PAPER_TAU, ge=0, le=1)
    batch_size: int = Field(4, ge=1)


@dataclass
class Tally:
    """IoU of every mask for one variant alone, tuned and zero-shot, in the same order, and the images they lie on."""

    tuned: list[float] = field(default_factory=list)
    zero_shot: list[float] = field(default_factory=list)
    images: int = 0

    def decide(self, method: Method, labelled: LabelledGate | None) -> GateVariant:
        """The decision; without a single mask to compare on, and in a tie, the zero-shot teacher is used."""
        if not self.tuned:
            return untuned("no human mask to compare on")
        tuned, zero_shot = _mean(self.tuned), _mean(self.zero_shot)
        better = tuned > zero_shot if labelled is None else labelled.tuned > labelled.zero_shot
        what = "labelling with the tuned one" if labelled else "tuned, alone,"
        return GateVariant(
            tuned=tuned,
            zero_shot=zero_shot,
            use="tuned" if better else "zero_shot",
            images=self.images,
            instances=len(self.tuned),
            method=method,
            why=f"{what} is {'better' if better else 'not better'} on {method} masks",
            labelled=labelled,
        )


def untuned(why: str) -> GateVariant:
    """The zero-shot teacher, without a comparison."""
    return GateVariant(
        tuned=None, zero_shot=None, use="zero_shot", images=0, instances=0, method="none", why=why
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


@dataclass(frozen=True)
class _Judge:
    """What the rounds of a comparison share, and what they found."""

    kind: WeakKind
    proposer: Proposer | None
    tallies: dict[str, Tally]
    trial: Trial


class Gate(JobStage):
    """Compares on the reserved masks or, where there were too few to reserve any, on the folds of the teacher."""

    name = "gate"
    version = 4
    Config = GateConfig
    roles = frozenset({Role.HUMAN_MASKED, Role.RESERVED})
    uses = ("dataset", "teacher")
    produces = "gate"
    publishes = MappingProxyType({"gate.json": "gate.json"})

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, GateConfig)
        self.config = config

    def run(self, data: Records, context: TrainContext) -> Metrics:
        """Write gate.json: for each variant mean IoUs and the choice; BadInput for a teacher without variants."""
        teacher = self._load(context.artifacts["teacher"], context)
        if teacher.zero_shot_reason is not None:
            gate = GateFile({variant: untuned(teacher.zero_shot_reason) for variant in teacher.variants})
        else:
            gate = self._judged(teacher, data, context)
        gate.write(context.out / "gate.json")
        return {f"{name}_use": variant.use for name, variant in gate.root.items()}

    def _judged(self, teacher: GatedTeacher, data: Records, context: TrainContext) -> GateFile:
        summary = SummaryFile.read(context.artifacts["dataset"] / "summary.json")
        kind = parse_kind(summary.weak)
        # The masks of a class are not matched one to one with the objects that a labelling finds.
        asked = () if summary.semantic else teacher.asked(kind)
        judge = _Judge(
            kind,
            None if self.config.proposer is None else load_proposer(self.config.proposer, context),
            {variant: Tally() for variant in teacher.tuned_variants},
            Trial([variant for variant in asked if variant in teacher.tuned_variants]),
        )
        method: Method = "cross-fitting" if teacher.folds else "reserved"
        for one, unseen in self._rounds(teacher, data, context):
            self._compare(one, unseen, judge, context)
        return GateFile(
            {
                variant: tally.decide(method, judge.trial.of(variant))
                for variant, tally in judge.tallies.items()
            }
        )

    def _rounds(self, teacher: GatedTeacher, data: Records, context: TrainContext) -> Iterator[Round]:
        """The teacher with the reserved images, or those of its folds that were tuned with what they left out."""
        if not teacher.folds:
            yield teacher, (record for record in data if record.role is Role.RESERVED)
        for fold in teacher.folds:
            own = self._load(context.artifacts["teacher"] / fold.path, context)
            if own.zero_shot_reason is None:
                held_out = frozenset(fold.held_out)
                yield own, (r for r in data if r.role is Role.HUMAN_MASKED and r.image_id in held_out)

    def _load(self, artifact: Path, context: TrainContext) -> GatedTeacher:
        model = load_teacher(self.config.model, context, artifact=artifact)
        if not isinstance(model, GatedTeacher):
            raise BadInput(f"gate: model {self.config.model.name!r} has no variants to compare")
        return model

    def _compare(
        self, teacher: GatedTeacher, records: Iterable[Record], judge: _Judge, context: TrainContext
    ) -> None:
        for batch in read_batches(records, context.images_root, size=self.config.batch_size):
            heed_stop(context)
            for variant, scores in teacher.compare(batch, seed=context.seed).items():
                tally = judge.tallies[variant]
                tally.tuned += scores.tuned
                tally.zero_shot += scores.zero_shot
                tally.images += len(batch)
            if judge.trial.variants:
                self._label(teacher, batch, judge, context)
            context.progress(max(t.images for t in judge.tallies.values()), 0, "images")

    def _label(
        self, teacher: GatedTeacher, batch: list[Sample], judge: _Judge, context: TrainContext
    ) -> None:
        weak = as_weak(
            batch,
            judge.kind,
            proposer=judge.proposer,
            ontology=context.ontology,
            seed=context.seed,
            score=self.config.score,
        )
        by_choice = teacher.label_by(weak, judge.trial.choices)
        for sample, *found in zip(batch, *by_choice, strict=True):
            judge.trial.note(sample.record, found)
