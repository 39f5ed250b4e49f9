"""Stage `evaluate`: the only one that may see hidden truth. Scores pseudo-masks and students, picks cases to draw."""

from types import MappingProxyType

from pydantic import Field

from pipeline.data.records import Role
from pipeline.engine.stage import JobStage, Metrics, Records, StageConfig, TrainContext
from pipeline.report.case_documents import CasesFile
from pipeline.report.documents import MetricsFile, PseudoQuality, StudentScore, SummaryFile
from pipeline.stages.cases import choose, draw_case
from pipeline.stages.scoring import ImageIous, pseudo_quality, student_score
from pipeline.stages.truth import Compared
from pipeline.stages.watched import Watched
from students import catalog
from students.protocols import Student

STUDENT = "student."


class EvaluateConfig(StageConfig):
    """How many images are picked for the report: with the worst pseudo-masks, and with typical ones."""

    worst: int = Field(6, ge=0, le=50)
    typical: int = Field(4, ge=0, le=50)


class Evaluate(JobStage):
    """Writes metrics.json and cases.json."""

    name = "evaluate"
    version = 5
    Config = EvaluateConfig
    uses = ("dataset", "truth")
    may_use = (f"{STUDENT}*",)
    produces = "metrics"
    publishes = MappingProxyType({"metrics.json": "metrics.json"})

    def __init__(self, config: StageConfig) -> None:
        assert isinstance(config, EvaluateConfig)
        self.config = config

    def run(self, data: Records, context: TrainContext) -> Metrics:
        """Score everything there is to score; what cannot be scored is null."""
        summary = SummaryFile.read(context.artifacts["dataset"] / "summary.json")
        students = _students(context)
        pairs = Compared(Watched(data, context, "pseudo-masks"), context.artifacts["truth"])
        ious = ImageIous()
        pseudo = pseudo_quality(pairs, ontology=context.ontology, semantic=summary.semantic, note=ious.note)
        scores = self._scores(students, data, context, semantic=summary.semantic)
        metrics = MetricsFile(
            seed=context.seed,
            weak=summary.weak,
            images=summary.roles,
            semantic=summary.semantic,
            pseudo=pseudo,
            students=scores,
        )
        metrics.write(context.out / "metrics.json")
        self._cases(pairs, ious, students, context)
        return _brief(pseudo, scores)

    def _scores(
        self, students: dict[str, Student], data: Records, context: TrainContext, *, semantic: bool
    ) -> dict[str, StudentScore]:
        scores = {}
        for name, student in students.items():
            val = (r for r in Watched(data, context, f"student {name}") if r.role is Role.VAL)
            scores[name] = student_score(student, val, context, semantic=semantic)
        return scores

    def _cases(
        self, pairs: Compared, ious: ImageIous, students: dict[str, Student], context: TrainContext
    ) -> None:
        chosen = choose(pairs, ious, worst=self.config.worst, typical=self.config.typical)
        root, ontology = context.images_root, context.ontology
        cases = []
        for done, choice in enumerate(chosen, start=1):
            cases.append(draw_case(choice, students=students, images_root=root, ontology=ontology))
            context.progress(done, len(chosen), "cases to draw")
        CasesFile(cases=cases).write(context.out / "cases.json")


def _students(context: TrainContext) -> dict[str, Student]:
    return {
        name.removeprefix(STUDENT): catalog.load_artifact(folder, device=context.device)
        for name, folder in sorted(context.artifacts.items())
        if name.startswith(STUDENT)
    }


def _brief(pseudo: PseudoQuality | None, scores: dict[str, StudentScore]) -> Metrics:
    numbers: dict[str, float | int | str | None] = {"pseudo_miou": pseudo.miou if pseudo else None}
    for name, score in scores.items():
        numbers[f"{name}_AP"], numbers[f"{name}_AP50"] = score.AP, score.AP50
    return numbers
