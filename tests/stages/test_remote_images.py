"""Images and COCO files by URL: taken in as from a folder, with the same checks, and read where they are."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from stage_fakes import annotation, box_rle, context, png, write_coco

from pipeline.data.errors import BadInput
from pipeline.data.images import MAX_FILE_BYTES, read_bytes, read_listed
from pipeline.data.paths import check_folder, is_there, stat_of
from pipeline.data.records import Record, Role
from pipeline.data.urls import Unreachable, UrlPath, file_system
from pipeline.engine.files import CACHE
from pipeline.engine.streams import RecordStream
from pipeline.engine.units import RecordSet
from pipeline.inputs import look_at
from pipeline.stages.fetched import fetched
from pipeline.stages.folders import find_photos
from pipeline.stages.ingest import Ingest, IngestConfig
from pipeline.stages.samples import read_sample
from pipeline.stages.sources import images_root


@pytest.fixture(params=["memory", "s3"])
def place(request, tmp_path, monkeypatch) -> UrlPath:
    """An empty folder at a URL."""
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    base = "memory:/" if request.param == "memory" else request.getfixturevalue("bucket")
    return UrlPath(f"{base}/{uuid.uuid4().hex}")


def put(place: UrlPath, name: str, content: bytes) -> None:
    fs, path = file_system(place / name)
    fs.pipe_file(path, content)


def upload(folder: Path, place: UrlPath) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            put(place, path.relative_to(folder).as_posix(), path.read_bytes())


def make_set(folder: Path, *, bad: bool = True) -> None:
    """Eight photos and, if asked, files that are none."""
    (folder / "images" / "deep").mkdir(parents=True)
    names = [f"{'deep/' if i % 2 else ''}{i}.png" for i in range(1, 9)]
    listed = [{"id": i, "file_name": name} for i, name in enumerate(names, start=1)]
    if bad:
        (folder / "images" / "text.png").write_text("no picture")
        (folder / "images" / "empty.png").write_bytes(b"")
        (folder / "images" / "cut.png").write_bytes(png(3)[:60])
        listed += [{"id": 20 + i, "file_name": f"{n}.png"} for i, n in enumerate(("text", "empty", "cut"))]
        (folder / "images" / "gone.png").write_bytes(png(9))
        listed.append({"id": 30, "file_name": "gone.png"})
    labels = [annotation(10 * i, i, box_rle(2, 2, 10, 10)) for i in range(1, 9)]
    write_coco(folder, "train", listed, labels)
    (folder / "images" / "gone.png").unlink(missing_ok=True)


def settings(base: Path | UrlPath, **more: str) -> IngestConfig:
    data = {"source": "coco", "json": f"{base}/train.json", "images": f"{base}/images"} | more
    return IngestConfig.model_validate({"data": data, "weak": "point+class", "masks": "50%"})


def ingest(run: Path, config: IngestConfig) -> tuple[list[Record], list[tuple[str, str]]]:
    """The records, and what was left out and why."""
    Ingest(config).run([], context(run))
    found = RecordSet.of_folder(run / "out" / "dataset" / "records")
    listing = json.loads((run / "out" / "dataset" / "quarantine.json").read_text())
    bad = [(entry["entry"], entry["reason"]) for entry in listing["images"]]
    return list(RecordStream(found, frozenset(Role), found.rows)), bad


def test_a_set_by_url_is_taken_in_as_from_a_folder(tmp_path, place):
    make_set(tmp_path / "set")
    upload(tmp_path / "set", place)
    here, there = settings(tmp_path / "set"), settings(place)
    assert ingest(tmp_path / "two", there) == ingest(tmp_path / "one", here)
    assert Ingest(there).identity(Path()) == Ingest(here).identity(Path())
    assert look_at(there, Path()).problems == []


def test_changed_bytes_change_the_identity_and_are_refused_later(tmp_path, place):
    make_set(tmp_path / "set", bad=False)
    upload(tmp_path / "set", place)
    config = settings(place)
    by_stat = Ingest(config.model_copy(update={"verify": "stat"}))
    before, told_before = Ingest(config).identity(Path()), by_stat.identity(Path())
    assert by_stat.identity(Path()) == told_before != before
    records, _ = ingest(tmp_path / "run", config)
    root = images_root(config.data, Path())
    assert read_sample(records[1], root).image.shape == (24, 32, 3)
    put(place, f"images/{records[1].uri}", png(77))
    assert Ingest(config).identity(Path()) != before
    assert by_stat.identity(Path()) != told_before
    with pytest.raises(BadInput, match="changed since ingest"):
        read_sample(records[1], root)


def test_a_changed_coco_file_is_read_anew(tmp_path, place):
    make_set(tmp_path / "set", bad=False)
    upload(tmp_path / "set", place)
    config = settings(place)
    assert len(ingest(tmp_path / "one", config)[0]) == 8
    content = json.loads((tmp_path / "set" / "train.json").read_text())
    content["images"] = content["images"][:5]
    content["annotations"] = content["annotations"][:5]
    put(place, "train.json", json.dumps(content).encode())
    assert len(ingest(tmp_path / "two", config)[0]) == 5


def test_two_splits_start_at_the_folder_that_holds_both(tmp_path, place):
    make_set(tmp_path / "a", bad=False)
    make_set(tmp_path / "b", bad=False)
    upload(tmp_path / "a", place / "a")
    upload(tmp_path / "b", place / "b")
    config = settings(place / "a", val_json=f"{place}/b/train.json", val_images=f"{place}/b/images")
    records, bad = ingest(tmp_path / "run", config)
    root = images_root(config.data, Path())
    assert not bad
    assert root == place
    assert {record.uri.split("/")[0] for record in records} == {"a", "b"}
    assert all(read_sample(record, root).image.any() for record in records)


def test_a_folder_of_photos_by_url(tmp_path, place):
    make_set(tmp_path / "set")
    (tmp_path / "set" / "images" / "unnamed").write_bytes(png(5))
    (tmp_path / "set" / "images" / "notes.txt").write_text("no photo")
    upload(tmp_path / "set", place)
    assert find_photos(place / "images") == find_photos(tmp_path / "set" / "images")
    data = {"source": "folder", "images": f"{place}/images", "classes": {"cat": 3}}
    config = IngestConfig.model_validate({"data": data, "weak": "none", "masks": "0%"})
    local = replace_images(config, str(tmp_path / "set" / "images"))
    assert ingest(tmp_path / "one", config) == ingest(tmp_path / "two", local)


def replace_images(config: IngestConfig, images: str) -> IngestConfig:
    return config.model_copy(update={"data": config.data.model_copy(update={"images": images})})


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../secret.png", "way out of it"),
        ("deep/../../secret.png", "way out of it"),
        ("/secret.png", "way out of it"),
        ("memory://secret.png", "way out of it"),
        ("gone.png", "found nothing"),
        ("deep", "found a folder"),
    ],
)
def test_a_name_leads_nowhere_else(place, name, problem):
    put(place, "images/deep/1.png", png(1))
    put(place, "secret.png", png(2))
    with pytest.raises(BadInput, match=problem):
        read_listed(place / "images", name)
    assert not is_there(place / "images", name)


def test_a_roundabout_name_is_the_same_file(place):
    put(place, "images/1.png", png(1))
    assert read_listed(place / "images", "./deep/../1.png") == png(1)
    assert read_bytes(place / "images" / "deep/../1.png") == png(1)


def test_a_file_that_is_too_large_is_refused(place, monkeypatch):
    put(place, "large.png", b"x" * 1001)
    monkeypatch.setattr("pipeline.data.images.MAX_FILE_BYTES", 1000)
    with pytest.raises(BadInput, match="expected at most 1000 bytes, found more"):
        read_bytes(place / "large.png")
    assert MAX_FILE_BYTES > 1000


def test_there_must_be_a_folder(place):
    with pytest.raises(BadInput, match="expected a folder of images, found none"):
        check_folder(place)
    assert look_at(settings(place), Path()).problems == [
        f"{place}/train.json: expected a file, found nothing"
    ]


def test_a_bucket_that_is_not_there_is_told_before_any_work(bucket):
    gone = UrlPath(f"{bucket}-gone/x")
    (problem,) = look_at(settings(gone), Path()).problems
    assert problem == f"{gone}/train.json: The specified bucket does not exist"
    with pytest.raises(BadInput, match="expected a folder of images, found none"):
        check_folder(gone)
    with pytest.raises(Unreachable, match="bucket does not exist"):
        read_bytes(gone / "1.png")


@pytest.mark.parametrize(
    ("field", "url", "problem"),
    [
        ("images", "s3://key:secret@bucket/x", "without a name or password"),
        ("images", "s3://bucket/../x", "without . or .."),
        ("json", "s3://key:secret@bucket/x", "without a name or password"),
    ],
)
def test_a_url_is_checked_in_the_config(field, url, problem):
    with pytest.raises(ValueError, match=problem):
        settings(Path("base"), **{field: url})


def test_a_path_and_a_url_have_no_folder_in_common(place):
    config = settings(place, val_json="val.json", val_images="val")
    with pytest.raises(BadInput, match="expected images and val_images in one place"):
        images_root(config.data, Path())


def test_a_server_that_is_gone_is_no_fault_of_the_image(bucket, monkeypatch):
    photo = UrlPath(f"{bucket}/1.png")
    put(UrlPath(bucket), "1.png", png(1))
    fs, _ = file_system(photo)

    def fail(*_: object, **__: object) -> bytes:
        raise PermissionError("The provided token has expired.")

    monkeypatch.setattr(fs, "cat_file", fail)
    with pytest.raises(Unreachable, match=r"1\.png: no rights"):
        read_bytes(photo)


def test_a_damaged_copy_of_a_coco_file_is_fetched_anew(place):
    put(place, "train.json", b"[1, 2, 3]")
    copy = fetched(place / "train.json")
    copy.write_text("[1, 2]")
    assert fetched(place / "train.json").read_text() == "[1, 2, 3]"
    copy.with_name("train.json.note").write_text("[")
    assert fetched(place / "train.json").read_text() == "[1, 2, 3]"


def test_a_copy_of_a_coco_file_that_nobody_uses_is_removed(place, tmp_path):
    for name in ("one", "two"):
        put(place, f"{name}.json", b"[]")
        fetched(place / f"{name}.json")
    left = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert len(left) == 4
    os.utime(left[1], (1, 1))
    assert fetched(place / "two.json").exists()
    assert sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file()) == left[2:]


@pytest.fixture(params=["Last-Modified", "ETag", None])
def web(request, tmp_path, monkeypatch) -> Iterator[tuple[Path, UrlPath]]:
    """A folder and the server that serves it, which tells when a file has changed by that header, or not at all."""

    class Handler(SimpleHTTPRequestHandler):
        def send_header(self, keyword: str, value: str) -> None:
            if keyword == "Last-Modified" and request.param == "ETag":
                content = Path(self.translate_path(self.path)).read_bytes()
                super().send_header("ETag", hashlib.sha256(content).hexdigest())
            elif keyword in (request.param, "Content-Length", "Content-type"):
                super().send_header(keyword, value)

        def log_message(self, *_: object) -> None:
            """Keeps quiet."""

    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    (tmp_path / "web").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "web"))
    Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path / "web", UrlPath(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


def test_a_file_of_a_web_server_that_has_changed_is_seen(web):
    folder, place = web
    (folder / "a.json").write_text("[1]")
    assert fetched(place / "a.json").read_text() == "[1]"
    told = stat_of(place / "a.json")
    assert stat_of(place / "a.json") == told
    (folder / "a.json").write_text("[2]")
    os.utime(folder / "a.json", (1, 1))  # a time that is told has whole seconds
    assert fetched(place / "a.json").read_text() == "[2]"
    assert stat_of(place / "a.json") != told
    with pytest.raises(BadInput, match=r"none\.json: expected a file, found nothing"):
        fetched(place / "none.json")
