"""EXIF orientation: all eight, wherever a format keeps it, and all that is none."""

import struct
from collections.abc import Sequence

import numpy as np
import pytest
from odd_files import (
    ASCII,
    BYTE,
    FLOAT,
    LONG,
    ORIENTATION,
    RATIONAL,
    SHORT,
    encoded,
    exif,
    png,
    seen,
    tiff,
    with_exif,
)
from PIL import Image

from pipeline.data.images import Header, annotation_orientation, decode_upright, read_header

STORED = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14
ROWS = [row.tobytes() for row in STORED]


def raw_profile(block: bytes) -> bytes:
    """An EXIF block as ImageMagick keeps it in a PNG: as text of hexadecimal digits."""
    body = b"Exif\0\0" + block
    return b"Raw profile type exif\0" + f"\nexif\n{len(body):8}\n{body.hex()}\n".encode()


def turned_tiff(entry: tuple[int, int, Sequence[object] | bytes], *, order: str = "<") -> bytes:
    return tiff((2, 3), STORED.tobytes(), bits=(8,) * 3, photometric=2, order=order, more=[entry])


def packed_tiff(orientation: int) -> bytes:
    """As libtiff writes one, which takes valid orientations alone."""
    data = encoded(Image.fromarray(STORED), "TIFF", compression="tiff_lzw", tiffinfo={ORIENTATION: 2})
    entry = struct.pack("<HHIHH", ORIENTATION, SHORT, 1, 2, 0)
    assert data.count(entry) == 1
    return data.replace(entry, struct.pack("<HHIHH", ORIENTATION, SHORT, 1, orientation, 0))


def in_form(form: str, orientation: int) -> bytes:
    """A lossless file of STORED in which an orientation is kept in one of many ways."""
    block = exif(SHORT, [orientation])
    makers = {
        "PNG before the pixels": lambda: png((2, 3), ROWS, before=[(b"eXIf", block)]),
        "PNG behind the pixels": lambda: png((2, 3), ROWS, after=[(b"eXIf", block)]),
        "PNG as text": lambda: png((2, 3), ROWS, before=[(b"tEXt", raw_profile(block))]),
        "WEBP": lambda: with_exif(STORED, "WEBP", block),
        "WEBP big-endian": lambda: with_exif(STORED, "WEBP", exif(SHORT, [orientation], order=">")),
        "TIFF": lambda: turned_tiff((ORIENTATION, SHORT, [orientation])),
        "TIFF big-endian": lambda: turned_tiff((ORIENTATION, SHORT, [orientation]), order=">"),
        "TIFF as a long": lambda: turned_tiff((ORIENTATION, LONG, [orientation])),
        "TIFF packed": lambda: packed_tiff(orientation),
    }
    return makers[form]()


FORMS = ("PNG before the pixels", "PNG behind the pixels", "PNG as text", "WEBP", "WEBP big-endian")
FORMS += ("TIFF", "TIFF big-endian", "TIFF as a long", "TIFF packed")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9, 65535])
def test_orientation_is_applied_once(form: str, orientation: int) -> None:
    data = in_form(form, orientation)
    turn = orientation if 1 <= orientation <= 8 else 1
    upright = decode_upright(data, "a")
    np.testing.assert_array_equal(upright.image, seen(STORED, turn))
    size = upright.image.shape[:2]
    assert upright.header == Header((2, 3), size, turn, form.split()[0], 1) == read_header(data, "a")


@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 9, 65535])
def test_jpeg_orientation(orientation: int) -> None:
    """By the middles of flat blocks, which survive the packing."""
    blocks = np.kron(STORED, np.ones((16, 16, 1), np.uint8))
    data = with_exif(blocks, "JPEG", exif(SHORT, [orientation]))
    turn = orientation if 1 <= orientation <= 8 else 1
    upright = decode_upright(data, "a")
    middles = upright.image[8::16, 8::16].astype(int)
    assert np.abs(middles - seen(STORED, turn)).max() <= 4
    assert (
        upright.header == Header((32, 48), upright.image.shape[:2], turn, "JPEG", 1) == read_header(data, "a")
    )


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "block",
    [
        exif(ASCII, b"6\0"),
        exif(RATIONAL, [(6, 1)]),
        exif(RATIONAL, [(6, 0)]),
        exif(FLOAT, [6.0]),
        exif(BYTE, [6]),
        exif(SHORT, [6])[:-8],
        b"",
        b"garbage",
        b"II*\0",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        b"II*\0" + struct.pack("<IHHHII", 8, 1, ORIENTATION, 3, 1 << 30, 1 << 30),
    ],
    ids=lambda block: block.hex()[:60],
)
def test_what_is_no_orientation_leaves_the_photo_as_it_is(form: str, block: bytes) -> None:
    upright = decode_upright(with_exif(STORED, form, block), "a")
    assert upright.header == Header((2, 3), (2, 3), 1, form, 1)
    if form != "JPEG":
        np.testing.assert_array_equal(upright.image, STORED)


@pytest.mark.parametrize(
    "entry",
    [
        (ORIENTATION, ASCII, b"6\0"),
        (ORIENTATION, RATIONAL, [(6, 1)]),
        (ORIENTATION, RATIONAL, [(6, 0)]),
        (ORIENTATION, FLOAT, [6.0]),
        (ORIENTATION, BYTE, [6]),
        (700, BYTE, list(b'<x:xmpmeta tiff:Orientation="6"/>')),
    ],
)
def test_nor_in_a_tiff(entry: tuple[int, int, Sequence[object] | bytes]) -> None:
    """Pillow itself turns a TIFF by some of these, and by others swaps its sides without turning it."""
    upright = decode_upright(turned_tiff(entry), "a")
    assert upright.header == Header((2, 3), (2, 3), 1, "TIFF", 1)
    np.testing.assert_array_equal(upright.image, STORED)


def test_xmp_does_not_count() -> None:
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x:xmpmeta tiff:Orientation="6"/>'
    for chunks in ({"before": [(b"iTXt", xmp)]}, {"after": [(b"iTXt", xmp)]}):
        assert decode_upright(png((2, 3), ROWS, **chunks), "a").header.exif_orientation == 1
    both = decode_upright(png((2, 3), ROWS, before=[(b"iTXt", xmp), (b"eXIf", exif(SHORT, [3]))]), "a")
    assert both.header.exif_orientation == 3


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
    with pytest.raises(ValueError, match=r"images\[3\]: expected width x height .* as the file has, found"):
        annotation_orientation(header, *listed, where="images[3]")
