"""Every stage there is: its name in stages.yaml -> its class, in one explicit table."""

from pipeline.engine.stage import Stage
from pipeline.stages.calibrate import Calibrate
from pipeline.stages.cost import Cost
from pipeline.stages.evaluate import Evaluate
from pipeline.stages.export import Export
from pipeline.stages.filter import Filter
from pipeline.stages.finetune_teacher import FinetuneTeacher
from pipeline.stages.gate import Gate
from pipeline.stages.ingest import Ingest
from pipeline.stages.propose import Propose
from pipeline.stages.pseudo_label import PseudoLabel
from pipeline.stages.report import Report
from pipeline.stages.train_student import TrainStudent

STAGES: dict[str, type[Stage]] = {
    stage.name: stage
    for stage in (
        Ingest,
        FinetuneTeacher,
        Gate,
        Propose,
        PseudoLabel,
        Calibrate,
        Filter,
        Export,
        TrainStudent,
        Evaluate,
        Cost,
        Report,
    )
}
