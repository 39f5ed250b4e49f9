import pytest

from pipeline.data.cost import MASK, PRESETS, CostModel, Units, measure
from pipeline.data.errors import BadInput
from pipeline.data.records import RLE, Instance, Record, Role, Source, WeakKind

KINDS = (WeakKind.NONE, WeakKind.CLASS, WeakKind.POINT, WeakKind.BOX, MASK)


@pytest.mark.parametrize(
    ("preset", "printed"),
    [
        ("coco", (0.0, 80.0, 88.7, 130.4, 684.8)),
        ("ade20k", (0.0, 100.0, 110.9, 163.3, 859.5)),
        ("cityscapes", (0.0, 8.0, 24.7, 123.5, 1341.7)),
    ],
)
def test_table_1(preset: str, printed: tuple[float, ...]) -> None:
    assert tuple(round(PRESETS[preset].per_image(kind), 1) for kind in KINDS) == printed
    assert PRESETS[preset].basis == "published"


@pytest.mark.parametrize(
    ("preset", "kind", "factors"),
    [
        ("coco", WeakKind.CLASS, ("8.56", "7.96", "4.87")),
        ("coco", WeakKind.POINT, ("7.72", "7.23", "4.62")),
        ("coco", WeakKind.BOX, ("5.25", "5.04", "3.68")),
        ("ade20k", WeakKind.CLASS, ("8.60", "7.99", "4.88")),
        ("ade20k", WeakKind.POINT, ("7.75", "7.26", "4.63")),
        ("ade20k", WeakKind.BOX, ("5.26", "5.05", "3.69")),
        ("cityscapes", WeakKind.CLASS, ("167.7", "62.9", "9.49")),
        ("cityscapes", WeakKind.POINT, ("54.3", "35.4", "8.58")),
        ("cityscapes", WeakKind.BOX, ("10.9", "9.9", "5.47")),
    ],
)
def test_saving_factors(preset: str, kind: WeakKind, factors: tuple[str, ...]) -> None:
    model = PRESETS[preset]
    for fraction, printed in zip((0, 0.01, 0.1), factors, strict=True):
        digits = len(printed.split(".")[1])
        # The printed table divides the per-image times as printed, with one decimal.
        mask, weak = round(model.per_image(MASK), 1), round(model.per_image(kind), 1)
        assert f"{mask / (fraction * mask + (1 - fraction) * weak):.{digits}f}" == printed
        assert model.saving_factor(fraction, kind) == pytest.approx(float(printed), abs=1.1 * 10**-digits)


def test_totals() -> None:
    coco = PRESETS["coco"]
    assert round(coco.total(118_287, 1.0, MASK) / 3.6e6, 1) == 22.5  # thousand hours
    assert round(coco.total(118_287, 0.01, WeakKind.POINT) / 3.6e6, 1) == 3.1
    assert coco.total(10, 0.5, WeakKind.NONE) == pytest.approx(5 * coco.per_image(MASK))
    assert coco.saving_factor(0, WeakKind.NONE) == float("inf")
    assert coco.saving(10, coco.total(10, 0.1, WeakKind.BOX)) == pytest.approx(
        coco.saving_factor(0.1, WeakKind.BOX)
    )
    assert coco.saving_factor(1, WeakKind.INSTRUCTION) == 1  # no weak image, so no unit time is needed


def test_units_are_the_users() -> None:
    model = CostModel(10, 6, 2, Units(tag=2, first_point=3, next_point=1, box=10, mask=50, instruction=20))
    assert [model.per_image(kind) for kind in KINDS] == [0, 20, 26, 76, 316]
    assert model.per_image(WeakKind.INSTRUCTION) == 20
    assert model.per_image("box+class") == 76


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: PRESETS["coco"].per_image(WeakKind.INSTRUCTION),
            "cost.units.instruction: expected the seconds",
        ),
        (lambda: PRESETS["coco"].per_image("boxes"), r"box\+class, instruction, mask\+class, found 'boxes'"),
        (lambda: Units(box=-1), "cost.units.box: expected seconds of at least 0, found -1"),
        (lambda: Units(mask=float("nan")), "cost.units.mask"),
        (lambda: CostModel(3, 9, 4), "c <= K"),
        (lambda: CostModel(0, 0, 0), "K >= 1"),
        (lambda: CostModel(3, 1, 2), "one instance per present class"),
        (lambda: PRESETS["coco"].total(-1, 0, WeakKind.BOX), "images >= 0"),
        (lambda: PRESETS["coco"].total(1, 1.5, WeakKind.BOX), "fraction 0..1"),
    ],
)
def test_bad_settings(act, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BadInput, match=message):
        act()


def record(role: Role, *classes: int, source: Source = Source.HUMAN, dropped: str | None = None) -> Record:
    things = tuple(Instance(source, class_id=c, rle=RLE((3, 4), "<"), dropped=dropped) for c in classes)
    return Record(1, "a", "", 4, 3, "train", role, instances=things)


def test_measured_on_human_masks() -> None:
    records = [
        record(Role.HUMAN_MASKED, 1, 1, 2),
        record(Role.RESERVED),
        record(Role.WEAK, 1, 1, 1, 1, source=Source.TEACHER),
        record(Role.VAL, 5, 5, 5),
    ]
    model = measure(records, classes=9, units=Units(box=1))
    assert model is not None
    assert (model.K, model.n, model.c, model.basis, model.units.box) == (9, 1.5, 1, "measured", 1)


def test_estimated_on_pseudo_masks_without_human_ones() -> None:
    records = [
        record(Role.WEAK, 1, 2, source=Source.TEACHER),
        record(Role.WEAK, 1, source=Source.TEACHER, dropped="score"),
        record(Role.VAL, 5, 5, 5),
    ]
    model = measure(records, classes=9)
    assert model is not None
    assert (model.n, model.c, model.basis) == (1, 1, "estimated")
    # Human-masked images without a single object say nothing of the others.
    assert measure([record(Role.HUMAN_MASKED), *records], classes=9) == model


def test_nothing_to_measure() -> None:
    assert measure([], classes=3) is None
    assert measure([record(Role.HUMAN_MASKED), record(Role.WEAK), record(Role.VAL, 5)], classes=3) is None
    assert measure([record(Role.HUMAN_MASKED, 1)], classes=0) is None
