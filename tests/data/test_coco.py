import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from pipeline.data import arrow, masks
from pipeline.data.coco import CocoFile, read_records
from pipeline.data.errors import BadInput
from pipeline.data.images import Header
from pipeline.data.orient import orient_array
from pipeline.data.records import Instance, Point, Record, Role, Source, WeakKind

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # of pycocotools

IMAGE = {"id": 4, "file_name": "a b.jpg", "width": 8, "height": 6}
SQUARE = [[1, 1, 5, 1, 5, 4, 1, 4]]
THING = {
    "id": 10,
    "image_id": 4,
    "category_id": 3,
    "segmentation": SQUARE,
    "bbox": [1, 1, 4, 3],
    "iscrowd": 0,
}
CLASSES = [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog", "supercategory": "animal"}]


def dataset(
    *annotations: object, images: tuple[object, ...] = (IMAGE,), **sections: object
) -> dict[str, object]:
    return {"annotations": list(annotations), "images": list(images), "categories": CLASSES} | sections


def write(folder: Path, content: Mapping[str, object]) -> Path:
    path = folder / "set.json"
    path.write_text(json.dumps(content))
    return path


def load(folder: Path, content: Mapping[str, object], **settings: bool) -> tuple[list[Record], list[str]]:
    """All records and all findings, as text."""
    with CocoFile(write(folder, content), **settings) as file:
        findings = [str(finding) for finding in file.findings]
        records = []
        for image in file.images:
            record, found = file.record(image, sha256="s", split="train", role=Role.WEAK)
            records.append(record)
            findings += map(str, found)
    return records, findings


def only(records: list[Record]) -> Instance:
    (instance,) = records[0].instances
    return instance


def test_a_plain_instance(tmp_path: Path) -> None:
    records, findings = load(tmp_path, dataset(THING))
    assert findings == []
    expected = np.zeros((6, 8), bool)
    expected[1:4, 1:5] = True
    instance = Instance(Source.HUMAN, class_id=3, rle=masks.encode(expected), human_id=10)
    assert records == [Record(4, "a b.jpg", "s", 8, 6, "train", Role.WEAK, instances=(instance,))]


def test_sections_in_any_order_and_ids_in_any_order(tmp_path: Path) -> None:
    images = tuple({**IMAGE, "id": i} for i in (9, 2, 0))
    things = [{**THING, "id": n, "image_id": i} for n, i in ((5, 0), (3, 9), (1, 0), (2, 2))]
    content = dataset(*things, images=images)
    for order in (content, dict(reversed(content.items()))):
        records, findings = load(tmp_path, order)
        assert findings == []
        assert [r.image_id for r in records] == [0, 2, 9]
        assert [[i.human_id for i in r.instances] for r in records] == [[5, 1], [2], [3]]


def test_the_ontology_is_as_given(tmp_path: Path) -> None:
    with CocoFile(write(tmp_path, dataset())) as file:
        assert file.ontology.ids == (3, 1)
        assert file.ontology.categories[1].supercategory == "animal"


def test_who_reads_tells_that_it_goes_on_and_may_be_ended(tmp_path: Path) -> None:
    things = [THING | {"id": number} for number in range(1, 2501)]
    path, told = write(tmp_path, dataset(*things)), []

    def tell() -> None:
        told.append(0)
        if len(told) == limit:
            raise BadInput("ended")

    limit = None
    with CocoFile(path, told=tell) as file:
        assert len(told) == 3  # in 2,500 entries and some
        assert not file.damaged
        assert len(told) == 3 + len(file.images)
    for limit in (2, 4):  # noqa: B007 (`tell` looks at it)
        told.clear()
        with pytest.raises(BadInput, match="ended"), CocoFile(path, told=tell) as file:
            assert not file.damaged


def without(entry: Mapping[str, object], *fields: str, **more: object) -> dict[str, object]:
    return {k: v for k, v in entry.items() if k not in fields} | more


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (
            without(THING, "segmentation"),
            Instance(Source.HUMAN, class_id=3, box_xyxy=(1, 1, 5, 4), human_id=10, weak_kind=WeakKind.BOX),
        ),
        (
            without(THING, "segmentation", bbox=[-2, 1.5, 40, 3]),  # cut to the image
            Instance(
                Source.HUMAN, class_id=3, box_xyxy=(0, 1.5, 8, 4.5), human_id=10, weak_kind=WeakKind.BOX
            ),
        ),
        (
            without(THING, "segmentation", "bbox", point_coords=[[1, 2], [8, 6.0]], point_labels=[1, 0]),
            Instance(
                Source.HUMAN,
                class_id=3,
                points=(Point(1, 2), Point(8, 6, 0)),
                human_id=10,
                weak_kind=WeakKind.POINT,
            ),
        ),
        (
            without(THING, "category_id", "segmentation", phrase="the cat on the left"),
            Instance(
                Source.HUMAN,
                phrase="the cat on the left",
                box_xyxy=(1, 1, 5, 4),
                human_id=10,
                weak_kind=WeakKind.BOX,
            ),
        ),
        (
            without(THING, "segmentation", pseudo={"source": "teacher"}, score=0.25),
            Instance(Source.TEACHER, class_id=3, box_xyxy=(1, 1, 5, 4), score=0.25, weak_kind=WeakKind.BOX),
        ),
    ],
    ids=["box", "box over the edge", "points", "phrase", "machine label"],
)
def test_weak_labels(tmp_path: Path, annotation: dict[str, object], expected: Instance) -> None:
    records, findings = load(tmp_path, dataset(annotation))
    assert findings == []
    assert only(records) == expected


def test_tags_and_instructions(tmp_path: Path) -> None:
    images = (
        {**IMAGE, "id": 1, "tags": [3, 1, 3], "instructions": ["find it"]},
        {**IMAGE, "id": 2, "tags": []},
        {**IMAGE, "id": 3},
    )
    records, findings = load(tmp_path, dataset(images=images))
    assert findings == []
    assert [r.tags for r in records] == [(1, 3), (), None]
    assert [r.instructions for r in records] == [("find it",), (), ()]


def test_crowd_is_kept_apart_in_both_forms(tmp_path: Path) -> None:
    rle = masks.rle_from_coco(SQUARE, 6, 8, where="x")
    forms = [{"size": [6, 8], "counts": rle.counts}, {"size": [6, 8], "counts": [7, 3, 3, 3, 3, 3, 3, 3, 20]}]
    crowd = [{**THING, "id": n, "segmentation": form, "iscrowd": 1} for n, form in enumerate(forms)]
    records, findings = load(tmp_path, dataset(*crowd))
    assert findings == []
    assert records[0].instances == ()
    assert [region.rle for region in records[0].crowd] == [rle, rle]


def test_semantic_masks(tmp_path: Path) -> None:
    records, _ = load(tmp_path, dataset(THING), semantic=True)
    assert only(records).semantic


HUGE = 10**30


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"id": "10"}, "annotations[0]: id: expected an integer, found '10'"),
        ({"id": True}, "annotations[0]: id: expected an integer, found True"),
        ({"id": HUGE}, "id: expected an integer, found a huge integer"),
        ({"image_id": None}, "annotations[0] (id 10): image_id: expected an integer, found None"),
        (
            {"image_id": 5},
            "annotations[0] (id 10): image_id: expected the id of an image, found 5 of no image",
        ),
        ({"category_id": 2}, "category_id: expected the id of a category, found 2"),
        ({"category_id": 3.0}, "category_id: expected an integer, found 3.0"),
        ({"category_id": None}, "category_id: expected an integer, found None"),
        ({"phrase": "x"}, "phrase: expected a phrase or a category_id, found both"),
        ({"phrase": " ", "category_id": None}, "phrase: expected text, found ' '"),
        ({"phrase": "a \ud800", "category_id": None}, r"phrase: expected text, found 'a \ud800'"),
        ({"iscrowd": 2}, "iscrowd: expected 0 or 1, found 2"),
        ({"iscrowd": "0"}, "iscrowd: expected 0 or 1, found '0'"),
        ({"segmentation": [[1, 2, 3, 4]]}, "segmentation[0]: expected an even number of 6 or more"),
        ({"segmentation": {"size": [8, 6], "counts": "x"}}, "segmentation.size: expected the image's [6, 8]"),
        ({"segmentation": "mask.png"}, "segmentation: expected polygons or an RLE"),
        ({"segmentation": {"size": "\ud800", "counts": "x"}}, r"expected the image's [6, 8], found '\ud800'"),
        ({"segmentation": {"size": [6, 8], "counts": ["\ud800"]}}, r"an integer, found '\ud800'"),
        (
            {"segmentation": [[1, 1, 1, 1, 1, 1]]},
            "expected a mask with at least one pixel, found an empty one",
        ),
        (
            {"segmentation": [], "bbox": None},
            "expected a mask, a bbox or point_coords on the object, found none",
        ),
        ({"segmentation": [], "iscrowd": 1}, "expected the mask of a crowd region, found []"),
        (
            {"segmentation": [], "bbox": [1, 1, 0, 3]},
            "bbox: expected [x, y, width, height] with positive sides",
        ),
        ({"segmentation": [], "bbox": [1, 1, 3]}, "bbox: expected [x, y, width, height]"),
        ({"segmentation": [], "bbox": [1, 1, 3, float("nan")]}, "bbox: expected [x, y, width, height]"),
        ({"segmentation": [], "bbox": [1, 1, 3, HUGE]}, "bbox: expected [x, y, width, height]"),
        ({"segmentation": [], "bbox": [9, 1, 3, 3]}, "bbox: expected a box that touches the 8x6 image"),
        ({"point_coords": 5}, "point_coords: expected a list of [x, y], found 5"),
        ({"point_coords": [[1, 1]]}, "point_labels: expected 1 labels, found nothing"),
        ({"point_coords": [[1, 1]], "point_labels": [2]}, "point_labels[0]: expected 0 or 1, found 2"),
        (
            {"point_coords": [[1, 6.5]], "point_labels": [1]},
            "point_coords[0]: expected [x, y] in the 8x6 image",
        ),
        (
            {"pseudo": {"source": "robot"}},
            "pseudo.source: expected one of human, teacher, student, found 'robot'",
        ),
        ({"pseudo": {"source": "teacher"}, "score": 2}, "score: expected a number from 0 to 1, found 2"),
        (
            {"pseudo": {"source": "teacher", "quality": -1}},
            "pseudo.quality: expected a number from 0 to 1, found -1",
        ),
        (
            {"pseudo": {"source": "student", "pred_iou": "x"}},
            "pseudo.pred_iou: expected a number from 0 to 1, found 'x'",
        ),
        (
            {"pseudo": {"source": "teacher", "stability": True}},
            "pseudo.stability: expected a number from 0 to 1, found True",
        ),
    ],
)
def test_a_bad_annotation_leaves_its_neighbours_alone(
    tmp_path: Path, change: dict[str, object], finding: str
) -> None:
    neighbour = {**THING, "id": 11}
    records, findings = load(tmp_path, dataset({**THING, **change}, neighbour))
    assert len(findings) == 1
    assert finding in findings[0]
    assert findings[0].startswith("annotations[0]")
    assert findings[0].encode()
    instances = (*records[0].instances, *records[0].crowd)
    assert [i.human_id for i in instances] == [11]


@pytest.mark.parametrize(
    ("image", "finding"),
    [
        (5, "images[0]: entry: expected an object, found 5"),
        (without(IMAGE, "id"), "images[0]: id: expected an integer of at least 0, found nothing"),
        ({**IMAGE, "id": "4"}, "id: expected an integer of at least 0, found '4'"),
        ({**IMAGE, "id": -2}, "images[0] (id -2): id: expected an integer of at least 0, found -2"),
        ({**IMAGE, "file_name": "\udc80.jpg"}, r"file_name: expected text, found '\udc80.jpg'"),
        ({**IMAGE, "instructions": ["find it", "\ud83d"]}, "instructions: expected a list of texts, found"),
        (without(IMAGE, "file_name"), "images[0] (id 4): file_name: expected text, found nothing"),
        ({**IMAGE, "file_name": "../x.jpg"}, "file_name: expected a path inside the image folder"),
        ({**IMAGE, "file_name": "/etc/x.jpg"}, "file_name: expected a path inside the image folder"),
        ({**IMAGE, "width": 0}, "width: expected an integer from 1 to"),
        ({**IMAGE, "height": 6.0}, "height: expected an integer from 1 to"),
        ({**IMAGE, "width": 50_000, "height": 50_000}, "expected at most 89478485 pixels, found 50000x50000"),
        ({**IMAGE, "tags": [2]}, "tags: expected ids of categories, found 2"),
        ({**IMAGE, "tags": "cat"}, "tags: expected a list of category ids, found 'cat'"),
        ({**IMAGE, "instructions": "find"}, "instructions: expected a list of texts, found 'find'"),
        ({**IMAGE, "id": 77}, "images[1] (id 77): id: expected an id of its own, found 77 a second time"),
    ],
)
def test_a_bad_image_leaves_its_neighbours_alone(tmp_path: Path, image: object, finding: str) -> None:
    neighbour = {**IMAGE, "id": 77}
    records, findings = load(tmp_path, dataset({**THING, "image_id": 77}, images=(image, neighbour)))
    assert len(findings) == 1
    assert finding in findings[0]
    assert [r.image_id for r in records] == [77]
    assert len(records[0].instances) == 1


@pytest.mark.parametrize(
    ("category", "finding"),
    [
        ({"id": 3}, "categories[2] (id 3): name: expected text, found nothing"),
        ({"id": "x", "name": "x"}, "categories[2]: id: expected an integer of at least 0, found 'x'"),
        ({"id": -1, "name": "x"}, "categories[2] (id -1): id: expected an integer of at least 0, found -1"),
        ({"id": 5, "name": "\ud800"}, r"categories[2] (id 5): name: expected text, found '\ud800'"),
        (
            {"id": 3, "name": "again"},
            "categories[2] (id 3): id: expected an id of its own, found 3 a second time",
        ),
        (None, "categories[2]: entry: expected an object, found None"),
    ],
)
def test_a_bad_category(tmp_path: Path, category: object, finding: str) -> None:
    records, findings = load(tmp_path, dataset(THING, categories=[*CLASSES, category]))
    assert findings == [finding]
    assert len(records[0].instances) == 1


def test_duplicate_annotation_ids_and_annotations_of_a_refused_image(tmp_path: Path) -> None:
    twin = {**THING, "category_id": 1}
    lost = {**THING, "id": 12, "image_id": 5}
    bad = {**IMAGE, "id": 5, "width": -1}
    records, findings = load(tmp_path, dataset(THING, twin, lost, images=(IMAGE, bad)))
    assert only(records).class_id == 3  # the first one counts
    assert (
        sorted(findings)[0] == "annotations[1] (id 10): id: expected an id of its own, found 10 a second time"
    )
    assert "found 5 of a refused image" in sorted(findings)[1]
    assert len(findings) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": []}, "expected a section 'images' with at least one image"),
        (
            dataset({**THING, "segments_info": []}),
            r"annotations\[0\]: expected instance annotations, found panoptic",
        ),
        ({"images": 5}, "section 'images' must be a list"),
    ],
)
def test_unusable_files(tmp_path: Path, content: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        CocoFile(write(tmp_path, content))


@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_annotations_of_the_stored_frame_turn_with_it(tmp_path: Path, orientation: int) -> None:
    upright = (8, 6) if orientation > 4 else (6, 8)
    header = Header((6, 8), upright, orientation, "JPEG", 1)
    point = without(THING, "segmentation", "bbox", id=11, point_coords=[[1.5, 2.5]], point_labels=[1])
    box = without(THING, "segmentation", id=12)
    with CocoFile(write(tmp_path, dataset(THING, point, box))) as file:
        record, findings = file.record(file.images[0], sha256="", split="t", role=Role.VAL, header=header)
    assert findings == ()
    assert (record.height, record.width) == upright
    stored = masks.decode(masks.rle_from_coco(SQUARE, 6, 8, where="x"))
    turned = (
        stored if orientation == 3 else orient_array(stored, orientation)
    )  # 3 fits the upright frame: left alone
    mask, dot, frame = record.instances
    assert mask.rle == masks.encode(turned)
    assert turned[int(dot.points[0].y), int(dot.points[0].x)]
    assert frame.box_xyxy == masks.tight_box(masks.encode(turned))


def test_a_size_that_fits_no_frame_is_bad_input(tmp_path: Path) -> None:
    with (
        CocoFile(write(tmp_path, dataset(THING))) as file,
        pytest.raises(BadInput, match=r"images\[0\] \(id 4\)"),
    ):
        file.record(
            file.images[0], sha256="", split="t", role=Role.VAL, header=Header((9, 8), (9, 8), 1, "PNG", 1)
        )


def test_which_images_have_masks(tmp_path: Path) -> None:
    images = (*({**IMAGE, "id": i} for i in range(1, 6)), {**IMAGE, "id": 6, "tags": []})
    boxed = without(THING, "segmentation")
    things = [
        {**THING, "id": 1, "image_id": 1},
        {**THING, "id": 2, "image_id": 2},
        {**boxed, "id": 3, "image_id": 2},
        {**boxed, "id": 4, "image_id": 3},
        {**THING, "id": 5, "image_id": 4, "iscrowd": 1},
    ]
    with CocoFile(write(tmp_path, dataset(*things, images=images))) as mixed:
        assert (mixed.complete, mixed.mask_candidates(), mixed.empty_images()) == (False, (1, 6), (4, 5, 6))
    with CocoFile(write(tmp_path, dataset(things[0], things[4], images=images))) as full:
        assert (full.complete, full.mask_candidates()) == (True, (1, 2, 3, 4, 5, 6))
        tags = [full.record(i, sha256="", split="t", role=Role.WEAK)[0].tags for i in full.images]
        assert tags == [None, (), (), None, (), ()]  # in a file of masks an image without any is empty
    machine = {**things[0], "pseudo": {"source": "teacher"}}
    with CocoFile(write(tmp_path, dataset(machine, images=images[:1]))) as pseudo:
        assert pseudo.mask_candidates() == ()


@pytest.mark.parametrize(
    ("change", "hurt"),
    [
        ({"segmentation": [[1, 2, 3, 4]]}, {2}),
        ({"category_id": 99}, {2}),
        ({"iscrowd": 2}, {2}),
        ({"iscrowd": 1, "segmentation": "x"}, {2}),
        ({"id": 1}, {2}),
        ({"id": None}, {2}),
        ({"image_id": "2"}, set()),  # nobody knows which image it was for: no image counts as empty
    ],
    ids=["polygon", "class", "iscrowd", "crowd region", "id twice", "no id", "no image"],
)
def test_an_image_that_lost_an_annotation_is_neither_full_nor_empty(
    tmp_path: Path, change: dict[str, object], hurt: set[int]
) -> None:
    images = tuple({**IMAGE, "id": i} for i in (1, 2, 3))
    things = [{**THING, "id": 1, "image_id": 1}, {**THING, "id": 2, "image_id": 2, **change}]
    with CocoFile(write(tmp_path, dataset(*things, images=images))) as file:
        empty = () if not hurt else (3,)
        assert (file.damaged, file.mask_candidates()) == (hurt, (1, *empty))
        assert set(file.empty_images()) == {1, 2, 3} - {1} - hurt
        tags = [file.record(i, sha256="", split="t", role=Role.WEAK)[0].tags for i in file.images]
        assert tags == [None, None, () if hurt else None]


def test_text_that_utf_8_cannot_hold_never_gets_into_a_record(tmp_path: Path) -> None:
    region = {**masks_of(SQUARE), "reason": "\ud800"}
    classes = [{**CLASSES[0], "supercategory": "\ud800"}]
    content = dataset(images=({**IMAGE, "pseudo": {"ignore": [region]}},), categories=classes)
    with CocoFile(write(tmp_path, content)) as file:
        record, findings = file.record(file.images[0], sha256="", split="t", role=Role.WEAK)
        assert file.ontology.categories[0].supercategory is None
    assert findings == ()
    assert record.instances[0].dropped == "ignored by the export"
    assert arrow.to_table([record])


def masks_of(polygons: list[list[int]]) -> dict[str, object]:
    rle = masks.rle_from_coco(polygons, 6, 8, where="x")
    return {"size": list(rle.size), "counts": rle.counts}


def test_read_records_takes_faultless_files_only(tmp_path: Path) -> None:
    ontology, records = read_records(write(tmp_path, dataset(THING)), split="val", role=Role.VAL)
    assert (ontology.ids, len(records), records[0].role) == ((3, 1), 1, Role.VAL)
    with pytest.raises(BadInput, match=r"annotations\[1\].*and 1 more"):
        read_records(write(tmp_path, dataset(THING, THING, 5)), split="val", role=Role.VAL)


@pytest.mark.parametrize(
    ("name", "annotations", "crowd"),
    [("penn-fudan", 162, 0), ("coco-tiny", 369, 4), ("human-seg", 190, 0)],
)
def test_real_files_decode_as_with_pycocotools(
    real_data: Path, capsys: pytest.CaptureFixture[str], name: str, annotations: int, crowd: int
) -> None:
    path = real_data / name / "train.json"
    reference = COCO(str(path))
    capsys.readouterr()
    _, records = read_records(path, split="train", role=Role.VAL, semantic=name == "human-seg")
    labels = [i for record in records for i in (*record.instances, *record.crowd)]
    assert (len(labels), sum(len(record.crowd) for record in records)) == (annotations, crowd)
    for label in labels:
        assert label.rle is not None
        entry = reference.anns[label.human_id]
        assert label.class_id == entry["category_id"]
        assert label.semantic == (name == "human-seg")
        np.testing.assert_array_equal(masks.decode(label.rle), reference.annToMask(entry))
