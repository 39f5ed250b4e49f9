import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
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
    chain,
    dead_temp_name,
    make_plan,
)

from pipeline.engine.faults import BadPlan, StageFailed, TooManyBad
from pipeline.engine.rundir import RunFolder
from pipeline.engine.stage import StageConfig
from pipeline.engine.status import find_results, read_status
from pipeline.engine.tasks import JobTask
from pipeline.engine.worker import Bench

ALL_MADE = {"ingest": 1, "finetune_teacher": 1, "propose": 8, "pseudo_label": 4, "export": 1}
NOTHING = dict.fromkeys(ALL_MADE, 0)


def snapshot(folder):
    return {
        p.relative_to(folder): (p.read_bytes(), p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_a_chain_runs_to_its_end(go, tmp_path):
    assert go(chain())[:2] == (True, ALL_MADE)
    rows = json.loads((tmp_path / "run" / "export" / "coco" / "train.json").read_text())
    assert [row["id"] for row in rows] == list(range(1, 41))
    assert rows[0]["scores"] == [0.001]
    assert rows[9]["scores"] == []  # human-masked: passed through
    assert json.loads((tmp_path / "run" / "table.json").read_text()) == {"uses": ["teacher"]}
    log = json.loads((tmp_path / "run" / "run.json").read_text())
    assert log["state"] == "done"
    assert [s["state"] for s in log["stages"]] == ["done"] * 5
    assert log["versions"]["python"]
    assert len(log["data_digest"]) == len(log["records_digest"]) == 64
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == chain().resolved
    assert not list((tmp_path / "store" / "work").iterdir())
    assert not list((tmp_path / "store" / "tmp").iterdir())


def test_a_finished_run_is_not_touched(go, tmp_path):
    go(chain())
    before = snapshot(tmp_path / "run") | snapshot(tmp_path / "store")
    assert go(chain()) == (False, NOTHING, [])
    after = snapshot(tmp_path / "run") | snapshot(tmp_path / "store")
    assert {p: v for p, v in after.items() if p.name != ".lock"} == {
        p: v for p, v in before.items() if p.name != ".lock"
    }


def test_a_lost_output_is_published_again(go, tmp_path):
    go(chain())
    shutil.rmtree(tmp_path / "run" / "export")
    assert go(chain())[:2] == (True, NOTHING)
    assert (tmp_path / "run" / "export" / "coco" / "train.json").exists()


def test_another_config_is_refused_naming_the_folder_to_use(go, tmp_path):
    go(chain())
    before = snapshot(tmp_path / "run")
    other = chain(train=FakeTrainConfig(steps=6))
    with pytest.raises(
        BadPlan, match=r"differs in stages\.1\.finetune_teacher\.steps\); use --out .*run-[0-9a-f]{8}"
    ):
        go(other)
    assert {p: v for p, v in snapshot(tmp_path / "run").items() if p.name != ".lock"} == {
        p: v for p, v in before.items() if p.name != ".lock"
    }
    # The new folder re-uses all that does not depend on the change.
    assert go(other, out="run2")[1] == NOTHING | {"finetune_teacher": 1, "pseudo_label": 4, "export": 1}


def test_a_folder_of_the_users_is_refused(go, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    hidden = tmp_path / "run" / ".tmp-precious"
    hidden.mkdir()
    (hidden / "thesis.txt").write_text("mine")
    before = snapshot(tmp_path / "run")
    with pytest.raises(BadPlan, match=r"not a run folder, yet it holds thesis\.txt"):
        go(chain())
    assert snapshot(tmp_path / "run") == before


def test_only_what_a_killed_run_left_is_cleaned(go, tmp_path):
    go(chain())
    run = tmp_path / "run"
    theirs = [run / ".tmp-precious", run / "keys" / ".tmp-notes-1999-old", run / "mine" / dead_temp_name()]
    ours = [folder / dead_temp_name() for folder in (run, run / "keys", run / "export" / "coco")]
    for folder in (*theirs, *ours):
        folder.mkdir(parents=True)
    go(chain())
    assert [folder.exists() for folder in (*theirs, *ours)] == [True] * 3 + [False] * 3


def test_units_of_equal_input_are_shared_between_runs(go):
    go(chain())
    # One image more: of the map stages, exactly the unit that holds it is new in each.
    _, made, _ = go(chain(ingest=FakeIngestConfig(extra=(99,))), out="run2")
    assert made == {"ingest": 1, "finetune_teacher": 0, "propose": 1, "pseudo_label": 1, "export": 1}


@pytest.mark.parametrize("stage", [2, 3])
def test_a_damaged_unit_alone_is_made_again(go, tmp_path, stage):
    go(chain())
    bytes_before = (tmp_path / "run" / "export" / "coco" / "train.json").read_bytes()
    key = RunFolder(tmp_path / "run").read_keys(stage)[1]
    path = tmp_path / "store" / "units" / key[:2] / f"{key}.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    status = read_status(tmp_path / "run")
    assert [(s.redo, s.damaged) for s in status.stages] == [
        (int(i == stage), int(i == stage)) for i in range(5)
    ]
    worked, made, notes = go(chain())
    assert worked
    assert sum(made.values()) == made[["", "", "propose", "pseudo_label"][stage]] == 1
    assert "was damaged and was made again" in notes[0]
    assert path.read_bytes() == whole
    assert (tmp_path / "run" / "export" / "coco" / "train.json").read_bytes() == bytes_before


def test_a_damaged_artifact_alone_is_made_again(go, tmp_path):
    go(chain())
    (key,) = RunFolder(tmp_path / "run").read_keys(1)
    (tmp_path / "store" / "artifacts" / key / "weights.txt").write_text("rubbish")
    # The recipe gives the same bytes, so nothing after it changes.
    assert go(chain())[1] == NOTHING | {"finetune_teacher": 1}


def test_fresh_redoes_all(go, tmp_path):
    go(chain())
    before = (tmp_path / "run" / "export" / "coco" / "train.json").read_bytes()
    assert go(chain(), fresh=True)[:2] == (True, ALL_MADE)
    assert (tmp_path / "run" / "export" / "coco" / "train.json").read_bytes() == before


@pytest.mark.parametrize("left", ["4", "rubbish"])
def test_fresh_starts_from_nothing(go, tmp_path, left):
    steps = tmp_path / "steps"
    plan = chain(train=FakeTrainConfig(calls=str(steps)))
    go(plan)
    (key,) = RunFolder(tmp_path / "run").read_keys(1)
    work = tmp_path / "store" / "work" / key
    work.mkdir()
    (work / "step").write_text(left)
    steps.unlink()
    go(plan, fresh=True)
    assert steps.read_text().split() == ["1", "2", "3", "4", "5"]
    assert not work.exists()


@pytest.mark.parametrize("unit_size", [5, 40])
def test_the_outcome_does_not_depend_on_the_cut(go, tmp_path, unit_size):
    settings = FakeMapConfig(unit_size=unit_size, batch_size=3)
    go(chain(), out="a", store="a-store")
    go(chain(propose=settings, label=settings), out="b", store="b-store")
    one, other = (tmp_path / name / "export" / "coco" / "train.json" for name in "ab")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"propose": FakeMapConfig(unreadable=(1, 2, 3))},
            r"3 of 40 images are bad \(7.5%\); max_bad allows 5.0%",
        ),
        (
            {"ingest": FakeIngestConfig(bad_annotations=6, bad_images=1)},
            r"6 of 100 annotations are bad \(6.0%\)[^\n]*\n  annotations\[0\]: no mask\n",
        ),
        ({"ingest": FakeIngestConfig(bad_images=4)}, r"4 of 44 images are bad .*\n  image 0: cut short\n"),
    ],
)
def test_too_many_bad_ones_end_the_run(go, tmp_path, changes, message):
    with pytest.raises(TooManyBad, match=message):
        go(replace(chain(**changes), max_bad=0.05))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "ended: TooManyBad"


def test_what_ingest_left_out_is_named_in_the_run_folder(go, tmp_path):
    with pytest.raises(TooManyBad):
        go(replace(chain(ingest=FakeIngestConfig(bad_images=9)), max_bad=0.05))
    listing = json.loads((tmp_path / "run" / "quarantine.json").read_text())
    log = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(listing["images"]) == len(log["quarantine"]) == 9
    assert log["quarantine"][0] == {"stage": "ingest", "entry": "image 0", "reason": "cut short"}


def test_an_image_that_could_not_be_read_is_tried_again_by_the_next_run(go, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for image_id in range(1, 41):
        (photos / f"{image_id}.txt").write_text(str(image_id))
    plan = replace(chain(), images=photos)
    (photos / "7.txt").rename(tmp_path / "away")
    _, _, notes = go(plan)
    assert notes == ["propose: images could not be read or ended the worker; the next run tries them again"]
    log = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [found["image_id"] for found in log["quarantine"]] == [7]
    assert [s.redo for s in read_status(tmp_path / "run").stages] == [0, 0, 1, 0, 0]
    (tmp_path / "away").rename(photos / "7.txt")
    assert go(plan)[:2] == (True, NOTHING | {"propose": 1, "pseudo_label": 1, "export": 1})
    assert json.loads((tmp_path / "run" / "run.json").read_text())["quarantine"] == []
    assert go(plan)[:2] == (False, NOTHING)


def test_a_few_bad_ones_are_counted_and_go_on(go, tmp_path):
    go(replace(chain(propose=FakeMapConfig(unreadable=(1, 2))), max_bad=0.05))
    log = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [s["quarantined"] for s in log["stages"]] == [0, 0, 2, 0, 0]
    assert log["quarantine"][0] == {
        "stage": "propose",
        "image_id": 1,
        "reason": "image 1.txt: cannot be read",
    }


def test_only_evaluate_sees_the_truth(go, tmp_path):
    with pytest.raises(BadPlan, match="asks for `truth`"):
        go(make_plan((FakeIngest, FakeIngestConfig()), (Thief, StageConfig())))
    assert not list((tmp_path / "store" / "artifacts").iterdir())
    go(make_plan((FakeIngest, FakeIngestConfig()), (Evaluate, StageConfig())), out="scored")
    assert json.loads((tmp_path / "scored" / "metrics.json").read_text()) == {"uses": ["truth"]}


def test_no_path_leads_to_the_truth(go, tmp_path, monkeypatch):
    """Neither a path that a stage is lent nor its parent has a truth below it, but for evaluate (and ingest)."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "labels.json").write_text("hidden")
    seen = {}
    do = Bench.do

    def watched(bench, pickled):
        task = pickle.loads(pickled)
        context = task.stage.context
        lent = [tmp_path / "store" / name for name in (*context.artifacts.values(), context.images_root)]
        if isinstance(task, JobTask):
            lent += [tmp_path / "store" / name / "one" for name in ("work", "tmp")]
            lent += [task.data_root / "labels.json"] if task.data_root != Path() else []
        below = (path for one in lent for path in one.parent.rglob("*") if path.is_file())
        seen[task.stage.label] = any(b"hidden" in path.read_bytes() for path in below)
        return do(bench, pickled)

    monkeypatch.setattr(Bench, "do", watched)
    maps = [(FakePropose, FakeMapConfig()), (FakeLabel, FakeMapConfig())]
    jobs = [(FakeTrain, FakeTrainConfig()), (FakeExport, StageConfig()), (Evaluate, StageConfig())]
    go(replace(make_plan((FakeIngest, FakeIngestConfig()), *maps, *jobs), data_root=data))
    assert seen == dict.fromkeys(seen, False) | {"ingest": True, "evaluate": True}
    assert len(seen) == 6
    truth = find_results(tmp_path / "run", "ingest", part="truth")["ingest"]
    assert (truth / "secret.txt").read_text() == "hidden"


def test_a_failing_stage_fails_the_run_and_keeps_what_is_done(go, tmp_path):
    with pytest.raises(StageFailed, match="the model broke"):
        go(chain(label=FakeMapConfig(unit_size=16, fault="error")))
    status = read_status(tmp_path / "run")
    assert status.state == "ended: StageFailed"
    assert [(s.done, s.total) for s in status.stages] == [(1, 1), (1, 1), (8, 8), (0, 4), (0, 0)]
