"""Geometry of EXIF orientation against brute force through the pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
from odd_files import SEEN, seen
from PIL import Image, ImageOps

from pipeline.data.coco import CocoFile
from pipeline.data.images import Header
from pipeline.data.masks import decode, encode
from pipeline.data.orient import orient_array, orient_box, orient_points, upright_size, valid_orientation
from pipeline.data.records import Instance, Point, Role

HEIGHT, WIDTH = 3, 5
STORED = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_arrays_points_and_boxes_turn_as_pillow_turns_photos(orientation: int) -> None:
    photo = Image.fromarray(STORED)
    photo.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(photo))
    np.testing.assert_array_equal(seen(STORED, orientation), upright)
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


# An L, which looks like none of its turns and mirror images, in a 9x12 photo; its corner is the pixel (7, 3).
SIZE = (9, 12)
L_SHAPE = np.zeros(SIZE, bool)
L_SHAPE[2:8, 3] = L_SHAPE[7, 3:9] = True
CORNER = (7, 3)  # y, x
OUTLINE = [3, 2, 4, 2, 4, 7, 9, 7, 9, 8, 3, 8]


def annotations() -> list[dict[str, object]]:
    base = {"image_id": 1, "category_id": 1}
    rle = encode(L_SHAPE)
    y, x = CORNER
    return [
        base | {"id": 1, "segmentation": {"size": list(SIZE), "counts": rle.counts}},
        base | {"id": 2, "segmentation": [OUTLINE]},
        base | {"id": 3, "bbox": [3, 2, 6, 6]},
        base | {"id": 4, "point_coords": [[x + 0.375, y + 0.625], [0.5, 0.5]], "point_labels": [1, 0]},
    ]


def labels(folder: Path, *, listed: tuple[int, int], orientation: int) -> tuple[Instance, ...]:
    """What a file says of a photo that is stored as SIZE, its size listed as (height, width)."""
    image = {"id": 1, "file_name": "a.jpg", "height": listed[0], "width": listed[1]}
    content = {"images": [image], "annotations": annotations(), "categories": [{"id": 1, "name": "l"}]}
    path = folder / "a.json"
    path.write_text(json.dumps(content))
    header = Header(SIZE, upright_size(SIZE, orientation), orientation, "JPEG", 1)
    with CocoFile(path) as file:
        record, findings = file.record(
            file.images[0], sha256="", split="train", role=Role.WEAK, header=header
        )
    assert not findings
    assert (record.height, record.width) == header.upright_size
    return record.instances


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_annotations_of_the_stored_frame_turn_with_the_photo(tmp_path: Path, orientation: int) -> None:
    upright = seen(L_SHAPE, orientation)
    by_rle, by_outline, boxed, clicked = labels(tmp_path, listed=SIZE, orientation=orientation)
    for masked in (by_rle, by_outline):
        assert masked.rle is not None
        np.testing.assert_array_equal(decode(masked.rle), upright)
    ys, xs = np.nonzero(upright)
    assert boxed.box_xyxy == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    on, off = clicked.points
    assert (int(off.y), int(off.x), off.label) == (*SEEN[orientation](0, 0, *SIZE), 0)
    # Quarters of pixels turn as pixels do: the click lies in the middle of one.
    (y, x), (h, w) = CORNER, SIZE
    quarter = SEEN[orientation](4 * y + 2, 4 * x + 1, 4 * h, 4 * w)
    assert (on.y, on.x, on.label) == ((quarter[0] + 0.5) / 4, (quarter[1] + 0.5) / 4, 1)


@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_annotations_stay_where_the_size_fits_the_upright_photo(tmp_path: Path, orientation: int) -> None:
    """Turns that keep the sides leave no trace in the listed size, which is taken as upright: so tools show it."""
    by_rle, by_outline, boxed, clicked = labels(tmp_path, listed=SIZE, orientation=orientation)
    for masked in (by_rle, by_outline):
        assert masked.rle is not None
        np.testing.assert_array_equal(decode(masked.rle), L_SHAPE)
    assert boxed.box_xyxy == (3, 2, 9, 8)
    assert (clicked.points[0].x, clicked.points[0].y) == (3.375, 7.625)
