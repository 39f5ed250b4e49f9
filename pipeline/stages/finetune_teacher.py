"""Stage `finetune_teacher`: fit the teacher on the human masks that are not reserved (methods 3.3)."""

from pydantic import Field

from pipeline.data.records import Role
from pipeline.engine.stage import JobStage, Metrics, Records, StageConfig, TrainContext
from pipeline.stages.models import load_teacher, uneven, with_settings
from teachers import catalog
from teachers.catalog import ModelSpec


class FinetuneTeacherConfig(StageConfig):
    """`steps` overrides the model's own number of training steps."""

    model: ModelSpec
    steps: int | None = Field(None, ge=1)


class FinetuneTeacher(JobStage):
    """Fits B-SAM, P-SAM and BP-SAM; with fewer than two masked images the artifact says that nothing was tuned.

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
        return teacher.fit(data, context)
