import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.data.orient import orient_array, orient_box, orient_points, upright_size, valid_orientation
from pipeline.data.records import Point

HEIGHT, WIDTH = 3, 5
STORED = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_arrays_points_and_boxes_turn_as_pillow_turns_photos(orientation: int) -> None:
    photo = Image.fromarray(STORED)
    photo.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(photo))
    np.testing.assert_array_equal(orient_array(STORED, orientation), upright)
    assert upright_size((HEIGHT, WIDTH), orientation) == upright.shape
    for y in range(HEIGHT):
        for x in range(WIDTH):
            (point,) = orient_points((Point(x + 0.5, y + 0.5, 0),), (HEIGHT, WIDTH), orientation)
            assert upright[int(point.y), int(point.x)] == STORED[y, x]
            assert point.label == 0
            box = orient_box((x, y, x + 1, y + 1), (HEIGHT, WIDTH), orientation)
            assert box == (int(point.x), int(point.y), int(point.x) + 1, int(point.y) + 1)


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 1), (8, 8), (0, 1), (9, 1), (-3, 1), (None, 1), ("6", 1), (6.0, 1), (True, 1)]
)
def test_invalid_orientations_count_as_upright(value: object, expected: int) -> None:
    assert valid_orientation(value) == expected
