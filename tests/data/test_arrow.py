from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.arrow import SCHEMA, from_table, record_digest, to_table
from pipeline.data.records import (
    RLE,
    Instance,
    Match,
    Origin,
    Point,
    Prompt,
    Record,
    Role,
    Source,
    WeakKind,
)
from pipeline.engine import parquet

numbers = st.floats(-1e6, 1e6)
unit = st.none() | st.floats(0, 1)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
points = st.lists(st.builds(Point, numbers, numbers, st.sampled_from([0, 1])), max_size=3).map(tuple)
some_boxes = st.tuples(numbers, numbers, st.floats(0, 9), st.floats(0, 9)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
boxes = st.none() | some_boxes
meanings = st.one_of(
    st.fixed_dictionaries({"class_id": st.none() | st.integers(-(2**63), 2**63 - 1)}),
    st.fixed_dictionaries({"phrase": text.map("a {}".format)}),
)
prompts = st.builds(
    lambda meaning, **rest: Prompt(**meaning, **rest),
    meanings,
    origin=st.sampled_from(Origin),
    box_xyxy=some_boxes,
    points=points,
    score=unit,
)
instances = st.builds(
    lambda meaning, **rest: Instance(**meaning, **rest),
    meanings,
    source=st.sampled_from(Source),
    points=points,
    box_xyxy=boxes,
    rle=st.none() | st.just(RLE((3, 4), "<")),
    semantic=st.booleans(),
    human_id=st.none() | st.integers(0, 99),
    weak_kind=st.none() | st.sampled_from(WeakKind),
    prompt=st.none() | prompts,
    match=st.none() | st.builds(Match, st.none() | st.integers(0, 9), st.none() | numbers, unit),
    score=unit,
    pred_iou=unit,
    stability=unit,
    quality=unit,
    dropped=st.none() | text,
    model=st.none() | text,
)
records = st.builds(
    Record,
    image_id=st.integers(-(2**63), 2**63 - 1),
    uri=text,
    sha256=text,
    width=st.just(4),
    height=st.just(3),
    split=text,
    role=st.sampled_from(Role),
    tags=st.none() | st.lists(st.integers(0, 9), max_size=3).map(tuple),
    instructions=st.lists(text, max_size=2).map(tuple),
    instances=st.lists(instances, max_size=3).map(tuple),
    proposals=st.lists(prompts, max_size=2).map(tuple),
    crowd=st.lists(instances, max_size=2).map(tuple),
    dropped=st.none() | text,
)


@given(st.lists(records, max_size=4))
@settings(max_examples=25)
def test_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, given_records: list[Record]) -> None:
    path = tmp_path_factory.mktemp("unit") / "unit.parquet"
    data = parquet.to_bytes(to_table(given_records))
    path.write_bytes(data)
    assert from_table(to_table(given_records)) == given_records
    again = from_table(parquet.read(path).replace_schema_metadata(None))
    assert again == given_records
    assert parquet.to_bytes(to_table(again)) == data
    index = parquet.read_index(path)
    assert index.ids.tolist() == [record.image_id for record in given_records]
    assert index.roles == tuple(record.role for record in given_records)
    assert index.digests == tuple(record_digest(record) for record in given_records)


def test_every_field_of_the_nouns_is_stored() -> None:
    stored = {field.name: field.type for field in SCHEMA}
    assert stored.keys() == {field.name for field in fields(Record)} | {"digest"}
    instance = stored["instances"].value_type
    assert {field.name for field in instance} == {field.name for field in fields(Instance)}
    assert {field.name for field in instance.field("prompt").type} == {field.name for field in fields(Prompt)}
    assert {field.name for field in instance.field("match").type} == {field.name for field in fields(Match)}


FULL = Instance(
    Source.TEACHER,
    class_id=3,
    points=(Point(1.5, 2.5),),
    box_xyxy=(0.1, 0.2, 3.0, 3.0),
    rle=RLE((3, 4), "<"),
    human_id=4,
    prompt=Prompt(Origin.SAM, box_xyxy=(0, 0, 1, 1)),
    match=Match(None, 0.1),
    score=0.1,
)
RECORD = Record(1, "a.jpg", "x", 4, 3, "train", Role.WEAK, instances=(FULL,))


@pytest.mark.parametrize(
    "other",
    [
        replace(RECORD, image_id=2),
        replace(RECORD, role=Role.VAL),
        replace(RECORD, tags=()),
        replace(RECORD, dropped=""),
        replace(RECORD, crowd=(FULL,)),
        replace(RECORD, instances=(FULL, FULL)),
        replace(RECORD, instances=(replace(FULL, score=0.1 + 2e-17),)),
        replace(RECORD, instances=(replace(FULL, box_xyxy=(0.1, 0.2, 3.0, 3.0000000000000004)),)),
        replace(RECORD, instances=(replace(FULL, rle=RLE((3, 4), "=")),)),
        replace(RECORD, instances=(replace(FULL, match=Match(None, 0.2)),)),
    ],
)
def test_digests_differ_with_the_content(other: Record) -> None:
    assert record_digest(other) != record_digest(RECORD)


def test_digest_is_of_values_not_of_types() -> None:
    whole = replace(RECORD, instances=(replace(FULL, box_xyxy=(0.1, 0.2, 3, 3)),))
    assert whole == RECORD
    assert record_digest(whole) == record_digest(RECORD)
    # Frozen: another digest would make every unit of every store anew.
    assert record_digest(RECORD).hex()[:16] == "b7adee5f19e0def2"
