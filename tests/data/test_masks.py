import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as reference

from pipeline.data import masks
from pipeline.data.errors import BadInput
from pipeline.data.orient import orient_array
from pipeline.data.records import RLE
from pipeline.data.rle_text import MAX_TEXT, runs_to_text, text_to_runs

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=24)
MASKS = hnp.arrays(np.bool_, SHAPES, fill=st.nothing())


@st.composite
def blocks(draw: st.DrawFn) -> masks.Mask:
    """A mask with one rectangle, often touching the border: where shifting a crop's runs goes wrong."""
    height, width = draw(SHAPES)
    mask = np.zeros((height, width), bool)
    top, bottom = sorted((draw(st.integers(0, height)), draw(st.integers(0, height))))
    left, right = sorted((draw(st.integers(0, width)), draw(st.integers(0, width))))
    mask[top:bottom, left:right] = draw(st.booleans()) or draw(
        hnp.arrays(np.bool_, (bottom - top, right - left))
    )
    return mask


def by_pycocotools(mask: masks.Mask) -> dict[str, object]:
    return reference.encode(np.asfortranarray(mask.astype(np.uint8)))  # type: ignore[no-any-return]


@given(MASKS | blocks())
@example(
    np.array([[0, 0, 1], [0, 0, 0], [0, 1, 0]], bool)
)  # one run from a column's foot to the next one's head
def test_encode_is_pycocotools(mask: masks.Mask) -> None:
    expected = by_pycocotools(mask)
    rle = masks.encode(mask)
    assert rle == RLE(mask.shape, expected["counts"].decode())  # type: ignore[attr-defined]
    np.testing.assert_array_equal(masks.decode(rle), mask)
    assert masks.area(rle) == mask.sum() == reference.area(expected)
    x, y, w, h = reference.toBbox(expected).tolist()
    assert masks.tight_box(rle) == ((x, y, x + w, y + h) if mask.any() else None)


@given(st.lists(st.integers(0, 2**24), min_size=1, max_size=30))
def test_text_of_any_runs(runs: list[int]) -> None:
    total = sum(runs)
    text = runs_to_text(np.array(runs))
    canonical = text_to_runs(text, total, where="x") if total else np.array([0])
    assert canonical.sum() == total
    assert (canonical[1:] > 0).all()
    assert canonical[1::2].sum() == sum(runs[1::2])


def test_long_runs_match_pycocotools() -> None:
    mask = np.zeros((3000, 900), bool)
    mask[:, 100:800] = True
    mask[5:2000, 300] = False
    assert masks.encode(mask).counts == by_pycocotools(mask)["counts"].decode()  # type: ignore[attr-defined]


@given(MASKS)
@settings(max_examples=40)
def test_every_foreground_pixel_can_be_drawn(mask: masks.Mask) -> None:
    rle = masks.encode(mask)
    drawn = {masks.foreground_pixel(rle, index) for index in range(masks.area(rle))}
    assert drawn == {(int(x), int(y)) for y, x in np.argwhere(mask)}
    with pytest.raises(IndexError):
        masks.foreground_pixel(rle, masks.area(rle))


@given(MASKS, st.integers(1, 8))
@settings(max_examples=40)
def test_rotate(mask: masks.Mask, orientation: int) -> None:
    turned = masks.decode(masks.rotate(masks.encode(mask), orientation))
    np.testing.assert_array_equal(turned, orient_array(mask, orientation))


def test_cached_runs_cannot_be_spoilt() -> None:
    with pytest.raises(ValueError, match="read-only"):
        masks.runs_of(masks.encode(np.eye(3, dtype=bool)))[0] = 7


def test_crop_must_lie_on_the_canvas() -> None:
    crop = np.ones((2, 3), bool)
    canvas = np.zeros((5, 6), bool)
    canvas[3:5, 3:6] = True
    assert masks.encode_crop(crop, (5, 6), top=3, left=3) == masks.encode(canvas)
    for top, left in ((4, 3), (3, 4), (-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="does not lie within"):
            masks.encode_crop(crop, (5, 6), top=top, left=left)


def test_iou_of_many_masks() -> None:
    random = np.random.default_rng(0)
    dense = random.random((300, 8, 9)) < 0.4  # above 255, where pycocotools' own area overflows
    rles = [masks.encode(mask) for mask in dense]
    flat = dense.reshape(300, -1).astype(float)
    overlap = flat @ flat.T
    whole = flat.sum(1)[:, None] + flat.sum(1) - overlap
    np.testing.assert_allclose(masks.iou_matrix(rles, rles), overlap / whole)
    np.testing.assert_allclose(
        masks.iou_matrix(rles[:2], rles[:3], crowd=True), (overlap / flat.sum(1)[:, None])[:2, :3]
    )
    assert masks.iou_matrix([], rles).shape == (0, 300)
    assert masks.iou_matrix(rles, []).shape == (300, 0)
    with pytest.raises(ValueError, match="one size"):
        masks.iou_matrix(rles[:1], [masks.encode(np.ones((3, 3), bool))])


def test_union() -> None:
    a, b = np.eye(5, dtype=bool), np.eye(5, dtype=bool)[::-1]
    np.testing.assert_array_equal(masks.decode(masks.union([masks.encode(a), masks.encode(b)])), a | b)
    with pytest.raises(ValueError, match="one size"):
        masks.union([])


TRIANGLE = [1, 1, 8.5, 2, 3, 9]


@pytest.mark.parametrize(
    "polygons",
    [
        [TRIANGLE],
        [TRIANGLE, [0, 0, 4, 0, 4, 4, 0, 4]],
        [[-5, -5, 24, 4, 4, 24]],  # reaches outside
        [[2, 2, 8, 8, 8, 2, 2, 8]],  # crosses itself
        [[5, 5, 5, 5, 5, 5]],  # a point
    ],
)
def test_polygons_are_pycocotools(polygons: list[list[float]]) -> None:
    parts = reference.frPyObjects([[float(v) for v in p] for p in polygons], 10, 12)
    expected = reference.merge(parts)["counts"].decode()
    assert masks.rle_from_coco(polygons, 10, 12, where="s").counts == expected


def test_both_rle_forms_are_one() -> None:
    mask = np.zeros((3, 4), bool)
    mask[1:, 1:3] = True
    rle = masks.encode(mask)
    for counts in (rle.counts, [4, 2, 1, 2, 3], [4, 1, 0, 1, 1, 2, 3, 0, 0]):
        assert masks.rle_from_coco({"size": [3, 4], "counts": counts}, 3, 4, where="s") == rle
    full = masks.encode(np.ones((3, 4), bool))
    assert masks.rle_from_coco({"size": [3, 4], "counts": [0, 5, 0, 7]}, 3, 4, where="s") == full


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "found nothing"),
        ("<", "found str"),
        (5, "found int"),
        ([], "found no polygon"),
        ([5], "list of numbers, found int"),
        ([[1, 2, 3, 4]], "6 or more coordinates, found 4"),
        ([[1, 2, 3, 4, 5, 6, 7]], "even number"),
        ([[1, 2, 3, 4, 5, "6"]], "expected numbers as coordinates, found '6'"),
        ([[1, 2, 3, 4, 5, True]], "numbers as coordinates, found True"),
        ([[1, 2, 3, 4, 5, None]], "numbers as coordinates, found None"),
        ([[1, 2, 3, 4, 5, float("nan")]], "within 24 pixels of the origin, found nan"),
        ([[float("nan"), 2, 3, 4, 5, 6]], "found nan"),
        ([[1, 2, 3, 4, 5, float("inf")]], "found inf"),
        ([[1, 2, 3, 4, 5, 1e9]], "within 24 pixels"),
        ([[1, 2, 3, 4, 5, -(10**400)]], "within 24 pixels"),
        ([[-20, -20, 20, 20] * 400_000], "of outline"),
        ({}, r"s.size: expected the image's \[10, 12\]"),
        ({"size": [12, 10], "counts": "<"}, "size"),
        ({"size": [10.0, 12.0], "counts": "<"}, "size"),
        ({"size": [10, 12]}, "counts: expected text or a list of run lengths, found nothing"),
        ({"size": [10, 12], "counts": {}}, "found dict"),
        ({"size": [10, 12], "counts": ""}, "empty text"),
        ({"size": [10, 12], "counts": " "}, "outside '0' to 'o'"),
        ({"size": [10, 12], "counts": "é"}, "beyond ASCII"),
        ({"size": [10, 12], "counts": "P"}, "middle of a number"),
        ({"size": [10, 12], "counts": "ooooooo0"}, "more than 35 bits"),
        ({"size": [10, 12], "counts": "0" * (MAX_TEXT + 1)}, "at most 16777216 characters, found 16777217"),
        ({"size": [10, 12], "counts": "5"}, "sum to height[*]width = 120, found 5"),
        ({"size": [10, 12], "counts": "O"}, "found runs from -1 to -1"),
        ({"size": [10, 12], "counts": "hPPP0"}, "found runs|found"),
        ({"size": [10, 12], "counts": []}, "no runs"),
        ({"size": [10, 12], "counts": [100, 19]}, "found 119"),
        ({"size": [10, 12], "counts": [100, 21]}, "found 121"),
        ({"size": [10, 12], "counts": [130, -10]}, r"counts\[0\]: expected a run length"),
        ({"size": [10, 12], "counts": [119, True]}, r"counts\[1\]: expected a run length"),
        ({"size": [10, 12], "counts": [119, 1.0]}, r"counts\[1\]"),
        ({"size": [10, 12], "counts": [10**400]}, r"counts\[0\]"),
    ],
)
def test_bad_segmentations_never_reach_native_code(segmentation: object, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        masks.rle_from_coco(segmentation, 10, 12, where="s")
    assert str(caught.value).startswith("s")
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("polygon", "size", "found"),
    [
        ([-18_000, -18_000, 18_000, -18_000, 18_000, 18_000, -18_000, 18_000] * 2, (9000, 9000), None),
        ([0, 0] + [9000, 9000, 0, 100] * 500, (9000, 9000), "1001"),
        ([0, 0, 65_535, 0, 65_535, 1], (1, 65_535), None),
        ([0, 0, 65_535, 0, 65_535, 1] * 20, (1, 65_535), "60"),
        ([-20, -20, 40, 40] * 30_000, (20, 20), None),  # many points may have a long outline
        ([-20, -20, 40, 40] * 100_000, (20, 20), "200000"),
    ],
)
def test_few_points_have_no_endless_outline(
    polygon: list[int], size: tuple[int, int], found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    walked = []
    monkeypatch.setattr(masks.native, "frPyObjects", lambda parts, *_: walked.append(parts) or [])
    monkeypatch.setattr(masks.native, "merge", lambda _: {"counts": b""})
    if found is None:
        masks.polygons_to_rle([polygon], *size, where="s")
    else:
        with pytest.raises(BadInput, match=f"s: expected polygons of ({found}) points with at most"):
            masks.polygons_to_rle([polygon], *size, where="s")
    assert bool(walked) == (found is None)


def test_long_masks_are_not_kept() -> None:
    texts = []
    for shift in range(12):
        runs = np.ones(200_001, np.int64)
        runs[0], runs[-1] = shift + 1, 1_000_000 - 200_000 - shift
        texts.append(runs_to_text(runs))
    one = 8 * 200_001 + len(texts[0])
    tracemalloc.start()
    for counts in texts:
        rle = masks.rle_from_coco({"size": [1000, 1000], "counts": counts}, 1000, 1000, where="s")
        assert masks.area(rle) == 100_000
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 3 * one


def test_canvas_is_bounded() -> None:
    for height, width in ((100_000, 100_000), (0, 5)):
        with pytest.raises(BadInput, match="mask size"):
            masks.rle_from_coco([TRIANGLE], height, width, where="s")
    with pytest.raises(BadInput, match="mask size"):
        masks.decode(RLE((100_000, 100_000), "<"))


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12))
def test_any_counts_text_is_a_mask_or_bad_input(counts: str) -> None:
    try:
        rle = masks.rle_from_coco({"size": [4, 5], "counts": counts}, 4, 5, where="s")
    except BadInput:
        return
    assert masks.decode(rle).shape == (4, 5)
