"""Stage `pseudo_label`: the teacher turns the weak labels of an image into masks (methods 3.4, 3.5)."""

from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field

from pipeline.data.errors import BadInput
from pipeline.data.paths import Place
from pipeline.data.records import Record, Role
from pipeline.engine.stage import MapConfig, MapStage, StageConfig, WorkerContext
from pipeline.report.documents import GateFile
from pipeline.stages.models import load_teacher, with_settings
from pipeline.stages.samples import blank_sample, read_sample
from teachers.catalog import ModelSpec
from teachers.gating import GatedTeacher
from teachers.protocols import Sample, Teacher


class PseudoLabelConfig(MapConfig):
    """Numbers set here win over the model's own: `alpha`, `beta`, `tau` of Algorithm 1; `score`, `nms` of proposals."""

    model: ModelSpec
    alpha: float | None = Field(None, ge=0)
    beta: float | None = Field(None, ge=0)
    tau: float | None = Field(None, ge=0, le=1)
    score: float | None = Field(None, ge=0, le=1)
    nms: float | None = Field(None, ge=0, le=1)


class PseudoLabel(MapStage[Sample]):
    """Replaces the weak labels of weak images by teacher instances that keep the human's box, points and id.

    With a gate, each of the teacher's variants is the tuned or the zero-shot one, as the gate decided.
    """

    name = "pseudo_label"
    version = 5
    Config = PseudoLabelConfig
    needs = frozenset({"instances", "tags"})
    adds = frozenset({"instances"})
    roles = frozenset({Role.WEAK})
    may_use = ("teacher", "gate")

    teacher: Teacher
    images_root: Place

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, PseudoLabelConfig)
        self.config = config

    def setup(self, context: WorkerContext) -> None:
        """Load the teacher; BadInput when gate and teacher do not fit each other."""
        c = self.config
        spec = with_settings(c.model, alpha=c.alpha, beta=c.beta, tau=c.tau, score=c.score, nms=c.nms)
        self.images_root = context.images_root
        self.teacher = load_teacher(spec, context, artifact=context.artifacts.get("teacher"))
        if (folder := context.artifacts.get("gate")) is not None:
            if not isinstance(self.teacher, GatedTeacher):
                raise BadInput(
                    f"pseudo_label: model {c.model.name!r} has no variants for a gate to choose from"
                )
            gate = GateFile.read(folder / "gate.json")
            self.teacher.select({name: variant.use for name, variant in gate.root.items()})

    def load(self, record: Record) -> Sample:
        """The photo."""
        return read_sample(record, self.images_root)

    def blank(self, record: Record) -> Sample:
        """A black photo."""
        return blank_sample(record)

    def __call__(self, batch: Sequence[Sample]) -> list[Record]:
        labelled = self.teacher.label(batch)
        out = []
        for sample, found in zip(batch, labelled, strict=True):
            # What has a human mask already keeps it; a weak label lives on inside the mask made from it.
            masked = tuple(i for i in sample.record.instances if i.rle is not None)
            out.append(replace(sample.record, instances=masked + tuple(found)))
        return out
