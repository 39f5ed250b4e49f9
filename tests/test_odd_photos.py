"""A data set of every odd photo through a run: each comes out right or stands in the quarantine with its reason."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from odd_files import SHORT, bmp, encoded, exif, png, riff, seen, tiff, with_exif
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.data.images import read_upright
from pipeline.data.masks import encode
from pipeline.data.records import RLE

SCENE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
PHOTO = Image.fromarray(SCENE)
GRAY = SCENE[:, :, 0]
WORDS = (GRAY.astype(np.uint16) * 257).tobytes()
CATEGORIES = [{"id": 7, "name": "square"}]
ALLOWED = "expected JPEG, PNG, WEBP, TIFF or BMP, found "


def grays(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, axis=2)


# name -> bytes, pixels they must give
READ: dict[str, tuple[bytes, np.ndarray]] = {
    "named.jpg": (encoded(PHOTO, "PNG"), SCENE),
    "photo.bmp": (encoded(PHOTO, "BMP"), SCENE),
    "photo.webp": (encoded(PHOTO, "WEBP", lossless=True), SCENE),
    "photo.tif": (encoded(PHOTO, "TIFF", compression="tiff_lzw"), SCENE),
    "turned.png": (with_exif(SCENE, "PNG", exif(SHORT, [6])), seen(SCENE, 6)),
    "turned.webp": (with_exif(SCENE, "WEBP", exif(SHORT, [7])), seen(SCENE, 7)),
    "no-turn.png": (with_exif(SCENE, "PNG", exif(SHORT, [9])), SCENE),
    "mirrored.tif": (tiff((4, 6), GRAY.tobytes(), more=[(274, SHORT, [2])]), seen(grays(GRAY), 2)),
    "cmyk.tif": (encoded(Image.fromarray(255 - SCENE).convert("CMYK"), "TIFF"), 255 - SCENE),
    "gray.png": (encoded(Image.fromarray(GRAY), "PNG"), grays(GRAY)),
    "gray16.tif": (tiff((4, 6), WORDS, bits=(16,)), grays(GRAY)),
    "negative16.tif": (tiff((4, 6), WORDS, bits=(16,), photometric=0), grays(255 - GRAY)),
    "dark16.tif": (tiff((4, 6), bytes([9, 0] * 24), bits=(16,)), grays(GRAY * 0)),
    "bits.png": (png((1, 8), [b"\xf0"], depth=1, colour=0), grays(np.array([[255] * 4 + [0] * 4], np.uint8))),
    "palette.png": (encoded(PHOTO.quantize(256), "PNG"), SCENE),
    "alpha.png": (encoded(Image.fromarray(np.dstack([SCENE, GRAY])), "PNG"), SCENE),
    "animated.webp": (
        encoded(PHOTO, "WEBP", save_all=True, append_images=[Image.new("RGB", (6, 4))], lossless=True),
        SCENE,
    ),
    "pages.tif": (tiff((4, 6), GRAY.tobytes(), pages=3), grays(GRAY)),
    "dot.png": (png((1, 1), [b"\1\2\3"]), np.array([[[1, 2, 3]]], np.uint8)),
    "thin.png": (png((1, 8000), [bytes(24000)]), np.zeros((1, 8000, 3), np.uint8)),
    "high.png": (png((8000, 2), [bytes(6)] * 8000), np.zeros((8000, 2, 3), np.uint8)),
}
PAGE = b"<!DOCTYPE html><title>404</title>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 9\n"
# name -> bytes, the reason after "image NAME: "
REFUSED: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", ALLOWED + "an empty file"),
    "page.jpg": (PAGE, ALLOWED + "an HTML page"),
    "paper.jpg": (b"%PDF-1.7\n", ALLOWED + "a PDF"),
    "note.png": (b"not here", ALLOWED + "text ('not here')"),
    "pointer.jpg": (LFS, ALLOWED + "a git-lfs pointer, not the image (run `git lfs pull`)"),
    "film.gif": (encoded(PHOTO, "GIF"), ALLOWED + "a GIF"),
    "phone.jpg": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", ALLOWED + "a HEIC"),
    "drawing.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', ALLOWED + "an SVG"),
    "layers.jpg": (b"8BPS\0\1", ALLOWED + "a Photoshop file (PSD)"),
    "cut.png": (encoded(PHOTO, "PNG")[:-30], "expected a whole PNG, found a broken one: "),
    "cut.jpg": (encoded(PHOTO, "JPEG")[:-20], "expected a whole JPEG, found a broken one: "),
    "float.tif": (
        tiff((1, 1), struct.pack("<f", 0.5), bits=(32,), more=[(339, SHORT, [3])]),
        "expected unsigned samples of at most 16 bits, found floating point ones of 32 bits",
    ),
    "bomb.png": (png((60_000, 60_000), [b""]), "expected at most 89478485 pixels, found 60000x60000"),
    "bomb.bmp": (bmp((60_000, 60_000), b""), "expected at most 89478485 pixels, found 60000x60000"),
    "bomb.webp": (
        riff((b"VP8X", bytes(4) + (59_999).to_bytes(3, "little") * 2)),
        "expected at most 89478485 pixels, found 60000x60000",
    ),
    "size.png": (png((2, 2), [bytes(6)] * 2), "expected width x height 2x2 as the file has, found 6x4"),
}


def square(size: tuple[int, int]) -> RLE:
    mask = np.zeros(size, bool)
    mask[: (size[0] + 1) // 2, : (size[1] + 1) // 2] = True
    return encode(mask)


def listed(names: dict[str, tuple[int, int]]) -> dict[str, object]:
    """A COCO file's content: images of (height, width), each with a mask in its upper left quarter."""
    images = [
        {"id": n, "file_name": name, "height": size[0], "width": size[1]}
        for n, (name, size) in enumerate(names.items(), start=1)
    ]
    found = [(n, square(size)) for n, size in enumerate(names.values(), start=1)]
    annotations = [
        {"id": n, "image_id": n, "category_id": 7, "segmentation": {"size": list(r.size), "counts": r.counts}}
        for n, r in found
    ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """A function that runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMNIMASK_DATA", raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_config(folder: Path, data: dict[str, object], **more: object) -> None:
    content = {"name": "odd", "data": data, "weak": "none", "masks": "100%", "max_bad": 1.0}
    stages: list[object] = [{"filter": {}}, {"export": {}}, {"report": {}}]
    (folder / "odd.yaml").write_text(yaml.safe_dump(content | more | {"stages": stages}))


COCO = {"source": "coco", "json": "odd.json", "images": "photos"}
OTHERS = {
    "folder.jpg": "expected a file, found a folder",
    "pipe.jpg": "expected a file, found a pipe (FIFO)",
    "out.jpg": "expected a file inside ",
    "dangling.jpg": "expected a file, found a link to gone.jpg, which is not there",
    "loop.jpg": "expected a file, found a loop of links",
    "missing.jpg": "expected a file, found nothing",
    "Photo.BMP": "expected a file, found nothing; 'photo.bmp' ('photo.bmp') is there, spelled otherwise",
}


def write_odd_set(folder: Path) -> None:
    photos = folder / "photos"
    photos.mkdir()
    for name, (data, _) in (READ | REFUSED).items():
        (photos / name).write_bytes(data)
    (photos / "folder.jpg").mkdir()
    os.mkfifo(photos / "pipe.jpg")
    (folder / "secret.jpg").write_bytes(encoded(PHOTO, "PNG"))
    for name, target in {"out": "../secret", "dangling": "gone", "loop": "loop", "inner": "named"}.items():
        (photos / f"{name}.jpg").symlink_to(f"{target}.jpg")
    sizes = {name: pixels.shape[:2] for name, (_, pixels) in READ.items()}
    sizes |= dict.fromkeys([*REFUSED, *OTHERS, "inner.jpg", "named.jpg/x.jpg"], (4, 6))
    (folder / "odd.json").write_text(json.dumps(listed(sizes)))


def name_of(item: dict[str, str]) -> str:
    """The file name in `train image 3 (a.png)`."""
    return item["entry"].partition(" (")[2].removesuffix(")")


def test_every_odd_photo(cli: Callable[..., Result], tmp_path: Path) -> None:
    write_odd_set(tmp_path)
    write_config(tmp_path, COCO)
    done = cli("run", "odd.yaml", "--workers", 0, "--out", "run")
    assert (done.exit_code, "Traceback" in done.output) == (0, False), done.output
    found = json.loads((tmp_path / "run" / "export" / "coco" / "train.json").read_text())
    assert {image["file_name"] for image in found["images"]} == {*READ, "inner.jpg"}
    given = {a["image_id"]: a["segmentation"] for a in found["annotations"]}
    for image in found["images"]:
        _, pixels = READ.get(image["file_name"], READ["named.jpg"])
        photo = read_upright(tmp_path / "photos" / image["file_name"]).image
        np.testing.assert_array_equal(photo, pixels, err_msg=image["file_name"])
        assert (image["height"], image["width"]) == pixels.shape[:2]
        mask = given[image["id"]]
        assert RLE(tuple(mask["size"]), mask["counts"]) == square(pixels.shape[:2])
    quarantine = json.loads((tmp_path / "run" / "quarantine.json").read_text())
    assert quarantine["annotations"] == []
    told = {name_of(bad): bad["reason"] for bad in quarantine["images"]}
    expected = {name: why for name, (_, why) in REFUSED.items()} | OTHERS
    expected["named.jpg/x.jpg"] = "expected a file, found nothing: a part of its path is no folder"
    assert set(told) == set(expected)
    for name, why in expected.items():
        assert f": {why}" in told[name]


def test_what_is_odd_with_photos_that_are_used_is_noted(cli: Callable[..., Result], tmp_path: Path) -> None:
    write_odd_set(tmp_path)
    write_config(tmp_path, COCO)
    done = cli("run", "odd.yaml", "--workers", 0, "--out", "run")
    notes = [line for line in done.stderr.splitlines() if line.startswith(("1 ", "2 "))]
    assert notes == [
        "1 train images with 16-bit gray in the lowest sixteenth of its range alone, which looks as dark: dark16.tif",
        "1 train images with an EXIF turn that no size tells, so that annotations are taken as made on the upright "
        "photo: mirrored.tif",
        "2 train images with several frames or pages, of which the first is read: animated.webp, pages.tif",
    ]
    html = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "several frames or pages, of which the first is read: animated.webp, pages.tif" in html
    assert "a git-lfs pointer, not the image" in html


def test_the_real_odd_photos(real_data: Path, cli: Callable[..., Result], tmp_path: Path) -> None:
    folder = real_data / "odd-images"
    index = json.loads((folder / "index.json").read_text())
    sizes = {entry["file"]: tuple(reversed(entry.get("upright_size", (6, 4)))) for entry in index}
    (tmp_path / "odd.json").write_text(json.dumps(listed(sizes)))
    write_config(tmp_path, COCO | {"images": str(folder / "images")})
    done = cli("run", "odd.yaml", "--workers", 0, "--out", "run")
    assert done.exit_code == 0, done.output
    bad = json.loads((tmp_path / "run" / "quarantine.json").read_text())["images"]
    assert {name_of(item) for item in bad} == {
        *("broken.png", "broken_data_stream.png", "iss634.gif", "truncated_image.png", "truncated_jpeg.jpg")
    }
    found = json.loads((tmp_path / "run" / "export" / "coco" / "train.json").read_text())["images"]
    assert {image["file_name"]: (image["height"], image["width"]) for image in found} == {
        name: size for name, size in sizes.items() if not any(f"({name})" in item["entry"] for item in bad)
    }
    assert (
        "1 train images with several frames or pages, of which the first is read: multipage.tiff"
        in done.stderr
    )


@pytest.mark.parametrize("names", [("1.png", "1.png"), ("1.png", "./1.png"), ("sub/1.png", "sub//1.png")])
def test_a_photo_that_two_entries_list_is_not_used(
    cli: Callable[..., Result], tmp_path: Path, names: tuple[str, str]
) -> None:
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name in ("1.png", "2.png", "sub/1.png"):
        (tmp_path / "photos" / name).write_bytes(encoded(PHOTO, "PNG"))
    content = listed({"2.png": (4, 6), names[0]: (4, 6), "again": (4, 6)})
    content["images"][2]["file_name"] = names[1]
    (tmp_path / "odd.json").write_text(json.dumps(content))
    write_config(tmp_path, COCO)
    assert cli("run", "odd.yaml", "--workers", 0, "--out", "run").exit_code == 0
    bad = json.loads((tmp_path / "run" / "quarantine.json").read_text())["images"]
    assert [name_of(item) for item in bad] == list(names)
    assert [item["reason"] for item in bad] == [
        f"images[{n}] (id {n + 1}): file_name: expected one entry, found 2: ids 2, 3" for n in (1, 2)
    ]
    found = json.loads((tmp_path / "run" / "export" / "coco" / "train.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["2.png"]


@pytest.mark.parametrize(
    ("images", "found"), [("gone", "none"), ("odd.json", "a file"), ("photos/dangling", "none")]
)
@pytest.mark.parametrize("source", ["coco", "folder"])
def test_an_image_folder_that_is_none(
    cli: Callable[..., Result], tmp_path: Path, images: str, found: str, source: str
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dangling").symlink_to("nowhere")
    (tmp_path / "odd.json").write_text(json.dumps(listed({"1.png": (4, 6)})))
    data = COCO | {"images": images}
    if source == "folder":
        data = {"source": "folder", "images": images, "classes": {"a": 1}}
    write_config(tmp_path, data)
    done = cli("run", "odd.yaml", "--workers", 0)
    assert done.exit_code == 2
    assert f"{tmp_path / images}: expected a folder of images, found {found}" in done.stderr
