"""File names that break careless programs, through run, export, predict and report; folders listed by content."""

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from odd_files import encoded
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.data.errors import BadInput
from pipeline.data.masks import encode
from pipeline.data.records import Instance, Source
from pipeline.stages.folders import find_photos
from teachers.protocols import Sample

SIZE = (16, 20)
NFC, NFD = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
NAMES = (
    "with space.png",
    " leading.png",
    "'single' \"double\".png",
    "two\nlines.png",
    "tab\t.png",
    "$(rm -rf x).png",
    "; ls.png",
    "`id`.png",
    "-rf.png",
    "%s %d {0}.png",
    "<script>alert(1).png",
    "&amp;.png",
    "back\\slash.png",
    "*?[a].png",
    "~.png",
    "#1.png",
    "\x1b[31mred.png",
    "\u202egnp.exe.png",
    "日本語.png",
    NFC,
    NFD,
    "a.jpg",
    "a.png",
    "a.png.png",
    "x/a.jpg",
    "x" * 246 + ".png",
    "ü" * 123 + ".png",
)
NOT_UTF8 = os.fsdecode(b"caf\xe9.png")


def photo(number: int) -> bytes:
    return encoded(Image.new("RGB", SIZE[::-1], (number, 0, 0)), "PNG")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of photos with all these names, photo n in the colour n."""
    folder = tmp_path / "photos"
    for number, name in enumerate(NAMES, start=1):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(number))
    return folder


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """A function that runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMNIMASK_DATA", raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


class Dots:
    """A student that finds one pixel in every photo, scored by the photo's colour."""

    def predict(self, batch: list[Sample]) -> list[list[Instance]]:
        dot = np.zeros(SIZE, bool)
        dot[0, 0] = True
        return [
            [Instance(Source.STUDENT, class_id=7, rle=encode(dot), score=sample.image[0, 0, 0] / 255)]
            for sample in batch
        ]


@pytest.fixture
def student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from students import catalog

    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "student.json").write_text("{}")
    monkeypatch.setattr(catalog, "load_artifact", lambda _, *, device: Dots())  # noqa: ARG005
    return folder


def write_run(folder: Path, data: dict[str, object]) -> None:
    content = {"name": "odd", "data": data, "weak": "none", "masks": "0%", "max_bad": 1.0}
    stages: list[object] = [{"export": {}}, {"report": {}}]
    (folder / "odd.yaml").write_text(yaml.safe_dump(content | {"stages": stages}))


def write_listing(path: Path, names: tuple[str, ...] = NAMES) -> None:
    images = [
        {"id": n, "file_name": name, "height": SIZE[0], "width": SIZE[1]}
        for n, name in enumerate(names, start=1)
    ]
    path.write_text(
        json.dumps({"images": images, "annotations": [], "categories": [{"id": 7, "name": "dot"}]})
    )


COCO = {"source": "coco", "json": "odd.json", "images": "photos"}
FOLDER = {"source": "folder", "images": "photos", "classes": {"dot": 7}}


@pytest.mark.parametrize("data", [COCO, FOLDER], ids=["listed", "folder"])
def test_odd_names_go_through_a_run_and_its_export(
    cli: Callable[..., Result], photos: Path, tmp_path: Path, data: dict[str, object]
) -> None:
    write_listing(tmp_path / "odd.json")
    write_run(tmp_path, data)
    done = cli("run", "odd.yaml", "--workers", 0, "--out", "run")
    assert (done.exit_code, "Traceback" in done.output) == (0, False), done.output
    assert cli("export", "run", "--out", "copy").stdout == f"copy: {len(NAMES)} images\n"
    found = json.loads((tmp_path / "copy" / "coco" / "train.json").read_text())["images"]
    assert {image["file_name"] for image in found} == set(NAMES)
    for number, name in enumerate(NAMES, start=1):
        assert (tmp_path / "copy" / "images" / name).read_bytes() == photo(number)
        assert (photos / name).read_bytes() == photo(number)  # nothing was done to the user's


def test_odd_names_in_the_quarantine_and_the_report(
    cli: Callable[..., Result], photos: Path, tmp_path: Path
) -> None:
    for name in NAMES:
        (photos / name).write_bytes(b"")
    (photos / "good.png").write_bytes(photo(1))
    write_listing(tmp_path / "odd.json", (*NAMES, "good.png"))
    write_run(tmp_path, COCO)
    done = cli("run", "odd.yaml", "--workers", 0, "--out", "run")
    assert done.exit_code == 0, done.output
    bad = json.loads((tmp_path / "run" / "quarantine.json").read_text())["images"]
    assert len(bad) == len(NAMES)
    for name, item in zip(NAMES, bad, strict=True):
        line = (
            name.replace("\n", "\\n")
            .replace("\t", "\\t")
            .replace("\x1b", "\\x1b")
            .replace("\u202e", "\\u202e")
        )
        assert item["entry"].endswith(f" ({line})")
        assert ": file_name: expected JPEG, PNG" in item["reason"]
    html = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "&lt;script&gt;alert(1).png" in html
    assert "<script" not in html
    refused = cli("run", "odd.yaml", "--workers", 0, "--out", "other", "--set", "max_bad=0")
    assert (refused.exit_code, "\x1b[31m" in refused.stderr) == (3, False)


@pytest.mark.parametrize("listing", [True, False], ids=["listed", "folder"])
def test_odd_names_are_predicted_on(
    cli: Callable[..., Result], photos: Path, student: Path, tmp_path: Path, listing: bool
) -> None:
    write_listing(tmp_path / "odd.json")
    (tmp_path / "secret.png").write_bytes(photo(200))
    more = ["--json", "odd.json"] if listing else []
    done = cli("predict", photos, "--student", student, "--out", "found.json", *more)
    assert done.exit_code == 0, done.stderr
    colours = [round(item["score"] * 255) for item in json.loads((tmp_path / "found.json").read_text())]
    assert sorted(colours) == list(range(1, len(NAMES) + 1))


def test_a_name_that_is_not_utf8(
    cli: Callable[..., Result], photos: Path, student: Path, tmp_path: Path
) -> None:
    """A COCO file cannot list it; predict can read it."""
    (photos / NOT_UTF8).write_bytes(photo(99))
    write_run(tmp_path, FOLDER)
    done = cli("run", "odd.yaml", "--workers", 0, "--out", "run")
    assert (done.exit_code, "Traceback" in done.output) == (0, False), done.output
    (bad,) = json.loads((tmp_path / "run" / "quarantine.json").read_text())["images"]
    assert bad["entry"] == "train image (caf\\udce9.png)"
    assert bad["reason"] == "image caf\\udce9.png: expected a name in UTF-8, found other bytes; rename it"
    assert cli("predict", photos, "--student", student, "--out", "found.json").exit_code == 0
    assert len(json.loads((tmp_path / "found.json").read_text())) == len(NAMES) + 1
    (photos / NOT_UTF8).write_bytes(b"")
    told = cli("predict", photos, "--student", student, "--out", "again.json")
    assert "left out: image caf\\udce9.png: expected JPEG" in told.stderr


def test_nothing_but_names_that_are_not_utf8(cli: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / NOT_UTF8).write_bytes(photo(1))
    write_run(tmp_path, FOLDER)
    done = cli("run", "odd.yaml", "--workers", 0)
    assert done.exit_code == 2
    assert (
        "error: ingest: image caf\\udce9.png: expected a name in UTF-8, found other bytes; rename it"
        in done.stderr
    )


def test_paths_that_are_not_utf8(cli: Callable[..., Result], tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"d\xff")
    (odd / "photos").mkdir(parents=True)
    (odd / "photos" / "1.png").write_bytes(photo(1))
    write_run(tmp_path, FOLDER)
    done = cli("run", "odd.yaml", "--data", odd, "--workers", 0, "--out", "run")
    assert done.exit_code == 0, done.output
    named = cli("run", "odd.yaml", "--workers", 0, "--set", f"data.images={odd / 'photos'}")
    assert named.exit_code == 2
    assert "data.images: expected a path in UTF-8, without NUL" in named.stderr
    for option in ("--out", "--store"):
        refused = cli("run", "odd.yaml", "--data", odd, "--workers", 0, option, os.fsdecode(b"x\xff"))
        assert refused.exit_code == 2
        assert f"Invalid value for '{option}': expected a path in UTF-8" in refused.stderr


def test_what_is_odd_with_predicted_photos_is_told(
    cli: Callable[..., Result], student: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(photo(200))
    first = Image.new("RGB", SIZE[::-1], (1, 0, 0))
    pages = encoded(first, "TIFF", save_all=True, append_images=[Image.new("RGB", (20, 16))])
    for number in range(1, 8):
        (folder / f"{number}.tif").write_bytes(pages)
    (folder / "out.png").symlink_to("../secret.png")
    done = cli("predict", folder, "--student", student, "--out", "found.json")
    assert done.stderr.splitlines()[:2] == [
        "7 images with several frames or pages, of which the first is read: "
        "1.tif, 2.tif, 3.tif, 4.tif, 5.tif, ...",
        f"left out: image out.png: expected a file inside {folder}, "
        f"found a way out of it to {tmp_path / 'secret.png'}",
    ]
    colours = {round(item["score"] * 255) for item in json.loads((tmp_path / "found.json").read_text())}
    assert colours == {1}


def test_a_folder_is_listed_by_what_its_files_are(tmp_path: Path) -> None:
    png = photo(1)
    files = {
        "b.JPG": png,
        "a/c.tiff": b"",
        "no-suffix": png,
        "wrong.txt": png,
        "film.gif": encoded(Image.new("RGB", (4, 4)), "GIF"),
        "drawing.svg": b"<svg/>",
        ".hidden.png": png,
        "broken.gif": b"gif",  # nothing says that it is a picture
        "README.txt": b"photos of mine",
        "labels.json": b"{}",
        ".DS_Store": b"\0\0\0\1Bud1",
        "paper.pdf": b"%PDF-1.7",
        "film.mp4": b"\0\0\0\x18ftypisom\0\0\0\0isom",
        "empty": b"",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "d.jpg").mkdir()
    (tmp_path / "d.jpg" / "inner.png").write_bytes(png)
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "linked").symlink_to("a")
    (tmp_path / "round").symlink_to(".")
    (tmp_path / "dangling.png").symlink_to("gone")
    assert find_photos(tmp_path) == [
        *(".hidden.png", "a/c.tiff", "b.JPG", "d.jpg", "d.jpg/inner.png", "dangling.png", "drawing.svg"),
        *("film.gif", "linked", "no-suffix", "pipe.png", "round", "wrong.txt"),
    ]


def test_a_folder_that_cannot_be_listed_is_told(without_rights: Path) -> None:
    (without_rights / "1.png").write_bytes(photo(1))
    closed = without_rights / "closed"
    closed.mkdir()
    closed.chmod(0)
    with pytest.raises(BadInput, match="closed: cannot be listed: Permission denied"):
        find_photos(without_rights)
    closed.chmod(0o700)
    assert find_photos(without_rights) == ["1.png"]
