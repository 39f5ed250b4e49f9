"""Stage `finetune_teacher`: fit the teacher on the human masks that are not reserved (methods 3.3)."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pydantic import Field

from pipeline.data.records import Prompt, Record, Role
from pipeline.engine.stage import JobStage, Metrics, Records, StageConfig, TrainContext
from pipeline.stages.models import load_proposer, load_teacher, uneven, with_settings
from pipeline.stages.samples import read_sample
from pipeline.stages.stopping import heed_stop
from teachers import catalog
from teachers.catalog import ModelSpec
from teachers.protocols import Proposer
from teachers.settings import PAPER_TAU


class FinetuneTeacherConfig(StageConfig):
    """`steps` overrides the model's own number of training steps.

    `proposer` and `score` as in `propose`: for a model that is tuned with the boxes it will be asked with.
    """

    model: ModelSpec
    steps: int | None = Field(None, ge=1)
    proposer: ModelSpec | None = None
    score: float = Field(PAPER_TAU, ge=0, le=1)


class FinetuneTeacher(JobStage):
    """Fits B-SAM, P-SAM and BP-SAM, or another tunable teacher.

    With fewer than two masked images the artifact says that nothing was tuned.

    Reserved records are lent so that the teacher knows whether the gate has masks of its own or needs folds; their
    masks are not fitted on. Without `self_training` no weak image is seen: the artifact serves every weak kind.
    """

    name = "finetune_teacher"
    version = 2
    Config = FinetuneTeacherConfig
    roles = frozenset({Role.HUMAN_MASKED, Role.RESERVED})
    produces = "teacher"

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, FinetuneTeacherConfig)
        self.config = config
        if config.model.settings.get("self_training"):
            self.roles = FinetuneTeacher.roles | {Role.WEAK}

    def unshareable(self, world: int) -> str:
        """As `JobStage`: each process needs equally many instances of every step."""
        return uneven(self.config.model, catalog.batch_size, world)

    def run(self, data: Records, context: TrainContext) -> Metrics:
        """Tune; BadInput for a model that cannot be tuned."""
        spec = with_settings(self.config.model, steps=self.config.steps)
        teacher = load_teacher(spec, context, artifact=None)
        if self.config.proposer is None:
            return teacher.fit(data, context)
        proposer = load_proposer(self.config.proposer, context)
        return teacher.fit(_Proposing(data, proposer, context, self.config.score), context)


@dataclass(frozen=True)
class _Proposing:
    """Records of which those that are learned from carry what a proposer finds of every class; each is asked once."""

    data: Records
    proposer: Proposer
    context: TrainContext
    score: float
    found: dict[int, tuple[Prompt, ...]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Record]:
        for record in self.data:
            if record.role is not Role.RESERVED and record.dropped is None:
                if record.image_id not in self.found:
                    self.found[record.image_id] = self._asked(record)
                yield replace(record, proposals=self.found[record.image_id])
            else:
                yield record

    def __len__(self) -> int:
        return len(self.data)

    def _asked(self, record: Record) -> tuple[Prompt, ...]:
        heed_stop(self.context)
        self.context.progress(len(self.found), 0, "boxes")
        sample = read_sample(record, self.context.images_root)
        (found,) = self.proposer.propose([sample], [self.context.ontology.ids])
        return tuple(prompt for prompt in found if (prompt.score or 0.0) >= self.score)
