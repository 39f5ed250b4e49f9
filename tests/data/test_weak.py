from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import masks
from pipeline.data.errors import BadInput
from pipeline.data.records import Instance, Point, Record, Role, Source, WeakKind
from pipeline.data.weak import (
    MaskShare,
    assign_roles,
    check_supports,
    lacks,
    parse_kind,
    parse_masks,
    simulate,
)

SIZE = (12, 14)


def record(*instances: Instance, **fields: object) -> Record:
    plain = {"sha256": "x", "width": SIZE[1], "height": SIZE[0], "split": "train", "role": Role.WEAK}
    return Record(5, "a.jpg", **(plain | {"instances": instances} | fields))  # type: ignore[arg-type]


def human(number: int, class_id: int | None, mask: masks.Mask | None = None, **fields: object) -> Instance:
    rle = None if mask is None else masks.encode(mask)
    return Instance(Source.HUMAN, class_id=class_id, human_id=number, rle=rle, **fields)  # type: ignore[arg-type]


def block(top: int, left: int, bottom: int, right: int) -> masks.Mask:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("kind", list(WeakKind))
def test_kinds_parse(kind: WeakKind) -> None:
    assert parse_kind(kind.value) is kind


@pytest.mark.parametrize("text", ["", "point", "Point+class", "mask", "box + class"])
def test_unknown_kinds_are_refused_with_the_list(text: str) -> None:
    with pytest.raises(BadInput, match=r"none, class, point\+class, box\+class, instruction, found"):
        parse_kind(text)


@pytest.mark.parametrize(
    ("text", "fraction"), [("10%", 0.1), ("0%", 0.0), ("0.5%", 0.005), ("100%", 1.0), (" 1% ", 0.01)]
)
def test_mask_shares_parse(text: str, fraction: float) -> None:
    assert parse_masks(text) == pytest.approx(fraction)


@pytest.mark.parametrize("text", ["10", "0.1", "-1%", "101%", "nan%", "%", "ten%", "10 %", "inf%", ""])
def test_bad_mask_shares(text: str) -> None:
    with pytest.raises(BadInput, match="0% to 100%, found"):
        parse_masks(text)


@pytest.mark.parametrize(
    ("share", "images", "count"),
    [
        (MaskShare(fraction=0.0), 100, 0),
        (MaskShare(fraction=0.001), 100, 1),
        (MaskShare(fraction=0.1), 240, 24),
        (MaskShare(fraction=0.1), 25, 3),
        (MaskShare(fraction=1.0), 7, 7),
        (MaskShare(shots=4), 100, 4),
        (MaskShare(shots=0), 100, 0),
    ],
)
def test_share_counts(share: MaskShare, images: int, count: int) -> None:
    assert share.count(images) == count


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "expected masks or shots, not both, found neither$"),
        ({"fraction": 0.1, "shots": 3}, "expected masks or shots, not both, found 0.1 and 3$"),
        ({"fraction": 1.1}, "masks of 0% to 100%"),
        ({"shots": -1}, "shots of at least 0"),
    ],
)
def test_bad_shares(fields: dict[str, float], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        MaskShare(**fields)  # type: ignore[arg-type]


def masked(roles: dict[int, Role]) -> set[int]:
    return {i for i, role in roles.items() if role in (Role.HUMAN_MASKED, Role.RESERVED)}


@given(st.sets(st.integers(-5, 10**12), min_size=1, max_size=80), st.integers(0, 3))
@settings(max_examples=30)
def test_smaller_shares_lie_within_larger_ones(ids: set[int], seed: int) -> None:
    sets = [masked(assign_roles(ids, MaskShare(fraction=f), seed=seed)) for f in (0, 0.01, 0.1, 0.5, 1)]
    assert all(small <= large for small, large in pairwise(sets))
    assert not sets[0]
    assert len(sets[1]) == 1
    assert sets[-1] == ids


@pytest.mark.parametrize(
    ("shots", "reserved"), [(0, 0), (1, 0), (2, 0), (19, 0), (20, 4), (24, 5), (100, 20)]
)
def test_a_fifth_is_reserved_from_twenty_on(shots: int, reserved: int) -> None:
    roles = assign_roles(range(1000), MaskShare(shots=shots), seed=1)
    assert sum(role is Role.RESERVED for role in roles.values()) == reserved
    assert len(masked(roles)) == shots
    assert list(roles) == list(range(1000))


def test_roles_depend_on_seed_and_ids_alone() -> None:
    share = MaskShare(shots=30)
    first = assign_roles(range(100), share, seed=0)
    assert first == assign_roles(list(reversed(range(100))), share, seed=0)
    assert first != assign_roles(range(100), share, seed=1)
    # Frozen: another hash would silently give every run other masks.
    assert sorted(masked(assign_roles(range(100), MaskShare(shots=5), seed=0))) == [11, 54, 87, 89, 97]


def test_only_maskable_images_get_masks_and_empty_ones_come_last() -> None:
    roles = assign_roles(range(50), MaskShare(shots=10), seed=0, maskable=range(12), last=range(6))
    assert masked(roles) <= set(range(12))
    assert masked(roles) >= set(range(6, 12))
    with pytest.raises(BadInput, match=r"asked for 13 of 50 .* only 12 have masks"):
        assign_roles(range(50), MaskShare(shots=13), seed=0, maskable=range(12))


FULL = record(
    human(1, 7, block(1, 1, 4, 5)),
    human(2, 3, block(6, 6, 11, 13)),
    human(3, 7, block(6, 1, 8, 3)),
    human(4, None, block(0, 9, 2, 12), phrase="a red hat"),
    instructions=("find the cars",),
    crowd=(human(9, 3, block(0, 0, 1, 1)),),
    tags=None,
)


def test_none_shows_nothing() -> None:
    visible = simulate(FULL, WeakKind.NONE, 0)
    assert (visible.tags, visible.instances, visible.crowd, visible.instructions) == (None, (), (), ())
    assert visible == replace(FULL, instances=(), crowd=(), instructions=())


def test_class_shows_tags_alone() -> None:
    visible = simulate(FULL, WeakKind.CLASS, 0)
    assert visible.tags == (3, 7)
    assert visible.instances == ()


def test_points_are_foreground_pixel_centres() -> None:
    visible = simulate(FULL, WeakKind.POINT, 0)
    assert visible.tags == (3, 7)
    assert [i.human_id for i in visible.instances] == [1, 2, 3, 4]
    for full, weak in zip(FULL.instances, visible.instances, strict=True):
        (point,) = weak.points
        assert full.rle is not None
        assert masks.decode(full.rle)[int(point.y), int(point.x)]
        assert (point.x % 1, point.y % 1, point.label) == (0.5, 0.5, 1)
        assert weak == human(
            weak.human_id or 0, full.class_id, phrase=full.phrase, points=(point,), weak_kind=WeakKind.POINT
        )


def test_boxes_are_tight() -> None:
    visible = simulate(FULL, WeakKind.BOX, 0)
    assert [i.box_xyxy for i in visible.instances] == [
        (1, 1, 5, 4),
        (6, 6, 13, 11),
        (1, 6, 3, 8),
        (9, 0, 12, 2),
    ]
    assert all(i.rle is None and i.points == () and i.weak_kind is WeakKind.BOX for i in visible.instances)


def test_instruction_shows_instructions_alone() -> None:
    visible = simulate(FULL, WeakKind.INSTRUCTION, 0)
    assert visible.instructions == ("find the cars",)
    assert (visible.tags, visible.instances) == (None, ())


def test_points_are_uniform() -> None:
    spot = block(2, 3, 5, 7)
    counts: dict[Point, int] = {}
    for number in range(2400):
        (weak,) = simulate(record(human(number, 1, spot)), WeakKind.POINT, 0).instances
        counts[weak.points[0]] = counts.get(weak.points[0], 0) + 1
    assert len(counts) == spot.sum() == 12
    assert all(140 < count < 260 for count in counts.values())


def small(bits: int) -> masks.Mask:
    """A mask with 16 free pixels."""
    return np.pad(np.array([bits >> k & 1 for k in range(16)], bool).reshape(4, 4), ((3, 5), (2, 8)))


def another_truth(things: list[tuple[int, int]], kind: WeakKind) -> Record:
    """Full labels that differ from `things` (class, mask bits) in all that `kind` does not show."""
    crowd = (human(99, 1, block(0, 0, 2, 2)),)
    if kind is WeakKind.NONE:
        return record(human(77, 5, block(1, 1, 2, 2)), tags=(5,), crowd=crowd)
    if kind is WeakKind.CLASS:
        twice = [human(50 + n, c, ~small(bits)) for n, (c, bits) in enumerate(reversed(things * 2))]
        return record(*twice, tags=(), crowd=crowd)
    masked = []
    for number, (class_id, bits) in enumerate(things):
        (label,) = simulate(record(human(number, class_id, small(bits))), kind, 0).instances
        masked.append(
            human(number, class_id, next(m for m in other_masks(bits) if shows(number, m, kind, label)))
        )
    return record(*masked, tags=(), crowd=crowd)


def other_masks(bits: int) -> Iterator[masks.Mask]:
    """Other masks than that of `bits`, then this one (a single pixel's box allows no other)."""
    yield from (
        small(value)
        for value in np.random.default_rng(bits).integers(1, 2**16, 200).tolist()
        if value != bits
    )
    yield from (small(bits | extra) for extra in (0x0660, 0))


def shows(number: int, mask: masks.Mask, kind: WeakKind, label: Instance) -> bool:
    (weak,) = simulate(record(human(number, 0, mask)), kind, 0).instances
    return (weak.points, weak.box_xyxy) == (label.points, label.box_xyxy)


@given(
    st.lists(st.tuples(st.integers(1, 2), st.integers(1, 2**16 - 1)), min_size=1, max_size=3),
    st.sampled_from([WeakKind.NONE, WeakKind.CLASS, WeakKind.POINT, WeakKind.BOX]),
)
@settings(max_examples=40)
def test_truths_with_one_weak_view_cannot_be_told_apart(
    things: list[tuple[int, int]], kind: WeakKind
) -> None:
    truth = record(*(human(n, c, small(bits)) for n, (c, bits) in enumerate(things)), instructions=("do it",))
    other = another_truth(things, kind)
    assert truth != other
    assert simulate(truth, kind, 0) == simulate(other, kind, 0)


POINTED = human(1, 7, points=(Point(1, 1, 0), Point(2, 2)))
OFF = human(2, 7, points=(Point(1, 1, 0),))
BOXED = human(3, 3, box_xyxy=(1, 1, 5, 5))


@pytest.mark.parametrize(
    ("kind", "tags", "given", "instances"),
    [
        (WeakKind.NONE, (9,), (POINTED, BOXED), ()),
        (WeakKind.CLASS, (9,), (POINTED, BOXED), ()),
        (WeakKind.POINT, (9,), (POINTED, OFF, BOXED), (replace(POINTED, weak_kind=WeakKind.POINT),)),
        (
            WeakKind.BOX,
            (9,),
            (POINTED, OFF, BOXED),
            (replace(POINTED, weak_kind=WeakKind.POINT), replace(BOXED, weak_kind=WeakKind.BOX)),
        ),
        (WeakKind.BOX, None, (), ()),
        (WeakKind.BOX, (), (), ()),
    ],
)
def test_given_weak_labels_are_kept_up_to_the_kind(
    kind: WeakKind, tags: tuple[int, ...] | None, given: tuple[Instance, ...], instances: tuple[Instance, ...]
) -> None:
    visible = simulate(record(*given, tags=tags), kind, 0)
    assert visible.instances == instances
    shown = None if tags is None else tuple(sorted({*tags, *(i.class_id for i in given if i.class_id)}))
    assert visible.tags == (None if kind is WeakKind.NONE else shown)


PHRASED = human(6, None, phrase="a red hat", box_xyxy=(1, 1, 5, 5))


@pytest.mark.parametrize("kind", [WeakKind.CLASS, WeakKind.POINT, WeakKind.BOX])
def test_phrases_alone_do_not_say_that_there_is_no_class(kind: WeakKind) -> None:
    visible = simulate(record(PHRASED), kind, 0)
    assert visible.tags is None
    assert len(visible.instances) == (kind is WeakKind.BOX)
    assert simulate(record(PHRASED, tags=()), kind, 0).tags == ()
    assert simulate(record(PHRASED, BOXED), kind, 0).tags == (3,)


def test_given_points_win_over_drawn_ones() -> None:
    both = replace(POINTED, rle=masks.encode(block(8, 8, 9, 9)))
    assert simulate(record(both), WeakKind.POINT, 0).instances[0].points == POINTED.points


def test_machine_labels_are_no_weak_labels() -> None:
    machine = replace(FULL.instances[0], source=Source.TEACHER, score=0.5)
    assert simulate(record(machine, tags=()), WeakKind.BOX, 0).instances == ()


def test_points_need_a_human_id() -> None:
    anonymous = Instance(Source.HUMAN, class_id=1, rle=masks.encode(block(0, 0, 2, 2)))
    with pytest.raises(ValueError, match="human id"):
        simulate(record(anonymous), WeakKind.POINT, 0)


@pytest.mark.parametrize(
    ("shown", "supported"),
    [
        (record(), {"none"}),
        (record(tags=()), {"none", "class", "point+class", "box+class"}),
        (record(tags=(3,)), {"none", "class"}),
        (record(POINTED), {"none", "class", "point+class"}),
        (record(OFF), {"none", "class"}),
        (record(BOXED), {"none", "class", "box+class"}),
        (record(PHRASED), {"none", "box+class"}),
        (FULL, {"none", "class", "point+class", "box+class", "instruction"}),
    ],
)
def test_what_a_record_supports(shown: Record, supported: set[str]) -> None:
    assert {kind.value for kind in WeakKind if lacks(shown, kind) is None} == supported


def test_a_file_without_the_kind_is_refused() -> None:
    with pytest.raises(
        BadInput, match=r"w.json: holds no labels of kind point\+class; image 5 .* no annotation"
    ):
        check_supports([record(tags=()), record(BOXED), record(BOXED)], WeakKind.POINT, source="w.json")
    check_supports(
        [record(BOXED), record(POINTED)], WeakKind.POINT, source="w.json"
    )  # mixed kinds are normal
    check_supports([], WeakKind.BOX, source="w.json")
    check_supports([record(tags=())], WeakKind.BOX, source="w.json")
