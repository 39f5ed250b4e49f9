"""TIFFs that are not read, and 16-bit gray that is darker than it should be."""

import struct

import pytest
from odd_files import BYTE, LONG, SHORT, png, tiff

from pipeline.data.errors import BadInput
from pipeline.data.images import decode_upright
from pipeline.data.pixels import FAINT

FORMAT = 339  # of samples: 1 unsigned, 2 signed, 3 floating point
FLOATS = struct.pack("<2f", 0.25, 1.0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            tiff((1, 2), FLOATS, bits=(32,), more=[(FORMAT, SHORT, [3])]),
            "found floating point ones of 32 bits",
        ),
        (
            tiff((1, 2), FLOATS * 2, bits=(64,), more=[(FORMAT, SHORT, [3])]),
            "found floating point ones of 64 bits",
        ),
        (
            tiff((1, 2), bytes(4), bits=(16,), more=[(FORMAT, SHORT, [3])]),
            "found floating point ones of 16 bits",
        ),
        (tiff((1, 2), bytes(4), bits=(16,), more=[(FORMAT, SHORT, [2])]), "found signed ones of 16 bits"),
        (tiff((1, 2), bytes(2), more=[(FORMAT, SHORT, [2])]), "found signed ones of 8 bits"),
        (
            tiff((1, 2), bytes(8), bits=(32,)),
            "expected unsigned samples of at most 16 bits, found ones of 32 bits",
        ),
        (
            tiff((1, 1), bytes(5), bits=(8,) * 5),
            "found 5 samples of 8 bits, photometric 1: unknown pixel mode",
        ),
        (tiff((1, 1), bytes(3), bits=(8,) * 3, photometric=9), "found 3 samples of 8 bits, photometric 9"),
        (tiff((1, 4), bytes(7), bits=(14,)), "found 1 samples of 14 bits"),
        (tiff((1, 1), b"a", more=[(254, LONG, [1])]), "found a small preview of one (a camera raw file?)"),
        (
            tiff((1, 1), b"a", more=[(50706, BYTE, [1, 4, 0, 0])]),
            "found a small preview of one (a camera raw file?)",
        ),
        (tiff((1, 1), b"a", more=[(256, LONG, [0])]), "found one that does not say its width and height"),
    ],
)
def test_samples_that_are_not_read(data: bytes, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        decode_upright(data, "scan.tif")
    assert str(caught.value).startswith("image scan.tif: expected ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "faint"),
    [
        (tiff((1, 2), struct.pack("<2H", 5, 65535 // FAINT), bits=(16,)), True),  # 12 bits kept in 16
        (tiff((1, 2), struct.pack("<2H", 5, 65535 // FAINT + 1), bits=(16,)), False),
        (tiff((1, 2), bytes(4), bits=(16,)), False),
        (tiff((1, 2), struct.pack("<2H", 5, 9), bits=(16,), photometric=0), False),  # nearly white
        (tiff((1, 4), bytes.fromhex("000800fff000"), bits=(12,)), False),
        (png((1, 1), [struct.pack(">H", 4095)], depth=16, colour=0), True),
        (png((1, 1), [b"\5"], colour=0), False),
    ],
)
def test_a_dark_16_bit_image_is_marked_and_left_as_it_is(data: bytes, faint: bool) -> None:
    found = decode_upright(data, "a")
    assert found.faint is faint
    if faint:
        assert found.image.max() == 16
