import json
import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.errors import BadInput
from pipeline.data.images import (
    Header,
    annotation_orientation,
    decode_upright,
    read_bytes,
    read_header,
    read_upright,
)
from pipeline.data.orient import orient_array

SCENE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(image: Image.Image, form: str, **settings: object) -> bytes:
    sink = BytesIO()
    image.save(sink, form, **settings)  # type: ignore[arg-type]
    return sink.getvalue()


def with_orientation(form: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if form == "WEBP" else {}
    return encoded(Image.fromarray(SCENE), form, exif=exif, **lossless)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9, 77])
def test_orientation_is_applied_once(form: str, orientation: int) -> None:
    data = with_orientation(form, orientation)
    turn = orientation if 1 <= orientation <= 8 else 1
    upright = decode_upright(data, "a")
    np.testing.assert_array_equal(upright.image, orient_array(SCENE, turn))
    header = read_header(data, "a")
    assert header == upright.header
    assert header.stored_size == (6, 9)
    assert header.upright_size == upright.image.shape[:2]
    assert (header.exif_orientation, header.format, header.frames) == (turn, form, 1)


def test_jpeg_orientation() -> None:
    smooth = np.repeat(np.linspace(0, 255, 32, dtype=np.uint8)[None], 16, axis=0)
    exif = Image.Exif()
    exif[0x0112] = 6  # 90 degrees clockwise: left becomes top
    upright = decode_upright(encoded(Image.fromarray(smooth), "JPEG", exif=exif), "a").image
    assert upright.shape == (32, 16, 3)
    assert upright[0].max() < 20
    assert upright[-1].min() > 235


GRAY = SCENE[:, :, 0]


@pytest.mark.parametrize(
    ("image", "form", "expected"),
    [
        (Image.fromarray(GRAY), "PNG", np.repeat(GRAY[:, :, None], 3, 2)),
        (Image.fromarray(GRAY > 128), "PNG", np.repeat(((GRAY > 128) * 255)[:, :, None], 3, 2)),
        (Image.fromarray(GRAY.astype(np.uint16) * 257), "PNG", np.repeat(GRAY[:, :, None], 3, 2)),
        (Image.fromarray(GRAY.astype(np.uint16) * 257), "TIFF", np.repeat(GRAY[:, :, None], 3, 2)),
        (Image.fromarray(GRAY.astype(np.int32) * 257), "TIFF", np.repeat(GRAY[:, :, None], 3, 2)),
        (Image.fromarray(np.dstack([SCENE, GRAY])), "PNG", SCENE),  # alpha is ignored
        (Image.fromarray(SCENE[..., :2]), "PNG", np.repeat(GRAY[:, :, None], 3, 2)),  # gray with alpha
        (Image.fromarray(SCENE).quantize(256), "PNG", SCENE),
        (Image.fromarray(SCENE), "BMP", SCENE),
        (Image.fromarray(SCENE), "TIFF", SCENE),
        (Image.fromarray(255 - SCENE).convert("CMYK"), "TIFF", 255 - SCENE),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_modes(image: Image.Image, form: str, expected: np.ndarray) -> None:
    found = decode_upright(encoded(image, form), "a").image
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


def test_twelve_bit_tiff_reaches_white() -> None:
    # 4 pixels of 12 bits: 0, 2048, 4095, 0; Pillow reads such files but writes none.
    entries = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: 1, 279: 6}
    table = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries.items())
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + table
    data = head.ljust(122, b"\0") + bytes.fromhex("000800fff000")
    assert len(head) <= 122
    assert decode_upright(data, "a").image[0, :, 1].tolist() == [0, 128, 255, 0]


@pytest.mark.parametrize("form", ["WEBP", "TIFF", "PNG"])
def test_first_frame(form: str) -> None:
    frames = [Image.fromarray(SCENE), Image.fromarray(255 - SCENE)]
    settings = {"lossless": True} if form == "WEBP" else {}
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **settings)
    upright = decode_upright(data, "a")
    assert upright.header.frames == 2
    np.testing.assert_array_equal(upright.image, SCENE)


def test_content_counts_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(encoded(Image.fromarray(SCENE), "PNG"))
    assert read_upright(tmp_path / "photo.jpg").header.format == "PNG"


PNG = encoded(Image.fromarray(SCENE), "PNG")


def with_broken_stream(orientation: int | None = None) -> bytes:
    """A PNG with right checksums whose zlib stream turns to nonsense after half of the rows."""
    rows = b"".join(b"\0" + row.tobytes() for row in SCENE)
    packer = zlib.compressobj()
    pixels = packer.compress(rows[: len(rows) // 2]) + packer.flush(zlib.Z_FULL_FLUSH) + b"\xff" * 8
    exif = Image.Exif()
    exif[0x0112] = orientation or 1
    chunks = ((b"eXIf", exif.tobytes()[6:]) if orientation else None, (b"IDAT", pixels), (b"IEND", b""))
    return PNG[:33] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in filter(None, chunks)
    )


NOISE = encoded(Image.fromarray(np.tile(SCENE, (20, 20, 1))), "JPEG")


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found an empty file"),
        (b"<html>", "starts with b'<html>'"),
        (b"%PDF-1.4", "starts with"),
        (b"version https://git-lfs.github.com/spec/v1\n", "starts with b'version http'"),
        (encoded(Image.fromarray(SCENE), "GIF"), "starts with b'GIF"),
        (encoded(Image.fromarray(SCENE), "PPM"), "expected a readable JPEG, PNG, WEBP, TIFF, BMP"),
        (PNG[:20], "broken"),
        (PNG[: len(PNG) * 2 // 3], "PNG cannot be decoded"),
        (with_broken_stream(), "PNG cannot be decoded: broken data stream"),
        (with_broken_stream(6), "PNG cannot be decoded: broken data stream"),
        (NOISE[: len(NOISE) // 2], "JPEG cannot be decoded: .* truncated"),
        (encoded(Image.fromarray(SCENE), "JPEG")[:-90], "broken header: Truncated"),
        (encoded(Image.fromarray(SCENE), "BMP")[:100], "BMP cannot be decoded"),
        (encoded(Image.fromarray(SCENE), "TIFF")[:100], "TIFF|broken"),
        (encoded(Image.fromarray(SCENE), "WEBP")[:60], "broken|WEBP"),
        (encoded(Image.fromarray(GRAY.astype(np.float32)), "TIFF"), "found floating point"),
        (encoded(Image.fromarray(GRAY.astype(np.int32) * 10**6), "TIFF"), "found 32-bit up to"),
    ],
    ids=range(17),
)
def test_bad_files(data: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        decode_upright(data, "dir/odd name.jpg")
    assert "dir/odd name.jpg" in str(caught.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("side", "message"), [(10_000, "at most 89478485 pixels, found 10000x"), (50_000, "bomb")]
)
def test_bombs_are_refused_from_the_header(side: int, message: str) -> None:
    head = b"IHDR" + side.to_bytes(4, "big") * 2 + PNG[24:29]
    bomb = PNG[:12] + head + zlib.crc32(head).to_bytes(4, "big") + PNG[33:]
    with pytest.raises(BadInput, match=message):
        read_header(bomb, "a.png")


def test_special_files(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    for name, found in (
        ("folder", "a folder"),
        ("fifo", "a special file"),
        ("dangling", "nothing"),
        ("no", "nothing"),
    ):
        with pytest.raises(BadInput, match=f"{name}.jpg: expected a file, found {found}"):
            read_bytes(tmp_path / f"{name}.jpg")


@pytest.mark.parametrize(
    ("stored", "orientation", "listed", "expected"),
    [
        ((6, 9), 1, (6, 9), 1),
        ((6, 9), 3, (6, 9), 1),
        ((6, 9), 6, (9, 6), 1),  # made on the upright photo
        ((6, 9), 6, (6, 9), 6),  # made on the stored one: they turn with it
        ((6, 6), 6, (6, 6), 1),  # fits both: upright
        ((6, 9), 1, (9, 6), None),
        ((6, 9), 8, (7, 9), None),
    ],
)
def test_which_frame_annotations_fit(
    stored: tuple[int, int], orientation: int, listed: tuple[int, int], expected: int | None
) -> None:
    upright = (stored[1], stored[0]) if orientation >= 5 else stored
    header = Header(stored, upright, orientation, "JPEG", 1)
    if expected is not None:
        assert annotation_orientation(header, *listed, where="images[3]") == expected
        return
    with pytest.raises(BadInput, match=r"images\[3\]: expected width x height .* as the file has, found"):
        annotation_orientation(header, *listed, where="images[3]")


def test_real_odd_images(real_data: Path) -> None:
    folder = real_data / "odd-images"
    for entry in json.loads((folder / "index.json").read_text()):
        path = folder / "images" / entry["file"]
        # Pillow "decodes" a PNG with a broken stream when its EXIF was asked for first: half of it stays black.
        broken = not entry["pillow_decodes"] or "unreadable" in str(entry["exif_orientation"])
        if broken or entry["format"] == "GIF":
            with pytest.raises(BadInput, match="image"):
                read_upright(path)
            continue
        width, height = entry["upright_size"]
        assert read_upright(path).image.shape == (height, width, 3), entry["file"]
