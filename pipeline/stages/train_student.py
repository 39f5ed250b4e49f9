"""Stage `train_student`: a student learns from human masks and pseudo-masks together."""

from pydantic import Field

from pipeline.data.records import Role
from pipeline.engine.stage import JobStage, Metrics, Records, StageConfig, TrainContext
from pipeline.stages.models import uneven, with_settings
from students import catalog
from teachers.catalog import ModelSpec


class TrainStudentConfig(StageConfig):
    """`steps` overrides the model's own number of training steps."""

    model: ModelSpec
    steps: int | None = Field(None, ge=1)


class TrainStudent(JobStage):
    """Fits the student named in the config; its artifact stands alone (weights, settings, classes)."""

    name = "train_student"
    version = 3
    Config = TrainStudentConfig
    roles = frozenset(Role) - {Role.VAL}

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, TrainStudentConfig)
        self.config = config
        self.produces = f"student.{config.model.name}"

    def unshareable(self, world: int) -> str:
        """As `JobStage`: each process needs equally many images of every step."""
        return uneven(self.config.model, catalog.batch_size, world)

    def run(self, data: Records, context: TrainContext) -> Metrics:
        """Train; BadInput when no image has a mask to learn from."""
        spec = with_settings(self.config.model, steps=self.config.steps)
        student = catalog.load(spec, ontology=context.ontology, device=context.device, artifact=None)
        return student.fit(data, context)
