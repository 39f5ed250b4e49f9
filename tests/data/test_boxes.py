import numpy as np
import pytest

from pipeline.data import boxes

A = np.array([[0, 0, 10, 10], [5, 5, 15, 15], [20, 20, 20, 25]], np.float32)


def test_iou() -> None:
    overlap = boxes.iou_xyxy(A, A[:2])
    assert overlap.shape == (3, 2)
    np.testing.assert_allclose(overlap, [[1, 25 / 175], [25 / 175, 1], [0, 0]], rtol=1e-6)
    empty = boxes.iou_xyxy(A[2:], A[2:])
    assert empty[0, 0] == 0  # no area at all is no overlap, not NaN
    assert boxes.iou_xyxy(A[:0], A).shape == (0, 3)


def test_centre_and_size_to_corners() -> None:
    form = np.array([[5, 5, 10, 10], [10, 10, 10, 10], [20, 22.5, 0, 5]])
    np.testing.assert_array_equal(boxes.cxcywh_to_xyxy(form), A)
    assert boxes.cxcywh_to_xyxy(form[:0]).shape == (0, 4)


def test_clip_keeps_dtype() -> None:
    cut = boxes.clip(np.array([[-5, 2, 50, 99]], np.float32), height=20, width=30)
    assert cut.tolist() == [[0, 2, 30, 20]]
    assert cut.dtype == np.float32


def test_points_on_an_edge_are_inside() -> None:
    points = np.array([[0, 0], [10, 10], [10.01, 5], [20, 22]])
    inside = boxes.points_inside(points, A)
    assert inside.tolist() == [
        [True, True, False, False],
        [False, True, True, False],
        [False, False, False, True],
    ]


@pytest.mark.parametrize(
    ("scores", "iou", "kept"),
    [
        ([0.5, 0.9, 0.1], 0.1, [1, 2]),
        ([0.9, 0.5, 0.1], 0.1, [0, 2]),
        ([0.5, 0.5, 0.5], 0.1, [0, 2]),  # equal scores: the first stays
        ([0.5, 0.9, 0.1], 0.2, [1, 0, 2]),
    ],
)
def test_nms(scores: list[float], iou: float, kept: list[int]) -> None:
    assert boxes.nms(A, np.array(scores), iou).tolist() == kept


def test_nms_keeps_one_of_equal_boxes_and_takes_none() -> None:
    same = np.repeat(A[:1], 5, axis=0)
    assert boxes.nms(same, np.ones(5), 0.9).tolist() == [0]
    assert boxes.nms(A[:0], np.zeros(0), 0.9).tolist() == []


def test_nms_keeps_the_order_of_many_equal_scores() -> None:
    apart = np.arange(200, dtype=np.float32)[:, None] * 10 + np.array([0, 0, 5, 5], np.float32)
    scores = np.tile([0.5, 0.9], 100)
    assert boxes.nms(apart, scores, 0.5).tolist() == [*range(1, 200, 2), *range(0, 200, 2)]
