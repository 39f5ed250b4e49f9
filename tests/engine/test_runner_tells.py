"""What a run tells of itself: timings, bills, reports, students by name."""

import json
import re
from dataclasses import replace

import yaml
from engine_fakes import (
    Bill,
    FakeExport,
    FakeIngest,
    FakeIngestConfig,
    FakeMapConfig,
    FakePropose,
    FakeTrain,
    FakeTrainConfig,
    Label,
    make_plan,
)

from pipeline.engine.stage import StageConfig


def test_timings_are_those_of_the_work_even_when_it_is_reused(go, tmp_path):
    plan = make_plan(
        (FakeIngest, FakeIngestConfig()),
        (FakeTrain, FakeTrainConfig(delay=0.02)),
        (FakePropose, FakeMapConfig()),
    )
    go(plan, out="a")
    go(plan, out="b")
    one, other = (json.loads((tmp_path / name / "run.json").read_text())["stages"] for name in "ab")
    assert [s["seconds"] for s in one] == [s["seconds"] for s in other]
    assert other[1]["seconds"] >= 0.1
    assert [s["made"] for s in other] == [0, 0, 0]


def test_a_bill_is_for_the_work_of_its_own_run(go, tmp_path):
    for name, settings in (("a", FakeTrainConfig()), ("b", FakeTrainConfig(steps=6, delay=0.02))):
        go(
            make_plan((FakeIngest, FakeIngestConfig()), (FakeTrain, settings), (Bill, StageConfig())),
            out=name,
        )
        stages = json.loads((tmp_path / name / "run.json").read_text())["stages"]
        told = json.loads((tmp_path / name / "cost.json").read_text())
        assert told == {stage["label"]: stage["seconds"] for stage in stages[:2]}


def test_a_report_names_its_own_run(go, tmp_path):
    plan = make_plan((FakeIngest, FakeIngestConfig()), (Label, StageConfig()))
    noted = replace(plan, resolved={**plan.resolved, "note": "b", "max_bad": 0.5})
    for out, changed in (("a", plan), ("b", noted), ("c", replace(plan, name="other"))):
        assert go(changed, out=out)[0]
    told = [json.loads((tmp_path / name / "report.json").read_text()) for name in "abc"]
    assert [run["name"] for run in told] == ["fake", "fake", "other"]
    assert [yaml.safe_load(run["config"]).get("note") for run in told] == [None, "b", None]
    assert not any("max_bad" in run["config"] for run in told)  # it changes no result
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", run["day"]) and "python" in run["versions"] for run in told)
    assert go(replace(plan, resolved={**plan.resolved, "max_bad": 0.4}), out="a")[0] is False


def test_a_student_each(go, tmp_path):
    students = [(FakeTrain, FakeTrainConfig(model=name)) for name in ("one", "two")]
    go(make_plan((FakeIngest, FakeIngestConfig()), *students, (FakeExport, StageConfig())))
    assert json.loads((tmp_path / "run" / "table.json").read_text()) == {
        "uses": ["student.one", "student.two"]
    }


def test_a_jobs_warning_is_told_and_again_when_it_is_reused(go, monkeypatch):
    run = FakeTrain.run
    monkeypatch.setattr(FakeTrain, "run", lambda *given: {**run(*given), "warning": "too few"})
    plan = make_plan((FakeIngest, FakeIngestConfig()), (FakeTrain, FakeTrainConfig()))
    for out in "ab":
        _, _, notes = go(plan, out=out)
        assert notes == ["finetune_teacher: too few"]
