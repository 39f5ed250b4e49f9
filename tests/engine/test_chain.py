"""Which units of a chain can be made when, without any engine: units are "made" by copying what they are made of."""

from dataclasses import dataclass, field

import pytest
from engine_fakes import (
    make_links,
    make_record,
)

from pipeline.data.arrow import to_table
from pipeline.engine.chain import Chain
from pipeline.engine.store import Store
from pipeline.engine.streams import write_records
from pipeline.engine.tasks import UnitDone, placed
from pipeline.engine.units import RecordSet, Timing, read_unit

IDS = range(1, 41)


@dataclass
class Told:
    events: list[tuple[str, int]] = field(default_factory=list)
    images: int = 0

    def begun(self, number):
        self.events.append(("begun", number))

    def reused(self, number, images, key):  # noqa: ARG002
        self.images += images
        self.events.append(("reused", number))

    def complete(self, number):
        self.events.append(("complete", number))


@pytest.fixture
def chain(tmp_path):
    """A function: the chain of two stages with these unit sizes, over so many images, and what it told."""
    store = Store(tmp_path / "store")

    def make(first, second, *, ids=IDS, fresh=False):
        folder = tmp_path / f"records-{len(list(tmp_path.iterdir()))}"
        write_records(folder, map(make_record, ids), unit_size=8)
        links = make_links(tmp_path, first, second)
        told = Told()
        return Chain(links, RecordSet.of_folder(folder), store, fresh=fresh, watch=told), told, store

    return make


def do(chain, store, task):
    source = placed(task, store).source
    records = read_unit(source.parts, source.bucket)
    assert len(records) == task.source.rows
    store.commit_unit(task.key, to_table(records), Timing(1.0, len(records)))
    chain.done(UnitDone(task.key, task.key, len(records), 1.0))
    return [record.image_id for record in records]


def drain(chain, store, *, label=None):
    done = []
    while (task := chain.take(label)) is not None:
        done.append((task.stage.label, do(chain, store, task)))
    return done


@pytest.mark.parametrize(("first", "second"), [(8, 8), (4, 16), (16, 4), (100, 3), (3, 100), (1, 1)])
def test_each_stage_sees_every_image_once_whatever_the_unit_sizes(chain, first, second):
    work, told, store = chain(first, second)
    work.begin()
    done = drain(work, store)
    for stage in ("propose", "pseudo_label"):
        assert sorted(i for label, ids in done if label == stage for i in ids) == list(IDS)
        assert work.is_complete(stage)
    # The earlier stage comes first as long as it has units.
    assert [label for label, _ in done] == sorted(
        (label for label, _ in done), key=("propose", "pseudo_label").index
    )
    assert told.events == [("begun", 0), ("complete", 0), ("begun", 1), ("complete", 1)]
    assert work.records(1).rows == len(IDS)


@pytest.mark.parametrize(("first", "second", "needed"), [(8, 8, 1), (4, 16, 4), (16, 4, 1)])
def test_a_unit_is_ready_as_soon_as_its_own_images_are(chain, first, second, needed):
    work, told, store = chain(first, second)
    work.begin()
    for _ in range(needed):
        assert work.take("pseudo_label") is None
        do(work, store, work.take("propose"))
    assert work.waiting("pseudo_label") >= 1
    assert work.take().stage.label == "propose"
    assert work.take("pseudo_label").stage.label == "pseudo_label"
    assert ("begun", 1) in told.events


def test_what_the_store_has_is_not_made_again(chain):
    work, _, store = chain(8, 4)
    work.begin()
    drain(work, store)
    again, told, _ = chain(8, 4)
    again.begin()
    assert drain(again, store) == []
    assert told.images == 2 * len(IDS)
    assert [event for event in told.events if event[0] != "reused"] == [("complete", 0), ("complete", 1)]
    assert [link.known for link in again.links] == [link.known for link in work.links]
    anew, told, _ = chain(8, 4, fresh=True)
    anew.begin()
    assert len(drain(anew, store)) == sum(link.total for link in anew.links)
    assert told.images == 0


def test_a_unit_with_losses_goes_on_under_its_other_key(chain):
    work, _, store = chain(64, 64)
    work.begin()
    task = work.take()
    source = placed(task, store).source
    records = read_unit(source.parts, source.bucket)
    store.commit_unit("ee" * 32, to_table(records), Timing(1.0, len(records)))
    work.done(UnitDone(task.key, "ee" * 32, len(records), 1.0))
    (part,) = placed(work.take("pseudo_label"), store).source.parts
    assert part.path == store.unit_path("ee" * 32)
    assert work.links[0].known == [task.key]


def test_no_images_are_no_units(chain):
    work, told, _ = chain(8, 8, ids=())
    work.begin()
    assert work.take() is None
    assert told.events == [("complete", 0), ("complete", 1)]
    assert work.records(1).parts == ()
