"""The bill: counted on the right records, priced by methods 3.7, every kind beside this run."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from stage_fakes import ONTOLOGY, Stream, box_rle, boxed, context, human, point, record, teacher

from pipeline.data.cost import PRESETS, CostModel, Units
from pipeline.data.records import Category, Instance, Ontology, Record, Role, WeakKind
from pipeline.problems import explain
from pipeline.report import sections
from pipeline.report.bill import bill_text, make_bill
from pipeline.report.blocks import Text
from pipeline.report.documents import CostFile, SummaryFile
from pipeline.report.head import Known, facts
from pipeline.stages.cost import Cost, CostConfig
from pipeline.stages.counts import kind_of

MASK = box_rle(0, 0, 4, 4)


def summary(folder: Path, weak: str) -> dict[str, Path]:
    dataset = folder / "dataset"
    dataset.mkdir(exist_ok=True)
    SummaryFile(
        images=1,
        bad_images=0,
        annotations=1,
        bad_annotations=0,
        classes=3,
        roles={},
        weak=weak,
        semantic=False,
        notes=[],
    ).write(dataset / "summary.json")
    return {"dataset": dataset}


def cost(
    folder: Path, records: list[Record], weak: str, *, ontology: Ontology = ONTOLOGY, **config: object
) -> CostFile:
    settings = CostConfig.model_validate(config)
    artifacts = summary(folder, weak)
    Cost(settings).run(
        Stream(records), context(folder, artifacts=artifacts, timings={"gate": 2.0}, ontology=ontology)
    )
    return CostFile.read(folder / "out" / "cost.json")


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("coco", {"class": 80.0, "point+class": 88.7, "box+class": 130.4, "mask+class": 684.8}),
        ("ade20k", {"class": 100.0, "point+class": 110.9, "box+class": 163.3, "mask+class": 859.5}),
        ("cityscapes", {"class": 8.0, "point+class": 24.7, "box+class": 123.5, "mask+class": 1341.7}),
    ],
)
def test_presets_give_table_1(preset: str, expected: dict[str, float]) -> None:
    bill = make_bill(PRESETS[preset], masked=0, weak={WeakKind.CLASS: 10})
    seconds = {row.kind: row.seconds_per_image for row in bill.rows if row.seconds_per_image is not None}
    assert {kind: round(seconds[kind], 1) for kind in expected} == expected
    assert all(f"{value:.1f}" in bill_text(bill) for value in expected.values())


def test_this_run_is_masks_and_weak_labels_together() -> None:
    model = CostModel(3, 2.0, 1.0)
    bill = make_bill(model, masked=1, weak={WeakKind.POINT: 9}, hourly_rate=36)
    run = bill.rows[0]
    # mask: 2 + 79 * 2 = 160; point: 2 + 2.4 + 0.9 = 5.3
    assert run.hours == pytest.approx((160 + 9 * 5.3) / 3600)
    assert run.money == pytest.approx((160 + 9 * 5.3) / 100)
    assert run.saving == pytest.approx(1600 / (160 + 9 * 5.3))
    rows = {row.kind: row for row in bill.rows}
    assert rows["point+class"].hours == run.hours
    assert rows["mask+class"].saving == pytest.approx(1.0)
    assert rows["none"].seconds_per_image == 0.0
    assert rows["instruction"].hours is None
    assert "instruction" in rows["instruction"].note


@pytest.mark.parametrize(
    ("label", "tags", "kind"),
    [
        ((boxed((0, 0, 3, 3)), point(1, 1, human_id=2)), (3,), WeakKind.BOX),
        ((point(1, 1),), (3,), WeakKind.POINT),
        ((), (3,), WeakKind.CLASS),
        ((), None, WeakKind.NONE),
        ((), (), WeakKind.BOX),
        ((teacher(MASK),), None, WeakKind.NONE),
        ((teacher(MASK, human_id=4, box_xyxy=(0, 0, 4, 4)),), (3,), WeakKind.BOX),
    ],
)
def test_what_an_image_was_labelled_with(
    label: tuple[Instance, ...], tags: tuple[int, ...] | None, kind: WeakKind
) -> None:
    assert kind_of(record(instances=label, tags=tags), WeakKind.BOX) is kind


def masked(image_id: int, *instances: Instance) -> Record:
    return record(image_id, Role.HUMAN_MASKED, instances=instances)


@pytest.mark.parametrize(
    ("records", "weak", "n", "c", "basis"),
    [
        # Human masks count; on the none way what a machine found (or did not) says nothing of the labels.
        ([masked(1, human(MASK), human(MASK, 7, 2)), record(2), record(3, instances=(teacher(MASK),))], "none",
         2, 2, "measured"),
        # Points are human labels too, also once a mask was made from them, dropped or not.
        ([masked(1, human(MASK)), record(2, tags=(3,), instances=(point(1, 1), point(2, 2, human_id=2)))],
         "point+class", 1.5, 1, "measured"),
        ([masked(1, human(MASK)), record(2, tags=(3,), instances=(teacher(MASK, human_id=5, dropped="x"),) * 3)],
         "point+class", 2, 1, "measured"),
        # An image with a tag that nobody localised would undercount.
        ([masked(1, human(MASK)), record(2, tags=(3, 7), instances=(point(1, 1),) * 5)], "point+class", 1, 1,
         "measured"),
        ([record(1, tags=(3,), instances=(teacher(MASK), teacher(MASK, 7)))], "class", 2, 2, "estimated"),
        ([record(1, tags=(3,), instances=(teacher(MASK), teacher(MASK, dropped="x")))], "class", 1, 1, "estimated"),
    ],
)  # fmt: skip
def test_counts(tmp_path: Path, records: list[Record], weak: str, n: float, c: float, basis: str) -> None:
    bill = cost(tmp_path, records, weak)
    assert (bill.instances_per_image, bill.classes_per_image, bill.classes) == (n, c, 3)
    assert bill.counts_from == basis


def test_files_and_machine_time(tmp_path: Path) -> None:
    bill = cost(tmp_path, [masked(1, human(MASK)), record(2, tags=())], "class", hourly_rate=8)
    assert bill.machine_seconds == {"gate": 2.0}
    assert (bill.images, bill.human_masked_images, bill.masked_fraction) == (2, 1, 0.5)
    assert (tmp_path / "out" / "cost.txt").read_text() == bill_text(bill)
    assert "this run" in bill_text(bill)


def test_units_and_preset_win(tmp_path: Path) -> None:
    bill = cost(
        tmp_path, [record(1, tags=(3,))], "class", preset="coco", units={"instruction": 11, "box": 10}
    )
    rows = {row.kind: row.seconds_per_image for row in bill.rows}
    assert rows["instruction"] == 11
    assert rows["box+class"] == pytest.approx(76.5 + 77)
    assert bill.counts_from == "published: coco"
    assert bill.units["mask"] == Units().mask


@pytest.mark.parametrize(
    ("records", "classes", "basis"),
    [
        ([record(1)], ONTOLOGY.categories, "no object"),
        ([masked(1), record(2)], ONTOLOGY.categories, "no object"),
        ([masked(1, human(MASK, None, phrase="a hat"))], (), "no object"),
        ([masked(1), record(2, instances=(teacher(MASK),))], ONTOLOGY.categories, "estimated"),
    ],
    ids=["nothing at all", "empty images", "no class", "pseudo-masks beside empty images"],
)
def test_a_bill_never_ends_a_run(
    tmp_path: Path, records: list[Record], classes: tuple[Category, ...], basis: str
) -> None:
    bill = cost(tmp_path, records, "none", ontology=Ontology(classes))
    assert bill.counts_from.startswith(basis)
    text = bill_text(bill)
    shown = sections.bill(bill)
    if basis == "estimated":
        assert bill.instances_per_image == 1
        return
    assert (bill.classes, bill.instances_per_image, bill.images) == (None, None, len(records))
    assert all((row.hours, row.saving, row.seconds_per_image) == (None, None, None) for row in bill.rows)
    assert all(row.note == bill.counts_from for row in bill.rows)
    assert "n=-, c=- (no object of a class to count)" in text
    words = shown.blocks[0]
    assert isinstance(words, Text)
    assert "no object of a class to count" in words.lines[0]
    assert facts(Known(SummaryFile.read(tmp_path / "dataset" / "summary.json"), None, bill), {})


def test_mixed_kinds_are_priced_one_by_one() -> None:
    model = CostModel(3, 2.0, 1.0)
    weak = {WeakKind.POINT: 2, WeakKind.NONE: 1, WeakKind.BOX: 0}
    run = make_bill(model, masked=1, weak=weak).rows[0]
    assert run.hours == pytest.approx((160 + 2 * 5.3) / 3600)
    assert run.seconds_per_image == pytest.approx(2 * 5.3 / 3)
    assert run.saving == pytest.approx(640 / (160 + 2 * 5.3))
    assert run.note == "1 with masks, point+class on 2 and none on 1"
    alone = make_bill(model, masked=2, weak={WeakKind.INSTRUCTION: 0}).rows[0]
    assert (alone.seconds_per_image, alone.saving, alone.note) == (None, 1, "2 with masks, masks only")


@pytest.mark.parametrize("bad", [{"preset": "voc"}, {"units": {"bocks": 1}}, {"hourly_rate": -1}])
def test_a_bad_config_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CostConfig.model_validate(bad)


def test_all_that_is_wrong_with_a_config_is_told_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        CostConfig.model_validate({"preset": "toyworld", "units": {"boxx": 1}})
    lines = explain(caught.value, CostConfig, "cost")
    assert lines == [
        "cost.preset: expected one of coco, ade20k, cityscapes, found 'toyworld'",
        "cost.units.boxx: unknown key, did you mean 'box'?",
    ]
