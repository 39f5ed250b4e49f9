"""Every kind of sample to 8-bit RGB, against values that follow from how the file was built."""

import struct
from collections.abc import Sequence

import numpy as np
import pytest
from odd_files import SHORT, bmp, encoded, png, tiff
from PIL import Image

from pipeline.data.images import decode_upright

BLACK, WHITE = [0, 0, 0], [255, 255, 255]
PALETTE = [(b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255]))]
COLOURS = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
CHECKS = [WHITE, BLACK, WHITE, BLACK, BLACK, WHITE, BLACK, WHITE]  # of the bits of 0xA5
EXTRA = 338  # TIFF: 1 alpha that the colours are multiplied by, 2 alpha that they are not


def gray(*values: int) -> list[list[int]]:
    return [[value] * 3 for value in values]


def words(*values: int, order: str = ">") -> bytes:
    return struct.pack(f"{order}{len(values)}H", *values)


def colour_map() -> list[int]:
    """A TIFF's palette: entry i is (i, 0, 255 - i), in 16 bits."""
    return [i * 257 for i in range(256)] + [0] * 256 + [(255 - i) * 257 for i in range(256)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(png((1, 8), [b"\xa5"], depth=1, colour=0), CHECKS, id="png-1"),
        pytest.param(png((1, 4), [b"\x1b"], depth=2, colour=0), gray(0, 85, 170, 255), id="png-2"),
        pytest.param(png((1, 3), [b"\x08\xf0"], depth=4, colour=0), gray(0, 136, 255), id="png-4"),
        pytest.param(png((1, 3), [bytes([0, 100, 255])], colour=0), gray(0, 100, 255), id="png-8"),
        pytest.param(
            # 128 is the first value that is nearer to 1/255 than to 0, 65406 the last that is nearer to 254.
            png((1, 6), [words(0, 25700, 65535, 128, 129, 65406)], depth=16, colour=0),
            gray(0, 100, 255, 0, 1, 254),
            id="png-16",
        ),
        pytest.param(
            png((1, 2), [words(0, 25700, 65535, 257, 5140, 65278)], depth=16),
            [[0, 100, 255], [1, 20, 254]],
            id="rgb-16",
        ),
        pytest.param(png((1, 2), [bytes([9, 0, 200, 255])], colour=4), gray(9, 200), id="png-gray-alpha"),
        pytest.param(
            png((1, 2), [words(25700, 0, 51400, 65535)], depth=16, colour=4),
            gray(100, 200),
            id="png-gray-alpha-16",
        ),
        pytest.param(
            png((1, 2), [bytes([1, 2, 3, 0, 4, 5, 6, 255])], colour=6), [[1, 2, 3], [4, 5, 6]], id="rgba"
        ),
        pytest.param(png((1, 1), [words(257, 514, 771, 0)], depth=16, colour=6), [[1, 2, 3]], id="rgba-16"),
        pytest.param(png((1, 3), [bytes([0, 1, 2])], colour=3, before=PALETTE), COLOURS, id="palette"),
        pytest.param(
            png((1, 4), [b"\x18"], depth=2, colour=3, before=PALETTE),
            [COLOURS[i] for i in (0, 1, 2, 0)],
            id="palette-2",
        ),
        pytest.param(
            png((1, 3), [bytes([0, 1, 2])], colour=3, before=[*PALETTE, (b"tRNS", b"\0\x80")]),
            COLOURS,
            id="palette-alpha",
        ),
        pytest.param(
            png((1, 2), [bytes([10, 20, 30, 1, 2, 3])], before=[(b"tRNS", words(10, 20, 30))]),
            [[10, 20, 30], [1, 2, 3]],
            id="rgb-see-through-colour",
        ),
        pytest.param(
            png((1, 2), [words(25700, 65535)], depth=16, colour=0, before=[(b"tRNS", words(25700))]),
            gray(100, 255),
            id="gray-16-see-through-colour",
        ),
        pytest.param(tiff((1, 8), b"\xa5", bits=(1,)), CHECKS, id="tiff-1-black-is-0"),
        pytest.param(tiff((1, 8), b"\x5a", bits=(1,), photometric=0), CHECKS, id="tiff-1-white-is-0"),
        pytest.param(
            tiff((1, 8), b"\xa5", bits=(1,), more=[(266, SHORT, [2])]), CHECKS, id="tiff-1-low-bit-first"
        ),
        pytest.param(tiff((1, 4), b"\x1b", bits=(2,)), gray(0, 85, 170, 255), id="tiff-2"),
        pytest.param(
            tiff((1, 3), bytes([0, 100, 255]), photometric=0), gray(255, 155, 0), id="tiff-8-white-is-0"
        ),
        pytest.param(
            tiff((1, 4), bytes.fromhex("000800fff000"), bits=(12,)), gray(0, 128, 255, 0), id="tiff-12"
        ),
        pytest.param(
            tiff((1, 3), words(0, 25700, 65535, order="<"), bits=(16,)), gray(0, 100, 255), id="tiff-16"
        ),
        pytest.param(
            tiff((1, 3), words(0, 25700, 65535), bits=(16,), order=">"),
            gray(0, 100, 255),
            id="tiff-16-big-endian",
        ),
        pytest.param(
            tiff((1, 3), words(0, 25700, 65535, order="<"), bits=(16,), photometric=0),
            gray(255, 155, 0),
            id="tiff-16-white-is-0",
        ),
        pytest.param(
            tiff((1, 2), words(0, 25700, 65535, 257, 5140, 65278, order="<"), bits=(16,) * 3, photometric=2),
            [[0, 100, 255], [1, 20, 254]],
            id="tiff-rgb-16",
        ),
        pytest.param(
            tiff(
                (1, 1),
                words(257, 514, 771, 0),
                bits=(16,) * 4,
                photometric=2,
                order=">",
                more=[(EXTRA, SHORT, [2])],
            ),
            [[1, 2, 3]],
            id="tiff-rgba-16",
        ),
        pytest.param(
            tiff((1, 2), bytes([9, 0, 200, 255]), bits=(8, 8), more=[(EXTRA, SHORT, [2])]),
            gray(9, 200),
            id="tiff-gray-alpha",
        ),
        pytest.param(
            tiff((1, 2), bytes([20, 51, 200, 255]), bits=(8, 8), more=[(EXTRA, SHORT, [1])]),
            gray(100, 200),  # 20 is 100 times 51/255
            id="tiff-gray-times-alpha",
        ),
        pytest.param(
            tiff((1, 1), bytes([10, 20, 40, 51]), bits=(8,) * 4, photometric=2, more=[(EXTRA, SHORT, [1])]),
            [[50, 100, 200]],
            id="tiff-rgb-times-alpha",
        ),
        pytest.param(
            tiff((1, 3), bytes([0, 7, 255]), photometric=3, more=[(320, SHORT, colour_map())]),
            [[0, 0, 255], [7, 0, 248], [255, 0, 0]],
            id="tiff-palette",
        ),
        pytest.param(
            tiff((1, 3), bytes([255, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 0]), bits=(8,) * 4, photometric=5),
            [[0, 255, 255], BLACK, WHITE],
            id="tiff-cmyk",
        ),
        pytest.param(
            bmp((1, 8), b"\xa5\0\0\0", bits=1, palette=bytes([0, 0, 0, 0, 255, 255, 255, 0])),
            CHECKS,
            id="bmp-1",
        ),
        pytest.param(
            bmp((1, 2), b"\1\0\0\0", bits=8, palette=bytes([0, 0, 255, 0, 255, 0, 0, 0])),
            [[0, 0, 255], [255, 0, 0]],
            id="bmp-8",
        ),
        pytest.param(
            bmp((1, 2), struct.pack("<HH", 0x7C00, 0x001F), bits=16), [[255, 0, 0], [0, 0, 255]], id="bmp-16"
        ),
        pytest.param(
            bmp((2, 1), bytes([3, 2, 1, 0, 6, 5, 4, 0])), [[4, 5, 6], [1, 2, 3]], id="bmp-from-the-bottom-up"
        ),
        pytest.param(
            bmp((-2, 1), bytes([3, 2, 1, 0, 6, 5, 4, 0])), [[1, 2, 3], [4, 5, 6]], id="bmp-from-the-top-down"
        ),
    ],
)
def test_exact_samples(data: bytes, expected: Sequence[Sequence[int]]) -> None:
    found = decode_upright(data, "a").image
    assert (found.dtype, found.flags.c_contiguous) == (np.uint8, True)
    assert found.reshape(-1, 3).tolist() == expected


def adobe(data: bytes, transform: int) -> bytes:
    """A JPEG whose Adobe marker says how its components are to be understood: 0 as they are, 1 YCbCr, 2 YCCK."""
    at = data.index(b"Adobe\0") + 11
    return data[:at] + bytes([transform]) + data[at + 1 :]


def flat(mode: str, values: tuple[int, ...] | int, **settings: object) -> bytes:
    return encoded(Image.new(mode, (16, 16), values), "JPEG", quality=100, **settings)


# Stored is 255 less the ink, as Adobe's programs do it. In a YCCK file the first three components are the YCbCr of the
# inks: Y 156, Cb 128 and Cr 158 give C 198, M 135 and Y 156 (JFIF's equations).
CMYK = (255 - 156, 255 - 128, 255 - 158, 255 - 204)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(flat("L", 100), (100, 100, 100), id="gray"),
        pytest.param(flat("RGB", (200, 100, 50)), (200, 100, 50), id="ycc"),
        pytest.param(flat("RGB", (200, 100, 50), progressive=True), (200, 100, 50), id="progressive"),
        pytest.param(flat("RGB", (200, 100, 50), keep_rgb=True), (200, 100, 50), id="rgb"),
        pytest.param(flat("CMYK", (255, 0, 0, 0)), (0, 255, 255), id="cyan"),
        pytest.param(flat("CMYK", (0, 0, 0, 255)), (0, 0, 0), id="black"),
        pytest.param(flat("CMYK", (0, 0, 0, 0)), (255, 255, 255), id="paper"),
        pytest.param(flat("CMYK", CMYK), (156 * 0.8, 128 * 0.8, 158 * 0.8), id="cmyk"),  # 204 is 0.8 of 255
        pytest.param(adobe(flat("CMYK", CMYK), 2), (57 * 0.8, 120 * 0.8, 99 * 0.8), id="ycck"),
        pytest.param(
            flat("RGB", (200, 100, 50), icc_profile=b"\0" * 128), (200, 100, 50), id="profile-not-applied"
        ),
        pytest.param(
            tiff((1, 1), bytes([136, 81, 70]), bits=(8,) * 3, photometric=8), (255, 0, 0), id="lab-red"
        ),  # L 53.3, a 81, b 70
        pytest.param(
            tiff((1, 1), bytes([128, 0, 0]), bits=(8,) * 3, photometric=8), (119, 119, 119), id="lab-gray"
        ),
        pytest.param(
            tiff((1, 1), bytes([76, 85, 255]), bits=(8,) * 3, photometric=6, more=[(530, SHORT, [1, 1])]),
            (255, 0, 0),
            id="tiff-ycc",
        ),
        pytest.param(
            encoded(Image.new("RGB", (16, 16), (200, 100, 50)), "WEBP", quality=100),
            (200, 100, 50),
            id="webp",
        ),
        pytest.param(
            encoded(Image.new("RGBA", (16, 16), (200, 100, 50, 128)), "WEBP", lossless=True),
            (200, 100, 50),
            id="webp-alpha",
        ),
        pytest.param(
            encoded(Image.new("RGB", (16, 16), (200, 100, 50)), "TIFF", compression="jpeg", quality=100),
            (200, 100, 50),
            id="tiff-jpeg",
        ),
    ],
)
def test_samples_of_lossy_files_and_other_colour_spaces(data: bytes, expected: tuple[float, ...]) -> None:
    found = decode_upright(data, "a").image.reshape(-1, 3).astype(int)
    assert np.abs(found - np.array(expected)).max() <= 5
