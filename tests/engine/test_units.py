import numpy as np
import psutil
import pytest
from engine_fakes import make_record
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.records import Role
from pipeline.engine import streams
from pipeline.engine.streams import RecordStream, write_records
from pipeline.engine.units import (
    Bucket,
    RecordSet,
    bits_for,
    digest_records,
    filled_buckets,
    hash_ids,
    plan_unit,
    read_unit,
)

ALL = frozenset(Role)


@pytest.mark.parametrize(
    ("images", "size", "bits"),
    [(0, 8, 0), (1, 8, 0), (8, 8, 0), (9, 8, 1), (16, 8, 1), (17, 8, 2), (33, 8, 3), (1000000, 64, 14)],
)
def test_bucket_count_is_the_next_power_of_two(images, size, bits):
    assert bits_for(images, size) == bits


def test_hash_is_frozen():
    # Another hash would put images into other units: every store would be void.
    assert hash_ids(np.array([0, 1, -1], np.int64)).tolist() == [
        16294208416658607535,
        10451216379200822465,
        16490336266968443936,
    ]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, unique=True), st.integers(0, 6))
def test_buckets_partition_and_nest(ids, bits):
    ids = np.array(ids, np.int64)
    fine = [Bucket(bits + 1, i) for i in range(2 << bits)]
    for index in range(1 << bits):
        coarse = Bucket(bits, index).holds(ids)
        assert (coarse == (fine[2 * index].holds(ids) | fine[2 * index + 1].holds(ids))).all()
    assert sum(bucket.holds(ids).astype(int) for bucket in fine).tolist() == [1] * len(ids)


def cut_into_units(records, size):
    bits = bits_for(records.rows, size)
    buckets = [Bucket(bits, index) for index in filled_buckets(records, bits)]
    return [plan_unit(records.touching(bucket), bucket) for bucket in buckets]


@pytest.fixture
def stored(tmp_path):
    def store(ids, unit_size, **changes):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        write_records(folder, (make_record(i, **changes) for i in ids), unit_size=unit_size)
        return RecordSet.of_folder(folder)

    return store


@pytest.mark.parametrize(("written", "cut"), [(4, 3), (64, 1), (8, 100)])
def test_units_hold_each_record_once_however_files_are_cut(stored, written, cut):
    records = stored(range(1, 42), written)
    units = cut_into_units(records, cut)
    found = [read_unit(unit.parts, unit.bucket) for unit in units]
    assert [len(rows) for rows in found] == [unit.rows for unit in units]
    assert sorted(r.image_id for rows in found for r in rows) == list(range(1, 42))
    assert all([r.image_id for r in rows] == sorted(r.image_id for r in rows) for rows in found)
    # The input identity is that of the rows, not of the files they come from.
    assert [u.digest for u in units] == [u.digest for u in cut_into_units(stored(range(1, 42), 7), cut)]
    assert digest_records(records, ALL) == digest_records(stored(range(41, 0, -1), 16), ALL)


def test_a_job_depends_on_the_records_of_its_roles_only(stored):
    masked = frozenset({Role.HUMAN_MASKED})
    before, after = stored(range(1, 42), 8), stored([*range(1, 42), 43], 8)
    assert digest_records(before, masked) == digest_records(after, masked)
    assert digest_records(before, ALL) != digest_records(after, ALL)
    changed = stored(range(1, 42), 8, tags=(1, 2))
    assert digest_records(before, masked) != digest_records(changed, masked)


@settings(max_examples=4, deadline=None)
@given(new=st.integers(1000, 2**62))
def test_an_added_image_touches_one_unit(tmp_path_factory, new):
    def units(ids):
        folder = tmp_path_factory.mktemp("records")
        write_records(folder, map(make_record, ids), unit_size=8)
        return {unit.bucket.name: unit.digest for unit in cut_into_units(RecordSet.of_folder(folder), 8)}

    before, after = units(range(1, 41)), units([*range(1, 41), new])
    assert len({name for name in after if before.get(name) != after[name]}) == 1


@pytest.mark.parametrize("fan_in", [2, 3, 128])
def test_a_stream_is_in_image_id_order_and_iterates_again(stored, monkeypatch, fan_in):
    monkeypatch.setattr(streams, "FAN_IN", fan_in)
    records = stored([9, 4, 30, 7, 20, 1, 10, 3, 2, 40, 50], 1)
    assert len(records.parts) > 3
    stream = RecordStream(records, frozenset({Role.HUMAN_MASKED}), 5)
    handles = psutil.Process().num_fds()
    for _ in range(2):
        assert [record.image_id for record in stream] == [10, 20, 30, 40, 50][: len(stream)]
    assert psutil.Process().num_fds() == handles


def test_spilling_changes_nothing(tmp_path, monkeypatch):
    write_records(tmp_path / "whole", map(make_record, range(100)), unit_size=4)
    monkeypatch.setattr(streams, "SPILL_ROWS", 7)
    write_records(tmp_path / "spilled", map(make_record, range(100)), unit_size=4)
    whole, spilled = (sorted((tmp_path / name).iterdir()) for name in ("whole", "spilled"))
    assert [p.name for p in whole] == [p.name for p in spilled]
    assert [p.read_bytes() for p in whole] == [p.read_bytes() for p in spilled]


def test_an_id_given_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="image_id 5 was given twice"):
        write_records(tmp_path / "records", map(make_record, [5, 6, 5]))
