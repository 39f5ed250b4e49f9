"""The run folder: its lock, what `status` tells of it, and what becomes of it when its own files are damaged."""

import fcntl
import json
import shutil
import threading
from contextlib import nullcontext
from dataclasses import replace

import pytest
from engine_fakes import FakeLabel, FakeMapConfig, FakePropose, FakeTrain, chain, dead_temp_name

from pipeline.engine.faults import BadPlan, FolderBusy, StageFailed
from pipeline.engine.rundir import RunFolder
from pipeline.engine.status import read_status
from pipeline.engine.store import Store


def test_a_busy_folder_names_its_holder(go, tmp_path):
    with (
        RunFolder(tmp_path / "run").locked(),
        pytest.raises(FolderBusy, match=r"process \d+ on \w+ works here"),
    ):
        go(chain())
    (tmp_path / "run" / ".lock").write_text('{"pid": 1, "host": "elsewhere"}')  # left by a dead holder
    assert go(chain())[0]


def test_resources_may_change_in_a_folder(go):
    plan = chain()
    go(plan)
    changed = json.loads(json.dumps(plan.resolved))
    changed["stages"][2]["propose"]["resources"] = {"gpus": 1}
    changed["verify"] = "stat"
    assert go(replace(plan, resolved=changed))[0] is False


def test_status_writes_nothing(go, tmp_path):
    go(chain())
    shutil.rmtree(tmp_path / "store" / "locks")
    left = tmp_path / "store" / "tmp" / dead_temp_name()
    left.write_text("half")
    read_status(tmp_path / "run")
    assert left.exists()
    assert not (tmp_path / "store" / "locks").exists()


def test_units_whose_keys_are_not_known_yet_are_left_to_do(go, tmp_path):
    go(chain())
    keys = tmp_path / "run" / "keys" / "02.txt"
    keys.write_text(keys.read_text().splitlines()[0] + "\n")
    stage = read_status(tmp_path / "run").stages[2]
    assert (stage.done, stage.total, stage.redo) == (1, 8, 7)


def states(folder):
    return [(s.state, s.done, s.total, s.quarantined) for s in read_status(folder).stages]


def test_what_an_earlier_run_had_done_is_not_told_of_this_one(go, tmp_path, monkeypatch):
    go(chain())
    monkeypatch.setattr(FakeTrain, "run", lambda *_: 1 / 0)
    with pytest.raises(StageFailed):
        go(chain(), fresh=True)
    assert states(tmp_path / "run") == [
        ("done", 1, 1, 0),
        ("interrupted", 0, 1, 0),
        *[("waiting", 0, 0, 0)] * 3,
    ]


@pytest.mark.parametrize("fresh", [False, True])
def test_a_stage_at_work_tells_how_far_it_is(go, tmp_path, monkeypatch, fresh):
    plan = chain(propose=FakeMapConfig(unit_size=4, unreadable=(1, 2, 3)))
    if fresh:
        go(plan, out="other")
    monkeypatch.setattr("pipeline.engine.map_run.NOTE_SECONDS", -1.0)
    call, seen = FakePropose.__call__, []

    def fifth(stage, batch):
        seen.append(batch)
        return 1 / 0 if len(seen) > 4 else call(stage, batch)

    monkeypatch.setattr(FakePropose, "__call__", fifth)
    with pytest.raises(StageFailed):
        go(plan, fresh=fresh)
    stage = read_status(tmp_path / "run").stages[2]
    log = json.loads((tmp_path / "run" / "run.json").read_text())["stages"][2]
    assert stage.state == "interrupted"
    assert stage.total == log["units"] > 4
    assert 0 < stage.quarantined == log["quarantined"] <= 3
    assert stage.done + stage.quarantined >= 3  # a unit that lost images is made again by the next run
    assert stage.done < stage.total - 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", b""),
        ("run.json", b"{}"),
        ("run.json", b"[1]"),
        ("run.json", b'{"stages": [{"label": "a", "kind": "map", "sort": 1}]}'),
        ("run.json", b"\xff\xfe"),
        ("keys/02.txt", b"\xff\xfe"),
        ("keys/02.txt", b"abc\n"),
        ("keys/02.txt", b""),
        (".lock", b"\xff"),
    ],
)
def test_damaged_files_of_the_folder_are_written_anew(go, tmp_path, name, content):
    go(chain())
    path = tmp_path / "run" / name
    sound = path.read_bytes()
    path.write_bytes(content)
    assert go(chain())[0] == (name != ".lock")
    assert name in ("run.json", ".lock") or path.read_bytes() == sound
    assert [s.state for s in read_status(tmp_path / "run").stages] == ["done"] * 5


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: [", b"a: b: c"])
def test_a_damaged_config_is_named(go, tmp_path, content):
    go(chain())
    (tmp_path / "run" / "config.yaml").write_bytes(content)
    with pytest.raises(BadPlan, match=r"config\.yaml: damaged: .*; use --out"):
        go(chain())


def test_status_of_a_damaged_log_is_an_error_by_name(go, tmp_path):
    go(chain())
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(BadPlan, match=r"expected a run folder with a sound run\.json"):
        read_status(tmp_path / "run")


def test_who_only_looks_at_a_folder_keeps_nobody_out(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.locked():
        pass
    held, free = (tmp_path / ".lock").open(), threading.Event()
    fcntl.flock(held, fcntl.LOCK_SH)
    threading.Timer(0.2, lambda: (free.set(), held.close())).start()
    with folder.locked():
        assert free.is_set()


def test_a_teacher_that_another_run_makes_anew_is_not_mixed_in(go, monkeypatch):
    made = []
    train, setup = FakeTrain.run, FakeLabel.setup

    def train_to_other_bits(stage, data, context):
        made.append(train(stage, data, context))
        (context.out / "weights.txt").write_text(str(len(made)))
        return made[-1]

    def set_up_late(stage, context):
        if len(made) == 1:
            go(chain(), out="other", fresh=True)
        setup(stage, context)

    monkeypatch.setattr(FakeTrain, "run", train_to_other_bits)
    monkeypatch.setattr(FakeLabel, "setup", set_up_late)
    with pytest.raises(StageFailed, match="another run has made teacher anew meanwhile"):
        go(chain())
    assert go(chain())[1]["pseudo_label"] == 0  # the other run has made them


@pytest.mark.parametrize("busy", [False, True])
def test_checkpoints_that_a_killed_worker_left_after_its_commit_go(go, tmp_path, busy):
    go(chain())
    (key,) = RunFolder(tmp_path / "run").read_keys(1)
    store = Store(tmp_path / "store")
    (store.workdir(key) / "step").write_text("5")
    with store.job_lock(key, lambda: None) if busy else nullcontext():
        assert not go(chain())[0]
    assert store.has_work(key) == busy  # another run with --fresh does it once more


def test_a_job_that_somebody_else_has_done_meanwhile_leaves_no_checkpoints(go, tmp_path, monkeypatch):
    go(chain())
    (key,) = RunFolder(tmp_path / "run").read_keys(1)
    find, found = Store.find_artifact, []

    def not_at_first(store, asked):
        found.append(asked)
        return None if asked == key and found.count(key) == 1 else find(store, asked)

    monkeypatch.setattr(Store, "find_artifact", not_at_first)
    store = Store(tmp_path / "store")
    (store.workdir(key) / "step").write_text("5")
    go(chain())
    assert found.count(key) == 2
    assert not store.has_work(key)
