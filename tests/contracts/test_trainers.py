"""Every trainer of the catalogs in a team of two: all of them end with the same weights, and one alone saves states."""

import hashlib
from pathlib import Path

import pytest
from ranks import Pair
from test_models import ONTOLOGY, STUDENTS, TEACHERS, WHOLE_CLASSES, Stream, lesson

from pipeline.engine.context import TrainContext
from pipeline.engine.plan import PlannedStage, prove
from pipeline.engine.stage import JobStage, Resources, StageConfig
from pipeline.engine.team import Team
from pipeline.stages.finetune_teacher import FinetuneTeacher, FinetuneTeacherConfig
from pipeline.stages.train_student import TrainStudent, TrainStudentConfig
from students import catalog as students
from teachers import catalog as teachers

FEW: dict[str, object] = {"steps": 1, "batch_size": 2}
TRAINERS: list[tuple[type[JobStage], StageConfig]] = [
    *(
        (
            FinetuneTeacher,
            FinetuneTeacherConfig(model=spec.model_copy(update={"settings": {**spec.settings, **FEW}})),
        )
        for spec in (*TEACHERS, *WHOLE_CLASSES)
        if teachers.ENTRIES[spec.use].tunable
    ),
    *(
        (
            TrainStudent,
            TrainStudentConfig(model=spec.model_copy(update={"settings": {**spec.settings, **FEW}})),
        )
        for spec in STUDENTS
    ),
]


def train(
    team: Team, stage: type[JobStage], config: StageConfig, data: Stream, folder: Path
) -> dict[str, str]:
    """Digests of what one process leaves in its own folder."""
    out = folder / f"out-{team.rank}"
    out.mkdir()
    context = TrainContext(
        device="cpu",
        ontology=ONTOLOGY,
        images_root=folder,
        artifacts={},
        seed=0,
        workdir=folder / "work",
        out=out,
        progress=lambda *_: None,
        should_stop=lambda: team.any(False),
        team=team,
    )
    assert stage(config).run(data, context)
    made = sorted(path for path in out.rglob("*") if path.is_file())
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in made}


def test_every_trainer_is_covered() -> None:
    covered = {config.model.use for _, config in TRAINERS}  # type: ignore[attr-defined]
    tunable = {name for name, entry in teachers.ENTRIES.items() if entry.tunable}
    assert covered == tunable | set(students.ENTRIES)


@pytest.mark.parametrize(("stage", "config"), TRAINERS, ids=lambda value: getattr(value, "name", ""))
def test_two_processes_end_with_the_same(
    pair: Pair, stage: type[JobStage], config: StageConfig, tmp_path: Path
) -> None:
    data, _ = lesson(tmp_path)
    (tmp_path / "out").rmdir()
    first, second = pair.run(train, stage, config, data, tmp_path)
    assert first == second
    assert any(name.endswith(".safetensors") for name in first)


@pytest.mark.parametrize(("stage", "config"), TRAINERS, ids=lambda value: getattr(value, "name", ""))
@pytest.mark.parametrize(("workers", "sound"), [((1, 1), True), ((1, 2), True), ((3, 3), False)])
def test_steps_that_cannot_be_shared_evenly_are_told_before_any_work(
    stage: type[JobStage], config: StageConfig, workers: tuple[int, int], sound: bool
) -> None:
    planned = PlannedStage("training", stage, config, Resources(workers=workers))
    problems = [problem for problem in prove([planned]) if problem.startswith("training")]
    assert len(problems) == (0 if sound else 1)
    assert sound or "3 workers cannot share batch_size 2 of" in problems[0]
