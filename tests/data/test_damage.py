"""JPEGs with damage inside their pixels are refused; blank ones, which hold many zeros too, are not."""

import itertools

import numpy as np
import pytest
from odd_files import encoded
from PIL import Image

from pipeline.data.errors import BadInput
from pipeline.data.images import check_image, decode_upright

NOISE = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
WHOLE = encoded(Image.fromarray(NOISE), "JPEG")
RESTARTS = encoded(Image.fromarray(NOISE), "JPEG", restart_marker_rows=1)
ROW = RESTARTS.index(b"\xff\xd3")


def zeroed(data: bytes, start: int, end: int) -> bytes:
    return data[:start] + bytes(end - start) + data[end:]


def put(data: bytes, at: int, piece: bytes) -> bytes:
    return data[:at] + piece + data[at + len(piece) :]


MIDDLE, END = len(WHOLE) // 2, len(WHOLE)
ZEROS = "512 zero bytes or more among its pixels"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (zeroed(WHOLE, END // 3, 2 * END // 3), ZEROS),
        (zeroed(WHOLE, MIDDLE, MIDDLE + 512), ZEROS),
        (zeroed(WHOLE, MIDDLE, END), ZEROS),
        (zeroed(RESTARTS, ROW + 9, ROW + 2000), ZEROS),
        (put(WHOLE, MIDDLE, b"\x01\xff\x01\x01"), "marker FF01 among its pixels"),
        (put(RESTARTS, ROW + 99, b"\x01\xff\x13\x01"), "marker FF13 among its pixels"),
        (put(RESTARTS, ROW, b"\xff\xd5"), "restart 5 where 3 is due"),
        (put(RESTARTS, ROW, b"\x11\x11"), "restart 4 where 3 is due"),
    ],
)
def test_damage_is_told(data: bytes, told: str) -> None:
    for read in (check_image, decode_upright):
        with pytest.raises(BadInput) as caught:
            read(data, "a.jpg")
        assert str(caught.value) == f"image a.jpg: expected a whole JPEG, found a broken one: {told}"


BLANK = np.full((1600, 1600, 3), 200, np.uint8)
HALF = BLANK.copy()
HALF[:240, :320] = NOISE
FORMS = itertools.product((False, True), (False, True), ({"subsampling": 0}, {"restart_marker_rows": 1}))


@pytest.mark.parametrize(("optimize", "progressive", "more"), list(FORMS))
@pytest.mark.parametrize("picture", [NOISE, BLANK, HALF], ids=["noise", "blank", "half"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_whole_ones_are_not_damaged(
    picture: np.ndarray, mode: str, optimize: bool, progressive: bool, more: dict[str, int]
) -> None:
    image = Image.fromarray(picture).convert(mode)
    data = encoded(image, "JPEG", optimize=optimize, progressive=progressive, **more)
    assert check_image(data, "a").header.format == "JPEG"


def test_blank_ones_do_hold_zeros() -> None:
    assert bytes(512) in encoded(Image.fromarray(BLANK), "JPEG", optimize=True)
