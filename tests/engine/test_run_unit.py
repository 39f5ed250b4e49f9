import json

import pytest
from engine_fakes import FakeMapConfig, FakePropose, make_record

from pipeline.data.arrow import from_table
from pipeline.data.records import Ontology, Origin, Prompt, Role
from pipeline.engine import parquet
from pipeline.engine.context import Stopped, WorkerContext
from pipeline.engine.faults import StageFailed
from pipeline.engine.machine import Heartbeat, images_in_hand
from pipeline.engine.run_unit import Surroundings, run_unit
from pipeline.engine.store import Store
from pipeline.engine.streams import write_records
from pipeline.engine.tasks import StageTask, UnitTask
from pipeline.engine.units import Bucket, RecordSet, plan_unit, read_unit


@pytest.fixture
def world(tmp_path):
    """A function that runs FakePropose on the given records as one unit; the records, the calls, the bytes."""
    (tmp_path / "images").mkdir()

    def run(records, *, suspects=(), poison=(), should_stop=lambda: False, **settings):
        number = len(list(tmp_path.iterdir()))
        for record in records:
            (tmp_path / "images" / record.uri).write_text(str(record.image_id))
        write_records(tmp_path / f"{number}-in", records)
        unit = plan_unit(RecordSet.of_folder(tmp_path / f"{number}-in").parts, Bucket(0, 0))
        calls = tmp_path / f"{number}-calls"
        calls.touch()
        config = FakeMapConfig(calls=str(calls), unit_size=len(records), **settings)
        context = WorkerContext("cpu", Ontology(()), tmp_path / "images", {})
        stage = FakePropose(config)
        stage.setup(context)
        task = StageTask("propose", FakePropose, config.model_dump_json(), context, 1)
        store = Store(tmp_path / f"{number}-store")
        around = Surroundings(store, Heartbeat(tmp_path / "beat"), lambda _: None, should_stop)
        key = "00" * 32
        done = run_unit(
            stage,
            UnitTask(task, key, unit, frozenset(suspects), dict.fromkeys(poison, "worker died")),
            around,
        )
        assert done.key == key
        assert store.has_unit(key) is not (bool(poison) or bool(settings.get("unreadable")))
        part = plan_unit(RecordSet.of_folder(tmp_path / f"{number}-in").parts, Bucket(0, 0))
        assert [r.image_id for r in read_unit(part.parts, part.bucket)] == sorted(r.image_id for r in records)
        path = store.unit_path(done.made)
        made = from_table(parquet.read(path))
        return made, [json.loads(line) for line in calls.read_text().splitlines()], path.read_bytes()

    return run


def scores(records):
    return {record.image_id: record.proposals[0].score if record.proposals else None for record in records}


def test_batches_are_full_and_in_order(world):
    made, calls, _ = world([make_record(i) for i in (5, 3, 9, 1, 7)], batch_size=3)
    assert calls == [[1, 3, 5], [7, 9, 0]]
    assert scores(made) == {i: i / 1000 for i in (1, 3, 5, 7, 9)}


def test_what_fills_a_batch_has_nothing_to_ask_about(world, monkeypatch):
    filled = []
    original = FakePropose.blank

    def spy(self, record):
        filled.append(record)
        return original(self, record)

    monkeypatch.setattr(FakePropose, "blank", spy)
    labels = {"tags": (1,), "proposals": (Prompt(Origin.DINO, (0.0, 0.0, 4.0, 4.0), class_id=1, score=0.5),)}
    known = [make_record(i, **labels) for i in (1, 2, 3)]
    world(known, batch_size=5, unreadable=(1,))
    assert filled[0] == known[0]  # in its own place an image keeps what its neighbours may share a chunk with
    assert filled[1:] == [make_record(3, tags=())] * 2


def test_an_unreadable_image_is_quarantined_in_its_place(world):
    made, calls, _ = world([make_record(i) for i in range(1, 7)], batch_size=3, unreadable=(2,))
    assert calls == [[1, 0, 3], [4, 5, 6]]
    assert {r.image_id: r.dropped for r in made if r.dropped} == {2: "image 2.txt: cannot be read"}
    assert scores(made) == {1: 0.001, 2: None, 3: 0.003, 4: 0.004, 5: 0.005, 6: 0.006}


def test_a_batch_without_a_readable_image_is_not_run(world):
    _, calls, _ = world([make_record(i) for i in range(1, 6)], batch_size=2, unreadable=(1, 2, 5))
    assert calls == [[3, 4]]


def test_dropped_records_and_those_of_other_roles_pass_through(world):
    records = [make_record(1, dropped="before"), make_record(2, role=Role.VAL), make_record(3)]
    made, calls, _ = world(records, batch_size=2)
    assert calls == [[3, 0]]
    assert list(made[:2]) == records[:2]


def test_suspects_run_alone_in_their_places_with_the_same_result(world):
    records = [make_record(i) for i in range(1, 8)]
    _, _, plain = world(records, batch_size=3)
    _, calls, traced = world(records, batch_size=3, suspects=(5,))
    assert calls == [[1, 2, 3], [4, 0, 0], [0, 5, 0], [0, 0, 6], [7, 0, 0]]
    assert plain == traced


def test_poison_is_quarantined_and_its_neighbours_keep_their_places(world):
    made, calls, _ = world([make_record(i) for i in range(1, 5)], batch_size=2, suspects=(3, 4), poison=(3,))
    assert calls == [[1, 2], [0, 4]]
    assert {r.image_id: r.dropped for r in made if r.dropped} == {3: "worker died"}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("short", "expected 4 records for a batch, got 3"),
        ("order", "expected image 1 in its place, got 4"),
        ("field", "changed `split` of image 1; it may change"),
    ],
)
def test_a_broken_contract_fails_the_run(world, fault, message):
    with pytest.raises(StageFailed, match=message):
        world([make_record(i) for i in range(1, 5)], fault=fault)


def test_asked_to_stop_it_stops_before_the_next_call(world):
    asked = iter([False, True])
    with pytest.raises(Stopped):
        world([make_record(i) for i in range(1, 9)], batch_size=2, should_stop=lambda: next(asked))


def test_the_heartbeat_names_what_is_in_hand(tmp_path):
    beat = Heartbeat(tmp_path / "run" / "beat.json")
    assert images_in_hand(beat.path) == frozenset()
    beat.take([4, 7])
    beat.take([9])
    beat.drop([4])
    assert images_in_hand(beat.path) == {7, 9}
    beat.begin("another unit")
    assert images_in_hand(beat.path) == frozenset()
    assert images_in_hand(tmp_path / "none") == frozenset()
