import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from engine_fakes import make_record
from store_helpers import KEY, commit_artifact, flip

from pipeline.data.arrow import to_table
from pipeline.engine import files, parquet
from pipeline.engine.machine import host, machine, process_start
from pipeline.engine.store import Store
from pipeline.engine.units import Timing, summarise


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def test_a_unit_is_found_with_its_timing(store):
    table = to_table([make_record(1), make_record(2)])
    assert not store.has_unit(KEY)
    store.commit_unit(KEY, table, Timing(2.0, 2))
    assert store.has_unit(KEY)
    assert store.unit_timing(KEY) == Timing(2.0, 2)
    assert parquet.read(store.unit_path(KEY)).replace_schema_metadata(None).equals(table)
    assert not list((store.root / "tmp").iterdir())


class Broken(io.BytesIO):
    def read(self, *_):
        raise OSError(errno.EIO, "Input/output error")


def test_what_the_disk_does_not_give_back_is_damaged(store, monkeypatch):
    store.commit_unit(KEY, to_table([make_record(1)]), Timing(2.0, 1))
    commit_artifact(store)
    whole, broken = Path.open, {}

    def read(path, *given, **named):
        return Broken() if path.name in broken else whole(path, *given, **named)

    monkeypatch.setattr(Path, "open", read)
    for name, has in (
        (f"{KEY}.parquet", lambda: store.has_unit(KEY)),
        ("weights.bin", lambda: store.find_artifact(KEY) is not None),
    ):
        assert has()
        broken = {name}
        assert not has()
        with pytest.raises(OSError, match=name):
            files.file_digest(Path(name))
    assert store.damaged == [store.unit_path(KEY), store.artifact_folder(KEY)]


def test_a_full_disk_is_named(tmp_path):
    def write(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: .*target"):
        files.commit_file(tmp_path / "target", write)


def test_equal_units_are_equal_bytes(store):
    table = to_table([make_record(1), make_record(2)])
    store.commit_unit(KEY, table, Timing(2.0, 2))
    first = store.unit_path(KEY).read_bytes()
    store.commit_unit(KEY, table, Timing(3.0, 2))
    assert store.unit_path(KEY).read_bytes() == first


@pytest.mark.parametrize(
    ("place", "noted"),
    [
        *((place, True) for place in (0.0, 0.1, 0.5, 0.97, 1.0)),
        *((place, False) for place in (0.1, 0.3, 0.5, 1.0)),
    ],
)
def test_a_flipped_bit_makes_a_unit_missing(store, place, noted):
    rows = [make_record(i, instructions=(f"instruction {i * 7919}" * 9,)) for i in range(300)]
    store.commit_unit(KEY, to_table(rows), Timing(1.0, 300))
    flip(store.unit_path(KEY), place)
    if not noted:
        store.unit_path(KEY).with_suffix(".json").unlink()
    assert not store.has_unit(KEY)
    assert store.damaged == [store.unit_path(KEY)]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_unit_is_missing(store, share):
    store.commit_unit(KEY, to_table([make_record(1)]), Timing(1.0, 1))
    path = store.unit_path(KEY)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert not store.has_unit(KEY)


def test_a_unit_under_another_key_is_missing(store):
    store.commit_unit(KEY, to_table([make_record(1)]), Timing(1.0, 1))
    other = "cd" * 32
    store.unit_path(other).parent.mkdir()
    os.rename(store.unit_path(KEY), store.unit_path(other))
    assert not store.has_unit(other)


def test_a_lost_timing_is_no_loss(store):
    store.commit_unit(KEY, to_table([make_record(1)]), Timing(1.0, 1))
    store.unit_path(KEY).with_suffix(".json").write_text("")
    assert store.has_unit(KEY)
    assert store.unit_timing(KEY) == Timing(0.0, 0)


def name_by_child(temp):
    """A child process that is over but not reaped, so that its id is still taken, and the temp name it gave."""
    code = "import sys; from pathlib import Path; from pipeline.engine.files import temp_name; "
    command = [sys.executable, "-c", code + f"print(temp_name(Path({str(temp)!r})))"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    name = Path(child.stdout.read().strip())
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert f"-{child.pid}-" in name.name
    return child, name


def test_leftovers_of_dead_processes_are_cleaned_and_no_others(store):
    temp = store.root / "tmp"
    (reaped, dead), (zombie, unreaped) = name_by_child(temp), name_by_child(temp)
    reaped.wait()
    dead.mkdir()
    (dead / "half").write_text("half")
    mine = files.temp_name(temp)
    mine.write_text("being written")
    start = str(process_start(os.getpid()))
    before_me = mine.with_name(mine.name.replace(f"-{start}-", "-1-"))
    foreign, old = (temp / f"{files.TEMP}elsewhere-{pid}-5-0123abcd" for pid in (1, 2))
    not_ours = temp / f"{files.TEMP}thesis-2-final"
    for path in (unreaped, before_me, foreign, old, not_ours):
        path.write_text("written")
    for path in (old, not_ours):
        os.utime(path, (0, 0))
    Store(store.root)
    assert set(temp.iterdir()) == {mine, foreign, not_ours}
    assert not files.is_leftover(
        foreign.with_name(foreign.name.replace("-1-", "-3-"))
    )  # put in place meanwhile
    zombie.wait()


def test_a_container_with_process_ids_of_its_own_is_another_machine():
    code = "from pipeline.engine.machine import machine; print(machine())"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        pytest.skip(f"no namespace can be made here: {told.stderr.strip()[-80:]}")
    assert told.stdout.strip() != machine()
    assert told.stdout.startswith(f"{host()}.")


def test_scratch_of_a_killed_process_goes_with_the_next_one(tmp_path, monkeypatch):
    code = "import os; from pipeline.engine import files; held = files.scratch_folder(); held.__enter__(); "
    code += "os.kill(os.getpid(), 9)"
    killed = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False
    )
    assert killed.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with files.scratch_folder() as mine:
        assert list(tmp_path.iterdir()) == [mine]
        (mine / "spilled").write_text("spilled")
    assert list(tmp_path.iterdir()) == []


def test_looking_touches_nothing(tmp_path):
    assert not Store(tmp_path / "none", look_only=True).has_unit(KEY)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing(tmp_path):
    target = tmp_path / "file"
    target.write_text("before")

    def write(temp):
        temp.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        files.commit_file(target, write)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert target.read_text() == "before"


def test_placing_a_file_twice_does_nothing(tmp_path):
    source, target = tmp_path / "source", tmp_path / "out" / "target"
    source.write_text("bytes")
    assert files.place(source, target)
    assert not files.place(source, target)
    target.write_text("other")  # in place, as an editor may do it
    assert source.read_text() == "bytes"
    assert files.place(source, target)
    target.unlink()
    os.link(source, target)  # what is one file with its source does not stay so
    assert files.place(source, target)
    assert not target.samefile(source)
    assert target.read_text() == "bytes"
    assert [p.name for p in target.parent.iterdir()] == ["target"]


def test_work_is_kept_until_it_is_forgotten(store):
    (store.workdir(KEY) / "checkpoint").write_text("1")
    assert json.loads((Store(store.root).workdir(KEY) / "checkpoint").read_text()) == 1
    store.forget_work(KEY)
    assert not list(store.workdir(KEY).iterdir())


def test_a_job_is_worked_on_by_one_at_a_time(store):
    asked = []

    def give_up():
        asked.append(1)
        if len(asked) == 2:
            raise TimeoutError

    with store.job_lock(KEY, pytest.fail):
        with pytest.raises(TimeoutError), Store(store.root).job_lock(KEY, give_up):
            pytest.fail("two hold it")
        with store.job_lock("cd" * 32, pytest.fail):
            pass
    with store.job_lock(KEY, pytest.fail):
        pass


@pytest.mark.parametrize("harm", ["none", "lost", "changed", "no json"])
def test_a_summary_is_that_of_the_unit_whatever_became_of_its_note(store, harm):
    records = [make_record(7, dropped="cut short"), make_record(3), make_record(5)]
    table = to_table(records)
    store.commit_unit(KEY, table, Timing(1.0, 3))
    note = store.unit_path(KEY).with_suffix(".json")
    if harm == "lost":
        note.unlink()
    elif harm == "changed":
        note.write_text(note.read_text().replace("cut short", "cut thort"))
    elif harm == "no json":
        note.write_text("[")
    found = store.unit_summary(KEY)
    assert (found.rows, dict(found.dropped)) == (3, {7: "cut short"})
    assert found == summarise(table)
    assert found.digest == summarise(to_table(sorted(records, key=lambda r: r.image_id))).digest
    assert found.digest != summarise(to_table(records[1:])).digest
