"""What a run asks an S3 server for, request by request: over a network each of them takes its time."""

from unittest.mock import Mock

import pytest
from engine_fakes import (
    make_links,
    make_record,
)
from store_fakes import KEY, Side, open_side

from pipeline.data.arrow import to_table
from pipeline.data.records import Record
from pipeline.data.urls import UrlPath, file_system
from pipeline.engine import remote_store
from pipeline.engine.chain import Chain
from pipeline.engine.streams import write_records
from pipeline.engine.tasks import UnitDone, placed
from pipeline.engine.units import RecordSet, Timing, read_unit

UNIT = f"units/ab/{KEY}"


@pytest.fixture
def there(bucket, tmp_path, monkeypatch) -> Side:
    """A store with one unit, of whose two images one is dropped."""
    side = open_side(f"{bucket}/store", tmp_path, monkeypatch)
    commit(side.store, KEY, make_record(1), make_record(2, dropped="blurred"))
    return side


@pytest.fixture
def asked(there, monkeypatch) -> list[str]:
    """The requests since it was last cleared."""
    fs, _ = file_system(UrlPath(there.where))
    found: list[str] = []
    call = fs._call_s3

    async def note(method: str, *given: object, **more: object) -> object:
        found.append(method)
        return await call(method, *given, **more)

    monkeypatch.setattr(fs, "_call_s3", note)
    return found


def commit(store, key: str, *records: Record) -> None:
    store.commit_unit(key, to_table(records), Timing(2.0, len(records)))


def test_a_note_is_read_without_its_unit(there, asked):
    expected = there.store.unit_summary(KEY)
    store = there.elsewhere()
    asked.clear()
    assert store.unit_summary(KEY) == expected
    assert expected.dropped == {2: "blurred"}
    assert store.unit_timing(KEY) == Timing(2.0, 2)
    assert asked == ["get_object"]
    assert not store.unit_place(KEY).exists()
    assert store.has_unit(KEY)
    assert store.unit_place(KEY).exists()


def test_a_note_may_be_long(there, asked):
    many = [make_record(i, dropped=f"reason {i} " * 100) for i in range(200)]
    commit(there.store, "ab" + "00" * 31, *many)
    store = there.elsewhere()
    asked.clear()
    assert len(store.unit_summary("ab" + "00" * 31).dropped) == 200
    assert 1 < len(asked) <= 3


@pytest.mark.parametrize(
    ("old", "new", "lost"),
    [
        (b"summary", b"smumary", False),
        (b"blurred", b"cropped", False),
        (b"seconds", b"\nconds", True),
        (b'"key": "ab', b'"key": "cd', True),
    ],
)
def test_a_damaged_note_is_not_believed(there, old, new, lost):
    """The unit itself is asked then, if its own digest can be told."""
    expected = there.store.unit_summary(KEY)
    there.change(UNIT, there.read(UNIT).replace(old, new, 1))
    store = there.elsewhere()
    if lost:
        with pytest.raises(OSError, match="gone or damaged"):
            store.unit_summary(KEY)
    else:
        assert store.unit_summary(KEY) == expected


def test_a_unit_is_given_to_a_worker_without_being_fetched(there, asked, tmp_path):
    """Only what the last stage has made is read where the units are planned."""
    write_records(tmp_path / "records", [make_record(i) for i in range(8)], unit_size=2)
    links = make_links(tmp_path, 4, 4)
    store, worker = there.elsewhere(), there.elsewhere()
    work = Chain(links, RecordSet.of_folder(tmp_path / "records"), store, fresh=False, watch=Mock())
    work.begin()
    asked.clear()
    while (task := work.take()) is not None:
        source = placed(task, worker).source
        commit(worker, task.key, *read_unit(source.parts, source.bucket))
        work.done(UnitDone(task.key, task.key, source.rows, 1.0))
    assert not list(store.root.rglob("*.parquet"))
    for part in work.records(1).parts:
        assert part.path.exists()
    assert len(list(store.root.rglob("*.parquet"))) == len(work.records(1).parts) > 1


def test_what_is_there_is_listed_and_not_asked_for_one_by_one(there, asked, monkeypatch):
    keys = [f"{n:02x}".rjust(64, "f") for n in range(100)]
    for key in keys[:2]:
        commit(there.store, key, make_record(1))
    asked.clear()
    assert [there.store.has_unit(key) for key in keys] == [True] * 2 + [False] * 98
    assert asked == ["list_objects_v2"]
    store = there.elsewhere()
    asked.clear()
    assert [store.has_unit(key) for key in keys] == [True] * 2 + [False] * 98
    assert asked == ["list_objects_v2", "get_object", "get_object"]
    commit(store, keys[2], make_record(1))
    assert store.has_unit(keys[2])
    commit(there.store, keys[3], make_record(1))
    monkeypatch.setattr(remote_store, "LISTED_SECONDS", 0.0)
    assert store.has_unit(keys[3])


def test_what_is_not_there_is_asked_for_once(there, asked):
    assert there.store.objects.read("units/none") is None
    assert asked == ["get_object"]
