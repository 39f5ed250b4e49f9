import numpy as np
import pytest

from pipeline.data import metrics

TRUTH = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], bool)
PRED = np.array([[1, 0, 0, 0], [1, 0, 1, 0]], bool)
NOTHING, ALL = np.zeros((2, 4), bool), np.ones((2, 4), bool)


@pytest.mark.parametrize(
    ("score", "truth", "pred", "expected"),
    [
        (metrics.dice, TRUTH, PRED, 4 / 7),
        (metrics.dice, TRUTH, TRUTH, 1),
        (metrics.dice, NOTHING, NOTHING, 1),
        (metrics.dice, NOTHING, PRED, 0),
        (metrics.iou, TRUTH, PRED, 2 / 5),
        (metrics.iou, NOTHING, NOTHING, 1),
        (metrics.iou, TRUTH, NOTHING, 0),
        (metrics.f_beta, TRUTH, PRED, 1.3 * (2 / 3) * 0.5 / (0.3 * (2 / 3) + 0.5)),
        (metrics.f_beta, NOTHING, NOTHING, 1),
        (metrics.f_beta, TRUTH, NOTHING, 0),
        (metrics.f_beta, NOTHING, PRED, 0),
        (metrics.ber, TRUTH, PRED, 100 * (1 - 0.5 * (2 / 4 + 3 / 4))),
        (metrics.ber, TRUTH, TRUTH, 0),
        (metrics.ber, TRUTH, ~TRUTH, 100),
        (metrics.ber, NOTHING, NOTHING, 0),
        (metrics.ber, ALL, ALL, 0),
        (metrics.ber, ALL, NOTHING, 50),
        (metrics.mae, TRUTH, PRED.astype(np.float32), 3 / 8),
        (metrics.mae, TRUTH, np.full((2, 4), 0.25), 0.5),
        (metrics.mae, TRUTH, PRED, 3 / 8),
        (metrics.e_measure, TRUTH, TRUTH, 1),
        (metrics.e_measure, TRUTH, ~TRUTH, 0),
        (metrics.e_measure, NOTHING, PRED, 5 / 8),
        (metrics.e_measure, ALL, PRED, 3 / 8),
        (metrics.e_measure, TRUTH, NOTHING, 1 / 4),
    ],
)
def test_scores(score, truth, pred, expected: float) -> None:  # type: ignore[no-untyped-def]
    found = score(truth, pred)
    assert isinstance(found, float)
    assert found == pytest.approx(expected, abs=1e-6)


def test_e_measure_by_hand() -> None:
    # means 1/2 and 3/8: alignment per pixel is 2gp / (g^2 + p^2) of g = +-1/2 and p = 5/8 or -3/8
    hit = 2 * 0.5 * 0.625 / (0.25 + 0.625**2)
    miss = 2 * 0.5 * -0.375 / (0.25 + 0.375**2)
    expected = (2 * (hit + 1) ** 2 + 2 * (miss + 1) ** 2 + (1 - hit) ** 2 + 3 * (1 - miss) ** 2) / 8 / 4
    assert metrics.e_measure(TRUTH, PRED) == pytest.approx(expected)


@pytest.mark.parametrize(
    "score", [metrics.dice, metrics.iou, metrics.f_beta, metrics.ber, metrics.mae, metrics.e_measure]
)
def test_shapes_must_agree(score) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"one shape, got \(2, 4\) and \(4, 2\)"):
        score(TRUTH, TRUTH.T)
