"""All scores: of one mask against another, on arrays; of sets of instances by matching.py and coco_ap.py.

Legend: truth, pred are bool [H, W]; prob is float [H, W] in 0..1. All results lie in 0..1 but `ber` (0..100).
"""

import numpy as np
import numpy.typing as npt

from pipeline.data.coco_ap import coco_ap, coco_scores
from pipeline.data.matching import MatchScores, matched_miou

__all__ = [
    "MatchScores",
    "ber",
    "coco_ap",
    "coco_scores",
    "dice",
    "e_measure",
    "f_beta",
    "iou",
    "mae",
    "matched_miou",
]

Mask = npt.NDArray[np.bool_]
Probability = npt.NDArray[np.floating]

F_BETA_SQUARED = 0.3  # the usual value of salient object detection
_EPS = 1e-8


def _same_shape(truth: npt.NDArray[np.generic], pred: npt.NDArray[np.generic]) -> None:
    if truth.shape != pred.shape:
        raise ValueError(f"truth and prediction must have one shape, got {truth.shape} and {pred.shape}")


def dice(truth: Mask, pred: Mask) -> float:
    """2|A and B| / (|A| + |B|); 1 when both are empty."""
    _same_shape(truth, pred)
    total = int(truth.sum()) + int(pred.sum())
    return 2 * int((truth & pred).sum()) / total if total else 1.0


def iou(truth: Mask, pred: Mask) -> float:
    """|A and B| / |A or B|; 1 when both are empty."""
    _same_shape(truth, pred)
    whole = int((truth | pred).sum())
    return int((truth & pred).sum()) / whole if whole else 1.0


def f_beta(truth: Mask, pred: Mask, *, beta_squared: float = F_BETA_SQUARED) -> float:
    """(1 + b2) P R / (b2 P + R) of precision P and recall R; 1 when both masks are empty, 0 when one is."""
    _same_shape(truth, pred)
    hits, found, real = int((truth & pred).sum()), int(pred.sum()), int(truth.sum())
    if not hits:
        return float(found == real == 0)
    precision, recall = hits / found, hits / real
    return (1 + beta_squared) * precision * recall / (beta_squared * precision + recall)


def ber(truth: Mask, pred: Mask) -> float:
    """Balanced error rate, 0..100, lower is better: 100 (1 - mean of both recalls); a class without pixels counts 1."""
    _same_shape(truth, pred)
    real, total = int(truth.sum()), truth.size
    positive = int((truth & pred).sum()) / real if real else 1.0
    negative = int((~truth & ~pred).sum()) / (total - real) if real < total else 1.0
    return 100 * (1 - 0.5 * (positive + negative))


def mae(truth: Mask, prob: Probability) -> float:
    """Mean absolute difference of a probability map (or a mask) and the truth."""
    _same_shape(truth, prob)
    return float(np.abs(prob.astype(np.float64) - truth).mean())


def e_measure(truth: Mask, pred: Mask) -> float:
    """Enhanced alignment of two masks (Fan et al. 2018), as a plain mean over pixels.

    Without foreground in the truth it is the share of background predicted, with nothing else the share of foreground.
    """
    _same_shape(truth, pred)
    if not truth.any():
        return float(1 - pred.mean())
    if truth.all():
        return float(pred.mean())
    phi_truth, phi_pred = truth - truth.mean(), pred - pred.mean()
    alignment = 2 * phi_truth * phi_pred / (phi_truth**2 + phi_pred**2 + _EPS)
    return float(((alignment + 1) ** 2 / 4).mean())
