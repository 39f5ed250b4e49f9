"""Pictures and overlays: what is drawn where, in which colour, and that it stays small."""

import base64
import hashlib
import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pipeline.data import masks
from pipeline.data.errors import BadInput
from pipeline.report.blocks import Fold, Table
from pipeline.report.case_documents import Case, CaseMask
from pipeline.report.case_pictures import ROWS, case_shot
from pipeline.report.layers import (
    COLOURS,
    CROP_SIDE,
    EXTRA,
    HIT,
    MAX_SIDE,
    MISSED,
    PALETTE,
    Shape,
    Window,
    colours,
    edge,
    errors,
    overlay_uri,
    paint,
    photo_uri,
)


def block(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def decoded(uri: str) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


@pytest.mark.parametrize("size", [(1, 1), (20, 30), (1, 4000), (4000, 1), (700, 900)])
def test_a_photo_is_shrunk_and_never_enlarged(size: tuple[int, int]) -> None:
    window = Window.whole(*size)
    photo = window.photo(np.full((*size, 3), 100, np.uint8))
    assert photo.shape == (window.drawn_height, window.drawn_width, 3)
    assert max(photo.shape[:2]) == min(max(size), MAX_SIDE)
    assert np.array_equal(photo, np.full_like(photo, 100))
    mask = window.mask(masks.encode(np.ones(size, bool)))
    assert mask.shape == photo.shape[:2]
    assert mask.all()
    assert decoded(photo_uri(photo)).size == window.size


@pytest.mark.parametrize(
    ("box", "size", "window"),
    [
        ((40, 40, 60, 60), (200, 200), (14, 14, 72, 72)),  # small: at least 72 pixels
        ((0, 0, 4, 4), (200, 200), (0, 0, 72, 72)),  # moved into the photo
        ((196, 0, 200, 4), (200, 200), (0, 128, 72, 72)),
        ((0, 0, 100, 10), (50, 120), (0, 0, 50, 120)),  # larger than the photo: all of it
        ((100, 100, 200, 150), (400, 400), (15, 40, 220, 220)),
    ],
)
def test_a_window_around_a_box(box: tuple, size: tuple[int, int], window: tuple[int, ...]) -> None:
    found = Window.around(box, *size)
    assert (found.top, found.left, found.height, found.width) == window
    assert max(found.size) <= CROP_SIDE
    x, y = found.place(found.left + found.width / 2, found.top + found.height / 2)
    assert (x, y) == pytest.approx((found.drawn_width / 2, found.drawn_height / 2))


def test_masks_are_filled_and_outlined_in_their_colour_alone() -> None:
    window = Window.whole(24, 32)
    mask = block(2, 2, 20, 20)
    plain = colours(paint([Shape(mask, 3)], window))
    assert set(map(tuple, plain[mask][:, :3])) == {PALETTE[3]}
    assert (plain[~mask] == 0).all()
    assert (plain[edge(mask)][:, 3] == 255).all()
    assert (plain[10, 10, 3], plain[2, 2, 3]) == (150, 255)
    hatched = colours(paint([Shape(mask, 3, hatched=True)], window))
    inside = hatched[mask][:, 3] > 0
    assert 0.25 < inside.mean() < 0.75
    assert not np.array_equal(plain, hatched)


def test_a_small_mask_stays_seen_on_a_large_one() -> None:
    small, large = block(8, 8, 10, 10), block(0, 0, 24, 32)
    drawn = colours(paint([Shape(small, 1), Shape(large, 2)], Window.whole(24, 32)))
    assert tuple(drawn[8, 8, :3]) == PALETTE[1]


def test_errors_are_told_object_by_object() -> None:
    window = Window.whole(24, 32)
    true, found = block(0, 0, 10, 10), block(0, 5, 10, 15)
    # A second object lies where the first one's mask is too large: still extra for the first.
    second, spurious = block(0, 10, 10, 15), block(20, 20, 24, 24)
    drawn = colours(errors([(true, found), (second, second), (None, spurious)], window))
    kinds = {where: tuple(drawn[where][:3]) for where in ((5, 2), (5, 7), (5, 12), (22, 22))}
    assert kinds == {(5, 2): MISSED, (5, 7): HIT, (5, 12): EXTRA, (22, 22): EXTRA}
    assert tuple(drawn[15, 15]) == (0, 0, 0, 0)
    assert len(set(drawn[20:24, 20:24, 3].ravel())) == 2  # striped
    assert not errors([], window).any()


@pytest.mark.parametrize(
    "shapes", [[], [Shape(block(0, 0, 24, 32), 11)], [Shape(block(1, 1, 9, 9), i) for i in range(12)]]
)
def test_an_overlay_survives_its_file(shapes: list[Shape]) -> None:
    overlay = paint(shapes, Window.whole(24, 32))
    picture = decoded(overlay_uri(overlay))
    assert np.array_equal(np.asarray(picture.convert("RGBA")), colours(overlay))
    assert len(overlay_uri(overlay)) < 800


def test_colours_for_errors_are_apart_without_colour_vision() -> None:
    """Luminance alone tells right from missed; extra pixels are striped besides."""
    right, missed, _ = (np.dot(c, (0.299, 0.587, 0.114)) for c in COLOURS[-3:])
    assert abs(right - missed) > 60


def case(folder: Path, objects: int = 1, **more: object) -> Case:
    PIL.Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(folder / "a.png")
    rle = masks.encode(block(2, 2, 10, 10))
    mask = CaseMask(label="car", size=rle.size, counts=rle.counts)
    fields: dict[str, object] = {
        "image_id": 1,
        "uri": "a.png",
        "sha256": hashlib.sha256((folder / "a.png").read_bytes()).hexdigest(),
        "why": "worst",
        "miou": 0.5,
        "rank": 1,
        "ranked": 9,
        "truth": [mask] * objects,
        "pseudo": [mask.matched(0, 0.5), mask],
        "students": {"s": []},
    }
    return Case.model_validate(fields | more)


def test_a_case_is_drawn_on_the_photo_of_ingest_alone(tmp_path: Path) -> None:
    one = case(tmp_path)
    assert len(case_shot(one, tmp_path).layers) == 4
    PIL.Image.fromarray(np.full((4, 6, 3), 9, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(BadInput, match="changed since ingest"):
        case_shot(one, tmp_path)


def test_matched_masks_share_number_and_colour(tmp_path: Path) -> None:
    shot = case_shot(case(tmp_path, 2), tmp_path)
    layers = {layer.name: layer for layer in shot.layers}
    assert [number.text for number in layers["truth"].numbers] == ["1", "2"]
    assert [number.text for number in layers["pseudo"].numbers] == ["1", "+1"]
    assert layers["student-0"].picture is not None
    assert layers["student-0"].picture.alt == "Masks of s: nothing"
    (table,) = shot.blocks
    assert isinstance(table, Table)
    rows = [[getattr(cell, "text", cell) for cell in row] for row in table.rows]
    assert rows == [
        ["2", "car", "missed", "–", "–"],
        ["1", "car", "0.500", "–", "–"],
        ["+1", "car", "no object", "–", "–"],
    ]


def test_what_matched_nothing_is_hatched(tmp_path: Path) -> None:
    found, lost = (case_shot(case(tmp_path, **more), tmp_path).layers for more in ({}, {"pseudo": []}))
    assert found[0].picture is not None
    assert lost[0].picture is not None
    full, hatched = (
        np.asarray(decoded(p.uri).convert("RGBA"))[3:9, 3:9, 3] for p in (found[0].picture, lost[0].picture)
    )
    assert (full > 0).all()
    assert not (hatched > 0).all()
    assert np.array_equal(full, np.full_like(full, 150))


def test_a_case_without_a_mask_at_all(tmp_path: Path) -> None:
    shot = case_shot(case(tmp_path, 0, pseudo=[], miou=None), tmp_path)
    assert not any(layer.numbers for layer in shot.layers)
    assert "no object to compare" in shot.caption


def test_many_objects_are_folded(tmp_path: Path) -> None:
    first, rest = case_shot(case(tmp_path, 40, pseudo=[]), tmp_path).blocks
    assert isinstance(first, Table)
    assert isinstance(rest, Fold)
    assert (len(first.rows), rest.summary) == (ROWS, "28 more objects")
