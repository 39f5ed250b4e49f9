import pytest
from engine_fakes import (
    Evaluate,
    FakeExport,
    FakeIngest,
    FakeIngestConfig,
    FakeLabel,
    FakeMapConfig,
    FakePropose,
    FakeTrain,
    FakeTrainConfig,
    Thief,
    make_plan,
)

from pipeline.engine.plan import matching, prove
from pipeline.engine.stage import StageConfig

INGEST = (FakeIngest, FakeIngestConfig())
TRAIN = (FakeTrain, FakeTrainConfig())
PROPOSE = (FakePropose, FakeMapConfig())
LABEL = (FakeLabel, FakeMapConfig())
EXPORT = (FakeExport, StageConfig())


class NeedsTeacher(FakeExport):
    name = "gate"
    uses = ("teacher",)
    produces = "gate"


class NeedsStudents(FakeExport):
    name = "compare"
    uses = ("student.*",)
    produces = "compare"


@pytest.mark.parametrize(
    ("stages", "problems"),
    [
        ([INGEST, TRAIN, PROPOSE, LABEL, EXPORT], []),
        ([INGEST, (Evaluate, StageConfig())], []),
        ([INGEST, LABEL], ["pseudo_label: needs `proposals`, which no earlier stage adds"]),
        ([TRAIN, INGEST], ["stages: the first one must make `dataset`"]),
        (
            [INGEST, (NeedsTeacher, StageConfig()), TRAIN],
            ["gate: uses `teacher`, which no earlier stage makes"],
        ),
        (
            [INGEST, (NeedsStudents, StageConfig())],
            ["compare: uses `student.*`, which no earlier stage makes"],
        ),
        ([INGEST, (FakeTrain, FakeTrainConfig(model="a")), (NeedsStudents, StageConfig())], []),
        (
            [INGEST, TRAIN, TRAIN],
            ["finetune_teacher:teacher+: makes `teacher`, which an earlier stage makes already"],
        ),
        ([INGEST, (Thief, StageConfig())], ["export: asks for `truth`, which only `evaluate` may read"]),
        (
            [INGEST, (Thief, StageConfig()), (NeedsTeacher, StageConfig())],
            ["export: asks for `truth`", "gate: uses `teacher`"],
        ),
    ],
)
def test_a_plan_is_proved_before_work(stages, problems):
    found = prove(make_plan(*stages).stages)
    assert len(found) == len(problems)
    for line, expected in zip(found, problems, strict=True):
        assert line.startswith(expected)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("teacher", ["teacher"]),
        ("student.*", ["student.a", "student.b"]),
        ("student", []),
        (".*", []),
        ("*", []),
    ],
)
def test_patterns(pattern, names):
    assert matching(pattern, ["teacher", "student.a", "student.b", "truth"]) == names


def test_labels_are_unique():
    plan = make_plan(
        INGEST, (FakeTrain, FakeTrainConfig(model="a")), (FakeTrain, FakeTrainConfig(model="b")), PROPOSE
    )
    assert [p.label for p in plan.stages] == ["ingest", "finetune_teacher:a", "finetune_teacher:b", "propose"]
    plan = make_plan(INGEST, PROPOSE, LABEL, PROPOSE, PROPOSE)
    assert [p.label for p in plan.stages[1:]] == ["propose:1", "pseudo_label", "propose:2", "propose:3"]
