"""What goes wrong with a store on an object store, and what becomes of it."""

import json
import threading

import pytest
from engine_fakes import make_record
from store_fakes import KEY, OTHER, Side, commit_artifact, written_by

from pipeline.data.arrow import to_table
from pipeline.engine import attempts, files
from pipeline.engine.objects import Objects
from pipeline.engine.remote_store import open_store
from pipeline.engine.units import Timing

UNIT = f"units/ab/{KEY}"
RECORD = f"artifacts/{KEY}/artifact.json"


def commit_unit(store, ids=(1, 2), **more):
    store.commit_unit(KEY, to_table([make_record(i) for i in ids]), Timing(1.0, len(ids)), **more)


def objects(remote: Side) -> Objects:
    return remote.store.objects


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda old: old[:20],
        lambda old: old[: len(old) // 2],
        lambda old: old + b"more",
        lambda old: b"{}\n" + old.partition(b"\n")[2],
        lambda old: b"[1]\n" + old.partition(b"\n")[2],
        lambda old: old.replace(KEY.encode(), b"cd" * 32),
        lambda old: bytes(255 - c if i == len(old) - 9 else c for i, c in enumerate(old)),
    ],
)
def test_a_damaged_unit_counts_as_missing_and_is_replaced(remote, damage):
    commit_unit(remote.store)
    remote.change(UNIT, damage(remote.read(UNIT)))
    # The machine that made it sees the damage, too: not its own copy counts.
    for store in (open_store(remote.where, known=True), remote.elsewhere()):
        assert not store.has_unit(KEY)
        assert store.damaged == [f"{remote.where}/{UNIT}"]
    store = remote.elsewhere()
    with pytest.raises(OSError, match="gone or damaged; the next run makes it again"):
        store.unit_path(KEY)
    commit_unit(store)
    assert remote.elsewhere().has_unit(KEY)


@pytest.mark.parametrize(
    "damage",
    [
        lambda remote: remote.change(RECORD, b""),
        lambda remote: remote.change(RECORD, remote.read(RECORD)[:-9]),
        lambda remote: remote.change(RECORD, remote.read(RECORD).replace(b'"loss": 0.5', b'"loss": 0.4')),
        lambda remote: remote.flip(name_of(remote, "weights.bin")),
        lambda remote: remote.change(name_of(remote, "weights.bin"), None),
        lambda remote: remote.change(name_of(remote, "truth", "file"), b"other"),
    ],
)
def test_a_damaged_artifact_counts_as_missing_and_is_replaced(remote, damage):
    commit_artifact(remote.store, truth="hidden")
    damage(remote)
    store = remote.elsewhere()
    assert store.find_artifact(KEY) is None
    assert store.damaged == [f"{remote.where}/artifacts/{KEY}"]
    commit_artifact(store, truth="hidden")
    found = remote.elsewhere().find_artifact(KEY)
    assert (found.part("truth").folder / "file").read_text() == "hidden"
    assert remote.leftovers() == []


def name_of(remote: Side, *parts: str) -> str:
    return next(name for name in remote.files() if all(part in name.split("/") for part in parts))


def test_a_damaged_local_copy_is_fetched_anew(remote):
    commit_unit(remote.store)
    made = commit_artifact(remote.store)
    path = remote.store.unit_path(KEY)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    (made.folder / "other.txt").write_text("changed")
    store = open_store(remote.where, known=True)
    assert store.unit_path(KEY).read_bytes() == whole
    assert store.has_unit(KEY)
    assert (store.find_artifact(KEY).folder / "other.txt").read_text() == "other"
    assert not store.damaged


def test_what_is_removed_over_there_is_missing_here(remote):
    commit_unit(remote.store)
    commit_artifact(remote.store)
    remote.change(UNIT, None)
    remote.change(RECORD, None)
    store = open_store(remote.where, known=True)
    assert not store.has_unit(KEY)
    assert store.find_artifact(KEY) is None
    assert not store.damaged


def test_copies_that_nobody_uses_are_removed(remote, monkeypatch):
    """And checkpoints of a job that was finished elsewhere."""
    commit_unit(remote.store)
    made = commit_artifact(remote.store, truth="hidden")
    with remote.store.job_lock(OTHER, lambda: None):
        (remote.store.workdir(OTHER) / "scratch").mkdir()
        (remote.store.workdir(OTHER) / "scratch" / "features").write_text("large")
        (remote.store.workdir(OTHER) / "step").write_text("1")
        remote.store.keep_work(OTHER, now=True)
    remote.store.forget_unused()
    assert made.folder.exists()
    assert (remote.store.root / "work" / OTHER / "scratch" / "features").exists()
    monkeypatch.setattr(files, "UNUSED_SECONDS", -10.0)
    remote.store.forget_unused()
    assert not [
        path for path in remote.store.root.rglob("*") if path.is_file() and path.parent.name != "locks"
    ]
    store = open_store(remote.where, known=True)
    assert store.find_artifact(KEY) is not None
    assert (store.workdir(OTHER) / "step").read_text() == "1"


def test_of_many_writers_one_wins(remote):
    """Of an object, and of a commit: all hold the winner's result then."""
    everyone = threading.Barrier(6)
    won, held = [], []

    def write(number: int) -> None:
        own = Objects(remote.where)
        for turn in range(8):
            everyone.wait()
            name, data = f"race/{turn}", f"{number}".encode()
            won.extend([turn] * own.create(name, data))
            held.append((turn, own.commit(name, data, stays=lambda _: True)))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(won) == list(range(8))
    assert len(set(held)) == 8


def test_of_many_who_replace_one_wins(remote):
    everyone = threading.Barrier(6)
    won = []

    def replace(number: int) -> None:
        own = Objects(remote.where)
        for turn in range(8):
            own.write(f"race/{turn}", b"old")
            everyone.wait()
            won.extend([turn] * own.replace(f"race/{turn}", b"old", f"{number}".encode()))

    writers = [threading.Thread(target=replace, args=(number,)) for number in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(won) == list(range(8))
    assert not Objects(remote.where).replace("race/none", b"old", b"new")
    assert remote.store.objects.read("race/none") is None


def test_who_replaces_what_was_replaced_meanwhile_removes_that(remote, monkeypatch):
    """Two redo one artifact: the files of neither the first nor the second stay under the record of the third."""
    commit_artifact(remote.store, truth="hidden")
    send = Objects.send

    def beaten(*call: object) -> None:
        send(*call)
        monkeypatch.setattr(Objects, "send", send)
        commit_artifact(remote.elsewhere(), "second", redo=True)

    monkeypatch.setattr(Objects, "send", beaten)
    commit_artifact(remote.store, "third", redo=True)
    assert remote.leftovers() == []
    assert (remote.elsewhere().find_artifact(KEY).folder / "sub" / "weights.bin").read_text() == "third"


def test_the_first_commit_wins(remote):
    first, second = remote.store, remote.elsewhere()
    commit_unit(first, (1, 2))
    commit_unit(second, (3,))
    assert second.unit_path(KEY).read_bytes() == first.unit_path(KEY).read_bytes()
    one = commit_artifact(first, "one")
    other = commit_artifact(second, "other")
    assert other.digest == one.digest
    assert (other.folder / "sub" / "weights.bin").read_text() == "one"
    assert remote.leftovers() == []


@pytest.mark.parametrize(
    ("host", "age", "swept"),
    [
        ("", 0.0, True),
        ("other", 3600.0, False),
        ("other", 25 * 3600.0, True),
    ],
)
def test_what_a_dead_attempt_left_is_swept(remote, monkeypatch, host, age, swept):
    commit_artifact(remote.store)
    with written_by(monkeypatch, host), monkeypatch.context() as patch:
        patch.setattr(Objects, "commit", lambda *_, **__: 1 / 0)  # it dies before its commit
        with pytest.raises(ZeroDivisionError):
            commit_artifact(remote.store, "other", truth="hidden", redo=True)
    before = remote.files()
    assert len(remote.leftovers()) == 2
    monkeypatch.setattr(Objects, "age", lambda *_: age)
    assert attempts.sweep(objects(remote)) == swept
    assert (remote.files() != before) == swept
    assert (remote.leftovers() == []) == swept
    found = remote.elsewhere().find_artifact(KEY)
    assert (found.folder / "sub" / "weights.bin").read_text() == "weights"


def test_a_mark_leads_nowhere_else(remote, monkeypatch):
    commit_unit(remote.store)
    with written_by(monkeypatch, ""):
        mark = f"tmp/{files.owner_name()}"
    for content in (b"", b"{}", b"[1]", json.dumps(["units", "artifacts", "artifacts/../units/ab"]).encode()):
        remote.change(mark, content)
        assert attempts.sweep(objects(remote)) == 1
    assert remote.elsewhere().has_unit(KEY)
