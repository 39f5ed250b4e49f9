"""Stage `gate`: a tuned teacher must beat the zero-shot one on human masks it has not seen, else it is not used."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from pipeline.data.errors import BadInput
from pipeline.data.records import Record, Role
from pipeline.engine.stage import JobStage, Metrics, Records, StageConfig, TrainContext
from pipeline.report.documents import GateFile, GateVariant
from pipeline.stages.models import load_teacher
from pipeline.stages.samples import read_sample
from pipeline.stages.stopping import heed_stop
from teachers.catalog import ModelSpec
from teachers.gating import GatedTeacher

Method = Literal["reserved", "cross-fitting"]


class GateConfig(StageConfig):
    """`batch_size`: images per encoder pass."""

    model: ModelSpec
    batch_size: int = Field(4, ge=1)


@dataclass
class Tally:
    """IoU of every mask for one variant, tuned and zero-shot, in the same order, and the images they lie on."""

    tuned: list[float] = field(default_factory=list)
    zero_shot: list[float] = field(default_factory=list)
    images: int = 0

    def decide(self, method: Method) -> GateVariant:
        """The decision; without a single mask to compare on, and in a tie, the zero-shot teacher is used."""
        if not self.tuned:
            return untuned("no human mask to compare on")
        tuned, zero_shot = _mean(self.tuned), _mean(self.zero_shot)
        better = tuned > zero_shot
        return GateVariant(
            tuned=tuned,
            zero_shot=zero_shot,
            use="tuned" if better else "zero_shot",
            images=self.images,
            instances=len(self.tuned),
            method=method,
            why=f"tuned is {'better' if better else 'not better'} on {method} masks",
        )


def untuned(why: str) -> GateVariant:
    """The zero-shot teacher, without a comparison."""
    return GateVariant(
        tuned=None, zero_shot=None, use="zero_shot", images=0, instances=0, method="none", why=why
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


class Gate(JobStage):
    """Compares on the reserved masks or, where there were too few to reserve any, on the folds of the teacher."""

    name = "gate"
    version = 3
    Config = GateConfig
    roles = frozenset({Role.HUMAN_MASKED, Role.RESERVED})
    uses = ("teacher",)
    produces = "gate"
    publishes = MappingProxyType({"gate.json": "gate.json"})

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, GateConfig)
        self.config = config

    def run(self, data: Records, context: TrainContext) -> Metrics:
        """Write gate.json: for each variant both mean IoUs and the choice; BadInput for a teacher without variants."""
        folder = context.artifacts["teacher"]
        teacher = self._load(folder, context)
        tallies = {variant: Tally() for variant in teacher.tuned_variants}
        if teacher.zero_shot_reason is not None:
            gate = GateFile({variant: untuned(teacher.zero_shot_reason) for variant in teacher.variants})
        elif teacher.folds:
            for fold in teacher.folds:
                held_out = [r for r in data if r.role is Role.HUMAN_MASKED and r.image_id in fold.held_out]
                self._score(self._load(folder / fold.path, context), held_out, context, tallies)
            gate = _decisions(tallies, "cross-fitting")
        else:
            self._score(teacher, (r for r in data if r.role is Role.RESERVED), context, tallies)
            gate = _decisions(tallies, "reserved")
        gate.write(context.out / "gate.json")
        return {f"{name}_use": variant.use for name, variant in gate.root.items()}

    def _load(self, artifact: Path, context: TrainContext) -> GatedTeacher:
        model = load_teacher(self.config.model, context, artifact=artifact)
        if not isinstance(model, GatedTeacher):
            raise BadInput(f"gate: model {self.config.model.name!r} has no variants to compare")
        return model

    def _score(
        self, model: GatedTeacher, records: Iterable[Record], context: TrainContext, tallies: dict[str, Tally]
    ) -> None:
        usable = (record for record in records if record.dropped is None)
        while chunk := list(islice(usable, self.config.batch_size)):
            heed_stop(context)
            samples = [read_sample(record, context.images_root) for record in chunk]
            for variant, scores in model.compare(samples, seed=context.seed).items():
                tally = tallies[variant]
                tally.tuned += scores.tuned
                tally.zero_shot += scores.zero_shot
                tally.images += len(samples)
            context.progress(max(t.images for t in tallies.values()), 0, "images")


def _decisions(tallies: dict[str, Tally], method: Method) -> GateFile:
    return GateFile({variant: tally.decide(method) for variant, tally in tallies.items()})
