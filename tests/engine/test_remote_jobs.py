"""Who works on a job whose store is an object store, and how far it got: leases and copies of checkpoints."""

import json
import os
import re
import time
from pathlib import Path

import pytest
from store_fakes import KEY, Side, commit_artifact, written_by

from pipeline.engine import files, lease, snapshot
from pipeline.engine.context import Stopped
from pipeline.engine.lease import Lease
from pipeline.engine.objects import Objects
from pipeline.engine.remote_store import open_store


def save(store, **content: str) -> None:
    """Work on the job: write checkpoints, and copy them."""
    with store.job_lock(KEY, lambda: None):
        for name, text in content.items():
            (store.workdir(KEY) / name).write_text(text)
        store.keep_work(KEY, now=True)


def no_answer(*_: object) -> bool:
    raise OSError("no answer")


def objects(remote: Side) -> Objects:
    return remote.store.objects


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lease, "EXPIRES_SECONDS", 1.2)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.1)


@pytest.mark.parametrize("host", ["", "other"])
@pytest.mark.usefixtures("quick")
def test_the_lease_of_the_dead_is_taken_over(remote, monkeypatch, host):
    with written_by(monkeypatch, host):
        assert Lease(objects(remote), "locks/x").take()
    waited = []
    began = time.monotonic()
    with Lease(objects(remote), "locks/x").held(lambda: waited.append(1)):
        took = time.monotonic() - began
    assert bool(waited) == bool(host)  # that one might be alive
    assert took >= 1.2 * bool(host)
    assert objects(remote).read("locks/x") is None


@pytest.mark.usefixtures("quick")
def test_a_lease_that_is_renewed_is_not_taken_over(remote):
    waits = []

    def wait() -> None:
        waits.append(time.monotonic())
        if waits[-1] - waits[0] > 3.0:
            raise TimeoutError

    with (
        Lease(objects(remote), "locks/x").held(lambda: None),
        pytest.raises(TimeoutError),
        Lease(Objects(remote.where), "locks/x").held(wait),
    ):
        pass


@pytest.mark.usefixtures("quick")
def test_a_late_finisher_does_no_harm(remote, monkeypatch):
    """It lost its lease while it slept: its result is not taken, its checkpoint not copied, the other's lease stays."""
    first, second = remote.store, remote.elsewhere()
    monkeypatch.setattr(Lease, "_renew", lambda _: None)
    with first.job_lock(KEY, lambda: None):
        (first.workdir(KEY) / "step").write_text("1")
        with second.job_lock(KEY, lambda: None):
            (second.workdir(KEY) / "step").write_text("5")
            second.keep_work(KEY, now=True)
            (first.workdir(KEY) / "step").write_text("2")
            first.keep_work(KEY, now=True)
            assert (remote.elsewhere().workdir(KEY) / "step").read_text() == "5"
            one = commit_artifact(second, "second")
            other = commit_artifact(first, "first")
            assert other.digest == one.digest
            held = objects(remote).read(f"locks/{KEY}")
        assert held is not None
    assert remote.leftovers() == []


@pytest.mark.usefixtures("quick")
def test_a_damaged_lease_is_taken_over_after_a_while(remote):
    remote.change("locks/x", b"\0")
    with Lease(objects(remote), "locks/x").held(lambda: None):
        pass


def test_checkpoints_are_copied_when_they_have_changed_and_it_is_time(remote, monkeypatch):
    with remote.store.job_lock(KEY, lambda: None):
        work = remote.store.workdir(KEY)
        (work / "step").write_text("1")
        remote.store.keep_work(KEY)
        assert not [name for name in remote.files() if name.startswith("work/")]
        monkeypatch.setattr(snapshot, "EVERY_SECONDS", 0.0)
        monkeypatch.setattr(snapshot, "SHARE", 0)
        (work / "large").mkdir()
        (work / "large" / "kept").write_text("same")
        (work / "scratch").mkdir()
        (work / "scratch" / "cache").write_text("made anew")
        remote.store.keep_work(KEY)
        assert len([name for name in remote.files() if name.startswith("work/")]) == 3
        sent = []
        write_file = Objects.write_file
        monkeypatch.setattr(Objects, "write_file", lambda *a: sent.append(a[1]) or write_file(*a))
        remote.store.keep_work(KEY)
        assert not sent
        (work / "step").write_text("22")
        remote.store.keep_work(KEY)
        assert len(sent) == 1
        assert len([name for name in remote.files() if name.startswith("work/")]) == 3
    there = remote.elsewhere().workdir(KEY)
    assert sorted(p.relative_to(there).as_posix() for p in there.rglob("*")) == [
        "large",
        "large/kept",
        "step",
    ]


def test_a_copy_that_fails_ends_nothing(remote, monkeypatch):
    """It is told, tried again when the next is due and not before, and forgotten once one is there."""
    monkeypatch.setattr(snapshot, "EVERY_SECONDS", 0.5)
    monkeypatch.setattr(snapshot, "SHARE", 0)
    tried = []

    def fail(self: Objects, name: str, source: Path) -> None:
        tried.append(name)
        raise OSError(f"{self.url_of(name)}: no answer from {source.name}")

    with remote.store.job_lock(KEY, lambda: None):
        (remote.store.workdir(KEY) / "step").write_text("1")
        with monkeypatch.context() as patch:
            patch.setattr(Objects, "write_file", fail)
            told = remote.store.keep_work(KEY, now=True)
            assert re.search("the checkpoints were not copied: .*no answer from step", told)
            assert remote.store.keep_work(KEY) == told
            assert len(tried) == 1
        time.sleep(0.5)
        assert remote.store.keep_work(KEY) == ""
    assert (remote.elsewhere().workdir(KEY) / "step").read_text() == "1"


def test_a_server_that_is_gone_as_a_job_is_stopped_ends_nothing_else(remote, monkeypatch):
    """Whose the lease is cannot be asked: neither for a last copy nor to give it back."""

    def stopped() -> None:
        with remote.store.job_lock(KEY, lambda: None):
            (remote.store.workdir(KEY) / "step").write_text("1")
            monkeypatch.setattr(Lease, "is_ours", no_answer)
            assert "no answer" in remote.store.keep_work(KEY, now=True)
            raise Stopped

    with pytest.raises(Stopped):
        stopped()


def test_only_who_holds_the_job_copies_its_checkpoints(remote):
    """Not the other processes of a team."""
    save(remote.store, step="1")
    other = open_store(remote.where, known=True)
    (other.workdir(KEY) / "step").write_text("2")
    other.keep_work(KEY, now=True)
    assert (remote.elsewhere().workdir(KEY) / "step").read_text() == "1"


def test_the_machine_that_is_ahead_keeps_its_checkpoints(remote):
    save(remote.store, step="1")
    (remote.store.workdir(KEY) / "step").write_text("2")
    assert (open_store(remote.where, known=True).workdir(KEY) / "step").read_text() == "2"
    here = Path(os.environ[files.CACHE])
    other = remote.elsewhere()
    save(other, step="9")
    os.environ[files.CACHE] = str(here)
    assert (open_store(remote.where, known=True).workdir(KEY) / "step").read_text() == "9"


@pytest.mark.parametrize("damage", ["file", "listing", "content", "way out"])
def test_a_snapshot_is_complete_or_is_not_there(remote, damage):
    save(remote.store, step="1", more="2")
    listing = f"work/{KEY}/snapshot.json"
    name = next(n for n in remote.files() if n.startswith("work/") and n != listing)
    digest = name.split("/")[-1]
    content = {"listing": b"{", "way out": json.dumps({"../out": digest}).encode()}
    if damage in content:
        remote.change(listing, content[damage])
    else:
        remote.change(name, None if damage == "file" else b"other")
    assert list(remote.elsewhere().workdir(KEY).iterdir()) == []
