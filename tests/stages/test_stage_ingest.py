"""Ingest: roles, weak views, hidden truth, quarantine, identity; the user's files stay as they are."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from errno import EMFILE
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError
from stage_fakes import annotation, box_rle, context, png, write_coco

from pipeline.data.coco_fields import MAX_ID
from pipeline.data.errors import BadInput
from pipeline.data.records import RLE, Record, Role, Source, WeakKind
from pipeline.engine.context import InHand
from pipeline.engine.machine import Heartbeat, Name, images_in_hand
from pipeline.engine.stage import Stopped
from pipeline.engine.streams import RecordStream
from pipeline.engine.units import RecordSet
from pipeline.problems import explain
from pipeline.stages import identity
from pipeline.stages.ingest import Ingest, IngestConfig
from pipeline.stages.truth import read_truth

COCO = {"source": "coco", "json": "train.json", "images": "images"}


def make_set(folder: Path, images: int = 6, *, width: int = 8) -> None:
    write_coco(
        folder,
        "train",
        [{"id": i, "file_name": f"{i}.png"} for i in range(1, images + 1)],
        [annotation(10 * i, i, box_rle(2, 2, 2 + width, 10)) for i in range(1, images + 1)],
    )


def config(**more: object) -> IngestConfig:
    return IngestConfig.model_validate({"data": COCO, "weak": "point+class", "masks": "50%"} | more)


def ingest(folder: Path, settings: IngestConfig) -> list[Record]:
    shutil.rmtree(folder / "run", ignore_errors=True)
    Ingest(settings).run([], context(folder / "run", data_root=folder))
    return all_records(folder / "run" / "out")


def all_records(out: Path) -> list[Record]:
    found = RecordSet.of_folder(out / "dataset" / "records")
    return list(RecordStream(found, frozenset(Role), found.rows))


def read(folder: Path, name: str) -> dict[str, object]:
    return json.loads((folder / "run" / "out" / "dataset" / name).read_text())


@pytest.mark.parametrize(
    ("weak", "seen"),
    [
        ("none", {"tags": None, "boxes": 0, "points": 0}),
        ("class", {"tags": (3,), "boxes": 0, "points": 0}),
        ("point+class", {"tags": (3,), "boxes": 0, "points": 1}),
        ("box+class", {"tags": (3,), "boxes": 1, "points": 0}),
    ],
)
def test_a_weak_image_shows_its_kind_and_no_more(tmp_path: Path, weak: str, seen: dict[str, object]) -> None:
    make_set(tmp_path)
    records = ingest(tmp_path, config(weak=weak))
    for item in (r for r in records if r.role is Role.WEAK):
        assert all(i.rle is None for i in item.instances)
        assert {
            "tags": item.tags,
            "boxes": sum(i.box_xyxy is not None for i in item.instances),
            "points": sum(len(i.points) for i in item.instances),
        } == seen
    assert sum(r.role is Role.HUMAN_MASKED for r in records) == 3
    assert all(i.rle is not None for r in records if r.role is not Role.WEAK for i in r.instances)


def test_truth_holds_what_was_taken_away_and_nothing_else(tmp_path: Path) -> None:
    make_set(tmp_path)
    records = ingest(tmp_path, config())
    hidden = list(read_truth(tmp_path / "run" / "out" / "truth"))
    assert [r.image_id for r in hidden] == [r.image_id for r in records if r.role is Role.WEAK]
    assert all(r.instances[0].rle == box_rle(2, 2, 10, 10) for r in hidden)


@pytest.mark.parametrize("weak", ["none", "class", "box+class"])
def test_visible_records_do_not_depend_on_hidden_masks(tmp_path: Path, weak: str) -> None:
    """Two sets that differ in the shape of hidden masks alone (same boxes) look the same to a run."""
    seen = []
    for name, hole in (("a", False), ("b", True)):
        folder = tmp_path / name
        make_set(folder)
        masked = {r.image_id for r in ingest(folder, config(weak=weak)) if r.role is not Role.WEAK}
        if hole:
            content = json.loads((folder / "train.json").read_text())
            for entry in content["annotations"]:
                if entry["image_id"] not in masked:
                    entry["segmentation"] = [[2, 2, 10, 2, 2, 10, 10, 10]]  # same tight box, other pixels
            (folder / "train.json").write_text(json.dumps(content))
            seen.append(ingest(folder, config(weak=weak)))
        else:
            seen.append(all_records(folder / "run" / "out"))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("last", "found", "told"),
    [
        (6, {5: 7, 7: 9}, "2 was added to each"),
        (MAX_ID - 3, {5: MAX_ID - 2, 7: MAX_ID}, "was added to each"),
        (MAX_ID - 2, {5: 0, 7: 6}, "they were numbered anew"),
        (MAX_ID, {5: 0, 7: 6}, "they were numbered anew"),
    ],
)
def test_val_ids_stay_apart_and_fit_a_record(
    tmp_path: Path, last: int, found: dict[int, int], told: str
) -> None:
    write_coco(tmp_path, "train", [{"id": n, "file_name": f"{n}.png"} for n in (1, 2, 3, 4, 5, last)], [])
    write_coco(tmp_path, "val", [{"id": n, "file_name": f"v{n}.png"} for n in found], [])
    records = ingest(tmp_path, config(data=COCO | {"val_json": "val.json"}, weak="none", masks="0%"))
    assert {r.uri: r.image_id for r in records if r.role is Role.VAL} == {
        f"v{n}.png": number for n, number in found.items()
    }
    assert told in str(read(tmp_path, "summary.json")["notes"])


def test_val_keeps_its_labels_and_never_shares_an_id(tmp_path: Path) -> None:
    make_set(tmp_path)
    write_coco(tmp_path, "val", [{"id": 2, "file_name": "v.png"}], [annotation(1, 2, box_rle(0, 0, 4, 4))])
    records = ingest(tmp_path, config(data=COCO | {"val_json": "val.json"}))
    (val,) = (r for r in records if r.role is Role.VAL)
    assert (val.image_id, val.uri, len(val.instances)) == (7, "v.png", 1)
    assert "val image ids overlap" in str(read(tmp_path, "summary.json")["notes"])


@pytest.mark.parametrize(
    ("file_name", "content", "reason"),
    [
        ("2.png", b"", "empty file"),
        ("2.png", b"<html>", "found an HTML page"),
        ("2.png", png()[:45], "decoded|broken|damaged"),
        ("2.png", png(size=(5, 5)), "width: expected width x height 5x5 as the file has, found 32x24"),
        ("gone.png", None, "found nothing"),
    ],
)
def test_a_bad_image_is_quarantined_and_stops_nobody(
    tmp_path: Path, file_name: str, content: bytes | None, reason: str
) -> None:
    make_set(tmp_path)
    path = tmp_path / "images" / "2.png"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    if file_name != "2.png":
        text = (tmp_path / "train.json").read_text().replace("2.png", file_name)
        (tmp_path / "train.json").write_text(text)
    records = ingest(tmp_path, config())
    assert [r.image_id for r in records] == [1, 3, 4, 5, 6]
    (entry,) = read(tmp_path, "quarantine.json")["images"]
    assert re.search(reason, entry["reason"])
    assert read(tmp_path, "summary.json")["bad_images"] == 1


def test_photos_are_named_while_they_are_in_hand(tmp_path: Path) -> None:
    make_set(tmp_path)
    entries = [{"id": i, "file_name": f"v{i}.png"} for i in (1, 2)]
    write_coco(tmp_path, "val", entries, [annotation(i, i, box_rle(0, 0, 4, 4)) for i in (1, 2)])
    beat = Heartbeat(tmp_path / "beat.json")
    taken: list[tuple[str, set[Name]]] = []

    def take(names: Iterable[Name]) -> None:
        beat.take(names)
        taken.append((*map(str, names), set(images_in_hand(beat.path))))

    poison = {"train image 3 (3.png)": "worker died", "val image 1 (v1.png)": "worker died"}
    suspects = frozenset({"train image 5 (5.png)", "val image 2 (v2.png)", *poison})
    hand = InHand(take, beat.drop, suspects, poison)
    stage = Ingest(config(data=COCO | {"val_json": "val.json"}))
    (tmp_path / "images" / "3.png").write_bytes(b"not looked at")
    lent = context(tmp_path / "run", data_root=tmp_path, in_hand=hand, identity=stage.identity(tmp_path))
    stage.run([], lent)
    assert [(r.uri, r.role is Role.VAL) for r in all_records(tmp_path / "run" / "out")] == [
        *((f"{i}.png", False) for i in (1, 2, 4, 5, 6)),
        ("v2.png", True),
    ]
    listed = read(tmp_path, "quarantine.json")["images"]
    assert {bad["entry"]: bad["reason"] for bad in listed} == poison
    first, others = taken[:2], taken[2:]
    assert first == [(name, {name}) for name in ("train image 5 (5.png)", "val image 2 (v2.png)")]
    assert sorted(name for name, _ in others) == [
        *(f"train image {i} ({i}.png)" for i in (1, 2, 4, 5, 6)),
        "val image 2 (v2.png)",
    ]
    assert images_in_hand(beat.path) == frozenset()
    (tmp_path / "images" / "3.png").write_bytes(b"changed meanwhile")
    with pytest.raises(BadInput, match="changed while they were read"):  # also where some had to be left out
        stage.run([], replace(lent, out=tmp_path / "run" / "again"))


def test_a_folders_photos_are_named_while_their_headers_are_read(tmp_path: Path) -> None:
    make_set(tmp_path, images=3)
    folder = {"source": "folder", "images": "images", "classes": {"disc": 1}}
    taken: list[Name] = []
    hand = InHand(taken.extend, poison={"train image 2 (2.png)": "worker died"})
    stage = Ingest(config(data=folder, weak="none", masks="0%"))
    stage.run([], context(tmp_path / "run", data_root=tmp_path, in_hand=hand))
    assert sorted(taken) == [f"train image {i} ({i}.png)" for i in (1, 1, 3, 3)]
    assert read(tmp_path, "quarantine.json")["images"] == [
        {"entry": "train image 2 (2.png)", "reason": "worker died"}
    ]


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        # Orientation 6: the stored left edge is the upright top. 32x24 stored is 24x32 upright.
        ((32, 24), box_rle(14, 2, 22, 10, (32, 24))),  # listed as stored: the mask turns with the photo
        ((24, 32), box_rle(2, 2, 10, 10, (32, 24))),  # listed upright: the mask stays
    ],
)
def test_annotations_of_a_turned_photo_end_up_upright(
    tmp_path: Path, listed: tuple[int, int], expected: RLE
) -> None:
    width, height = listed
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", (32, 24)).save(tmp_path / "images" / "1.jpg", exif=exif)
    mask = box_rle(2, 2, 10, 10, (height, width))
    write_coco(
        tmp_path,
        "train",
        [{"id": 1, "file_name": "1.jpg", "width": width, "height": height}],
        [annotation(1, 1, mask)],
    )
    (item,) = ingest(tmp_path, config(masks="100%"))
    assert (item.width, item.height) == (24, 32)
    assert item.instances[0].rle == expected


def test_a_link_out_of_the_image_folder_is_not_followed(tmp_path: Path) -> None:
    make_set(tmp_path)
    (tmp_path / "secret.png").write_bytes(png())
    path = tmp_path / "images" / "2.png"
    path.unlink()
    path.symlink_to(tmp_path / "secret.png")
    assert [r.image_id for r in ingest(tmp_path, config())] == [1, 3, 4, 5, 6]


def test_a_bad_annotation_is_counted_and_left_out(tmp_path: Path) -> None:
    make_set(tmp_path)
    content = json.loads((tmp_path / "train.json").read_text())
    content["annotations"][0]["segmentation"]["counts"] = "~~~"
    content["annotations"][1]["image_id"] = 99
    (tmp_path / "train.json").write_text(json.dumps(content))
    ingest(tmp_path, config(weak="none"))
    summary = read(tmp_path, "summary.json")
    assert (summary["annotations"], summary["bad_annotations"], summary["bad_images"]) == (6, 2, 0)


@pytest.mark.parametrize("change", [{"iscrowd": 2}, {"segmentation": [[1, 2, 3, 4]]}])
def test_an_image_that_lost_its_annotation_does_not_count_as_empty(
    tmp_path: Path, change: dict[str, object]
) -> None:
    make_set(tmp_path)
    content = json.loads((tmp_path / "train.json").read_text())
    content["annotations"][1] |= change
    (tmp_path / "train.json").write_text(json.dumps(content))
    shutil.copy(tmp_path / "train.json", tmp_path / "val.json")
    records = ingest(tmp_path, config(data=COCO | {"val_json": "val.json"}, masks="100%", weak="class"))
    train = {r.image_id: r for r in records if r.role is not Role.VAL}
    assert [i for i, r in train.items() if r.role is Role.HUMAN_MASKED] == [1, 3, 4, 5, 6]  # the whole ones
    assert (train[2].role, train[2].tags, train[2].instances) == (Role.WEAK, None, ())
    assert list(read_truth(tmp_path / "run" / "out" / "truth")) == []
    assert len([r for r in records if r.role is Role.VAL]) == 5
    summary = read(tmp_path, "summary.json")
    assert "1 val images are not scored" in str(summary["notes"])
    assert summary["bad_annotations"] == 2


def test_identity_changes_with_json_and_pixels_and_nothing_else(tmp_path: Path) -> None:
    make_set(tmp_path)
    stage = Ingest(config())
    first = stage.identity(tmp_path)
    assert stage.identity(tmp_path) == first
    (tmp_path / "images" / "3.png").write_bytes(png(77))
    second = stage.identity(tmp_path)
    make_set(tmp_path, width=9)
    assert len({first, second, stage.identity(tmp_path)}) == 3


@pytest.mark.parametrize("verify", ["bytes", "stat"])
@pytest.mark.parametrize("change", [None, "3.png", "new.png", "train.json"])
@pytest.mark.parametrize("source", ["coco", "folder"])
def test_what_changes_while_it_is_read_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, change: str | None, verify: str
) -> None:
    make_set(tmp_path)
    (tmp_path / "images" / "2.png").write_bytes(b"<html>")  # which does not matter
    monkeypatch.setattr("pipeline.stages.identity.MAX_FILE_BYTES", 10_000)
    monkeypatch.setattr("pipeline.data.images.MAX_FILE_BYTES", 10_000)
    (tmp_path / "images" / "4.png").write_bytes(bytes(10_001))  # nor does this
    folder = {"source": "folder", "images": "images", "classes": {"disc": 1}}
    data = {"data": folder, "weak": "none", "masks": "0%"} if source == "folder" else {}
    stage = Ingest(config(**data, verify=verify))
    lent = context(tmp_path / "run", data_root=tmp_path, identity=stage.identity(tmp_path))
    if change == "train.json":
        make_set(tmp_path, width=9)
    elif change is not None:
        (tmp_path / "images" / change).write_bytes(png(77))
    listed = {"coco": {"3.png", "train.json"}, "folder": {"3.png", "new.png"}}
    if change in listed[source]:
        with pytest.raises(BadInput, match="changed while they were read"):
            stage.run([], lent)
        return
    if verify == "bytes":  # each photo is read once, but for those that are none
        monkeypatch.setattr("pipeline.stages.identity._plain_digest", None)
    stage.run([], lent)


@pytest.mark.parametrize("source", ["coco", "folder"])
def test_an_error_of_the_disk_ends_ingest_and_names_the_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    make_set(tmp_path)
    folder = {"source": "folder", "images": "images", "classes": {"disc": 1}}
    data = {"data": folder, "weak": "none", "masks": "0%"} if source == "folder" else {}
    whole = Path.open

    def fail(path: Path, *given: str, **named: str) -> object:
        if path.name == "3.png":
            raise OSError(EMFILE, "Too many open files")
        return whole(path, *given, **named)

    plain = os.open

    def fail_too(path: str, *given: int, **named: int) -> int:
        if str(path).endswith("/3.png"):
            raise OSError(EMFILE, "Too many open files")
        return plain(path, *given, **named)

    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr(os, "open", fail_too)
    for work in (Ingest(config(**data)).identity, lambda folder: ingest(folder, config(**data))):
        with pytest.raises(OSError, match=r"Too many open files: .*images/3\.png"):
            work(tmp_path)


@pytest.mark.parametrize("source", ["coco", "folder"])
def test_by_stat_an_image_is_the_same_until_size_or_time_change(tmp_path: Path, source: str) -> None:
    make_set(tmp_path)
    folder = {"source": "folder", "images": "images", "classes": {"disc": 1}}
    data = {"data": folder, "weak": "class", "masks": "0%"} if source == "folder" else {}
    by_stat, by_bytes = (Ingest(config(**data, verify=verify)) for verify in ("stat", "bytes"))
    image = tmp_path / "images" / "3.png"
    times, content = image.stat(), image.read_bytes()

    def put(changed: bytes, time_ns: int) -> tuple[str, str]:
        image.rename(tmp_path / "before")  # so that the next is another file, as on another machine's mount
        image.write_bytes(changed)
        os.utime(image, ns=(time_ns, time_ns))
        return by_stat.identity(tmp_path), by_bytes.identity(tmp_path)

    first = put(content, times.st_mtime_ns)
    flipped = put(content[:-1] + bytes([content[-1] ^ 1]), times.st_mtime_ns)
    later = put(content, times.st_mtime_ns + 1)
    longer = put(content + b"x", times.st_mtime_ns)
    (tmp_path / "images" / "1.png").unlink()
    gone = put(content, times.st_mtime_ns)
    stats, digests = zip(first, flipped, later, longer, gone, strict=True)
    assert stats[1] == stats[0]
    assert len({stats[0], *stats[2:]}) == 4
    assert digests[2] == digests[0]
    assert len({digests[0], digests[1], *digests[3:]}) == 4
    assert not set(stats) & set(digests)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"verify": "size"}, "Input should be 'bytes' or 'stat'"),
        ({"weak": "instruction"}, "no teacher reads an instruction"),
        ({"weak": "boxes"}, "expected one of none, class"),
        ({"masks": "ten"}, "expected a percentage"),
        ({"shots": 3}, "expected masks or shots, not both"),
        ({"masks": None}, "expected masks or shots"),
        ({"data": {"source": "files"}}, "toyworld"),
        ({"data": COCO | {"jsn": "x"}}, "jsn"),
        ({"data": {"source": "toyworld", "train": 0}}, "greater than or equal to 1"),
    ],
)
def test_a_bad_config_is_refused(more: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**more)


def test_all_that_is_wrong_with_a_config_is_told_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        config(weak="foo", masks="200%", shots=3, data={"source": "toyworld", "train": 0})
    assert explain(caught.value, IngestConfig, "") == [
        "data.train: Input should be greater than or equal to 1, found 0",
        "weak: expected one of none, class, point+class, box+class, found 'foo'",
        "masks: expected a percentage from 0% to 100%, or all, found '200%'",
        "shots: expected masks or shots, not both, found 3",
    ]


def test_config_survives_the_way_to_the_worker() -> None:
    settings = config()
    assert IngestConfig.model_validate_json(settings.model_dump_json(by_alias=True)) == settings
    assert IngestConfig.model_validate_json(settings.model_dump_json()) == settings


def test_a_file_that_lacks_the_kind_is_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, "train", [{"id": 1, "file_name": "1.png", "tags": [3]}], [])
    with pytest.raises(BadInput, match="holds no labels of kind box"):
        ingest(tmp_path, config(weak="box+class", masks="0%"))


def test_given_weak_labels_are_used_and_have_no_truth(tmp_path: Path) -> None:
    boxes = [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [2, 2, 8, 8]}]
    write_coco(tmp_path, "train", [{"id": 1, "file_name": "1.png"}], boxes)
    (item,) = ingest(tmp_path, config(weak="box+class", masks="0%"))
    assert item.instances[0].box_xyxy == (2, 2, 10, 10)
    assert list(read_truth(tmp_path / "run" / "out" / "truth")) == []


def test_pseudo_masks_of_an_export_are_used_as_given(tmp_path: Path) -> None:
    """`train` works on our own export: machine masks are neither human masks nor weak labels to simulate from."""
    made = annotation(1, 1, box_rle(2, 2, 10, 10)) | {"score": 0.5, "pseudo": {"source": "teacher"}}
    images = [{"id": i, "file_name": f"{i}.png"} for i in (1, 2)]
    write_coco(tmp_path, "train", images, [made, annotation(2, 2, box_rle(0, 0, 4, 4))])
    first, second = ingest(tmp_path, config(weak="none", masks="100%"))
    assert (first.role, first.instances[0].source, first.instances[0].rle) == (
        Role.WEAK,
        Source.TEACHER,
        box_rle(2, 2, 10, 10),
    )
    assert second.role is Role.HUMAN_MASKED
    assert list(read_truth(tmp_path / "run" / "out" / "truth")) == []


def test_a_human_mask_beside_a_machine_one_is_hidden_as_any_other(tmp_path: Path) -> None:
    made = annotation(1, 1, box_rle(2, 2, 10, 10)) | {"score": 0.5, "pseudo": {"source": "teacher"}}
    write_coco(
        tmp_path, "train", [{"id": 1, "file_name": "1.png"}], [made, annotation(2, 1, box_rle(0, 0, 4, 4), 7)]
    )
    (item,) = ingest(tmp_path, config(masks="0%"))
    mine, machine = item.instances
    assert (mine.source, mine.class_id, mine.rle, len(mine.points)) == (Source.HUMAN, 7, None, 1)
    assert (machine.source, machine.rle, machine.score) == (Source.TEACHER, box_rle(2, 2, 10, 10), 0.5)
    assert item.tags == (7,)


def test_semantic_sets_say_so(tmp_path: Path) -> None:
    make_set(tmp_path)
    records = ingest(tmp_path, config(data=COCO | {"masks": "semantic"}))
    assert all(i.semantic for r in records for i in r.instances)
    assert read(tmp_path, "summary.json")["semantic"] is True


def test_toyworld_leaves_pictures_alone_in_the_dataset(tmp_path: Path) -> None:
    settings = IngestConfig.model_validate(
        {"data": {"source": "toyworld", "train": 3, "val": 1}, "masks": "0%", "weak": "class"}
    )
    records = ingest(tmp_path, settings)
    dataset = tmp_path / "run" / "out" / "dataset"
    assert sorted(p.name for p in dataset.iterdir()) == [
        "images",
        "ontology.json",
        "quarantine.json",
        "records",
        "summary.json",
    ]
    assert {p.name for p in (dataset / "images").iterdir()} == {r.uri for r in records}
    assert sorted(r.role for r in records) == [Role.VAL, Role.WEAK, Role.WEAK, Role.WEAK]


def test_a_smaller_share_lies_within_a_larger_one(tmp_path: Path) -> None:
    make_set(tmp_path, images=12)
    shares = {}
    for masks in ("20%", "60%"):
        records = ingest(tmp_path, config(masks=masks))
        shares[masks] = {r.image_id for r in records if r.role is not Role.WEAK}
    assert shares["20%"] < shares["60%"]
    assert WeakKind.POINT in {i.weak_kind for r in records for i in r.instances}


def test_reading_photos_counts_as_a_sign_of_life(tmp_path: Path) -> None:
    make_set(tmp_path)
    told: list[str] = []
    place = context(
        tmp_path / "run", data_root=tmp_path, progress=lambda _done, _total, note: told.append(note)
    )
    Ingest(config()).run([], place)
    assert told == ["photos"] * 6 + ["images"] * 6


def test_ingest_stops_when_asked(tmp_path: Path) -> None:
    make_set(tmp_path)
    with pytest.raises(Stopped):
        Ingest(config()).run([], context(tmp_path / "run", data_root=tmp_path, should_stop=lambda: True))


def test_who_looks_at_images_leaves_off_when_nobody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number}.png" for number in range(4 * identity.CHUNK)]
    for name in names:
        (tmp_path / name).touch()
    looked = []

    def slow(path: str, _: os.stat_result) -> str:
        looked.append(path)
        time.sleep(0.05 if int(Path(path).stem) >= identity.CHUNK else 0)
        return "seen"

    class Ended:
        def update(self, _: bytes) -> None:
            raise Stopped

    monkeypatch.setattr(identity, "_plain_digest", slow)
    with pytest.raises(Stopped):
        identity.add_images(Ended(), tmp_path, names, identity.Asked())
    assert len(looked) < 3 * identity.CHUNK
