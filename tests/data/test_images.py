"""Photos as a whole: content before name, first frames, real odd files."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from odd_files import LONG, SHORT, encoded, ifd, png, tiff
from PIL import Image, ImageFile

from pipeline.data.errors import BadInput
from pipeline.data.images import check_image, decode_upright, read_header, read_upright

SCENE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
IMAGE, NEGATIVE = Image.fromarray(SCENE), Image.fromarray(255 - SCENE)


@pytest.mark.parametrize("name", ["photo.jpg", "photo", "photo.txt", "photo.gif"])
def test_content_counts_not_the_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(encoded(IMAGE, "PNG"))
    found = read_upright(tmp_path / name)
    assert found.header.format == "PNG"
    np.testing.assert_array_equal(found.image, SCENE)


def big_tiff() -> bytes:
    """A BigTIFF of two gray pixels, 7 and 200."""
    tags = {256: 2, 257: 1, 258: 8, 259: 1, 262: 1, 273: 16, 277: 1, 278: 1, 279: 2}
    table = b"".join(struct.pack("<HHQQ", tag, LONG, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, 24)
    return head + bytes([7, 200]) + bytes(6) + struct.pack("<Q", len(tags)) + table + bytes(8)


def jpeg_pages() -> bytes:
    return encoded(IMAGE, "MPO", save_all=True, append_images=[NEGATIVE], quality=100, subsampling=0)


def animated(form: str, **settings: object) -> bytes:
    return encoded(IMAGE, form, save_all=True, append_images=[NEGATIVE, IMAGE], **settings)


@pytest.mark.parametrize(
    ("data", "form", "frames"),
    [
        pytest.param(animated("WEBP", lossless=True), "WEBP", 3, id="webp"),
        pytest.param(animated("PNG"), "PNG", 3, id="png"),
        # a still picture for those who know no animation, which is no frame of it
        pytest.param(animated("PNG", default_image=True), "PNG", 3, id="png-default"),
        pytest.param(animated("TIFF"), "TIFF", 3, id="tiff"),
        pytest.param(animated("TIFF", compression="tiff_lzw"), "TIFF", 3, id="tiff-lzw"),
        pytest.param(jpeg_pages(), "JPEG", 2, id="mpo"),
        pytest.param(encoded(IMAGE, "PNG"), "PNG", 1, id="one"),
    ],
)
def test_the_first_frame_is_read_and_the_others_counted(data: bytes, form: str, frames: int) -> None:
    upright = decode_upright(data, "a")
    assert (upright.header.format, upright.header.frames) == (form, frames)
    assert read_header(data, "a") == upright.header
    assert np.abs(upright.image.astype(int) - SCENE).max() <= (6 if form == "JPEG" else 0)


def test_a_broken_second_page_does_not_matter() -> None:
    data = tiff((1, 2), bytes([7, 200]), pages=2)
    (first,) = struct.unpack_from("<I", data, 4)
    cut = data[: first + len(ifd([(0, SHORT, [0])] * 9, 0)) + 1]
    found = decode_upright(cut, "a")
    assert (found.header.frames, found.image[0, :, 0].tolist()) == (1, [7, 200])


def test_a_big_tiff_is_a_tiff() -> None:
    found = decode_upright(big_tiff(), "a")
    assert (found.header.format, found.header.frames, found.image[0, :, 0].tolist()) == ("TIFF", 1, [7, 200])


@pytest.mark.parametrize("size", [(1, 1), (8000, 1), (1, 8000), (2, 8000), (8000, 2)])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_sizes(form: str, size: tuple[int, int]) -> None:
    found = decode_upright(encoded(Image.new("RGB", size[::-1], (200, 200, 200)), form), "a").image
    assert found.shape == (*size, 3)
    assert np.abs(found.astype(int) - 200).max() <= 3


@pytest.mark.parametrize("read", [check_image, decode_upright])
def test_too_little_memory_is_no_fault_of_the_photo(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[bytes, str], object]
) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "load", refuse)
    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    with pytest.raises(MemoryError):
        read(encoded(IMAGE, "PNG"), "a")


def test_rows_are_not_mixed_up() -> None:
    rows = [bytes([value] * 9) for value in range(4)]
    assert decode_upright(png((4, 3), rows), "a").image[:, 0, 0].tolist() == [0, 1, 2, 3]


FAINT = {"12bit.cropped.tif", "16bit.MM.cropped.tif", "i_trns.png"}
REFUSED = {
    "iss634.gif": "found a GIF",
    "truncated_image.png": "expected a whole PNG, found a broken one: it ends too early",
    "truncated_jpeg.jpg": "expected a whole JPEG, found a broken one: image file is truncated",
    "broken_data_stream.png": "expected a whole PNG, found a broken one: ",
    "broken.png": "expected a whole PNG, found a broken one: ",
}


def test_real_odd_images(real_data: Path) -> None:
    folder = real_data / "odd-images"
    listed = {entry["file"]: entry for entry in json.loads((folder / "index.json").read_text())}
    assert set(REFUSED) <= set(listed)
    for name, entry in listed.items():
        path = folder / "images" / name
        if name in REFUSED:
            with pytest.raises(BadInput) as caught:
                read_upright(path)
            assert REFUSED[name] in str(caught.value)
            continue
        found = read_upright(path)
        width, height = entry["upright_size"]
        assert found.image.shape == (height, width, 3), name
        assert found.header.stored_size == tuple(reversed(entry["stored_size"])), name
        assert (found.header.format, found.header.frames) == (entry["format"], entry["frames"]), name
        assert found.header.exif_orientation == (entry["exif_orientation"] or 1), name
        assert found.faint is (name in FAINT), name


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        *((f"Portrait_{number}.jpg", "Portrait_1.jpg", 10) for number in range(2, 9)),
        ("hopper_orientation_6.jpg", "hopper.bmp", 10),
        ("hopper_orientation_3.webp", "hopper.bmp", 10),
        ("hopper.Lab.tif", "hopper.bmp", 3),
        ("p_trns_single.png", "rgb_trns.png", 3),
    ],
)
def test_real_photos_that_show_the_same(real_data: Path, one: str, other: str, apart: float) -> None:
    folder = real_data / "odd-images" / "images"
    first, second = (read_upright(folder / name).image.astype(int) for name in (one, other))
    assert np.abs(first - second).mean() < apart
