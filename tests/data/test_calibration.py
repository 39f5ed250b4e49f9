"""What a pseudo-mask shows of itself, and the regression from it to its IoU."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.data import masks
from pipeline.data.calibration import FEATURES, Calibrator, cross_fitted, features, fit
from pipeline.data.records import Instance, Match, Origin, Point, Prompt, Source


def mask(x0: int, y0: int, x1: int, y1: int) -> Instance:
    pixels = np.zeros((20, 30), bool)
    pixels[y0:y1, x0:x1] = True
    return Instance(Source.TEACHER, class_id=1, rle=masks.encode(pixels))


def asked(instance: Instance, **more: object) -> Instance:
    prompt = {key: more.pop(key) for key in ("box_xyxy", "points", "score") if key in more}
    fields = {name: getattr(instance, name) for name in ("source", "class_id", "rle")}
    return Instance(**fields, prompt=Prompt(Origin.DINO, class_id=1, **prompt), **more)


def test_the_features_of_a_mask() -> None:
    square = mask(0, 0, 10, 10)
    points = (Point(1, 1), Point(15, 1), Point(30, 20, 0), Point(2, 2, 0))
    full = asked(
        square, box_xyxy=(0, 0, 20, 10), points=points, score=0.4, pred_iou=0.9, stability=0.8,
        match=Match(0, -1.0, 0.6),
    )  # fmt: skip
    assert features(full) == pytest.approx(
        {
            "pred_iou": 0.9,
            "stability": 0.8,
            "proposal": 0.4,
            "match": 0.6,
            "box": 0.5,
            "points": 0.5,
            "area": math.log(1 / 6),
        }
    )
    bare = features(square)
    assert tuple(bare) == FEATURES
    assert [name for name, value in bare.items() if not math.isnan(value)] == ["area"]
    boxed = features(asked(square, points=(Point(1, 1),)))
    assert (boxed["points"], math.isnan(boxed["box"])) == (1.0, True)
    with pytest.raises(ValueError, match="needs a mask"):
        features(Instance(Source.TEACHER, class_id=1))


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks whose IoU follows from the first two features; the third is noise, the fourth is mostly unknown."""
    rng = np.random.default_rng(seed)
    known = rng.random((count, len(FEATURES)))
    known[rng.random(count) < 0.7, 3] = math.nan
    known[:, 4] = math.nan
    known[:, 5] = 0.5
    iou = (0.2 + 0.5 * known[:, 0] + 0.2 * known[:, 1] - 0.1 * np.isnan(known[:, 3])).clip(0, 1)
    return known, iou, np.arange(count) // 4


def test_the_regression_finds_what_the_iou_follows_from() -> None:
    known, iou, _ = drawn(400)
    fitted = fit(known, iou)
    assert np.abs(fitted.predict(known) - iou).mean() < 0.02
    other, true, _ = drawn(100, seed=1)
    assert np.abs(fitted.predict(other) - true).mean() < 0.02
    assert fitted.weights[4] == fitted.weights[5] == 0  # never known; the same for all
    assert fit(known, np.full(len(iou), 0.5)).predict(known) == pytest.approx(0.5)


def test_few_masks_of_which_nothing_can_be_learned_do_little_harm() -> None:
    known, _, _ = drawn(400)
    errors = []
    for seed in range(20):
        iou = np.random.default_rng(seed).random(400)
        fitted = fit(known[:12], iou[:12])
        of_mean = ((iou[12:] - iou[:12].mean()) ** 2).mean()
        errors.append(((fitted.predict(known[12:]) - iou[12:]) ** 2).mean() / of_mean)
    assert np.mean(errors) < 1.35


def test_an_estimate_is_made_without_the_masks_of_its_image() -> None:
    known, iou, images = drawn(80)
    said = cross_fitted(known, iou, images)
    changed = iou.copy()
    changed[images == 3] = 1 - changed[images == 3]
    again = cross_fitted(known, changed, images)
    assert again[images == 3] == pytest.approx(said[images == 3])
    assert not np.allclose(again, said)
    assert np.abs(said - iou).mean() < 0.05
    with pytest.raises(ValueError, match="two images"):
        cross_fitted(known, iou, np.zeros(80, np.int64))


def test_what_only_a_few_masks_showed_counts_little() -> None:
    """Two of 200 masks miss their point and happen to be good: a mask that misses its point is not the best of all."""
    known, iou, _ = drawn(200)
    points = FEATURES.index("points")
    known[:, points] = 1.0
    known[:2, points], iou[:2] = 0.5, 0.95
    fitted = fit(known, iou)
    heeded, missed = known[10:11].copy(), known[10:11].copy()
    missed[0, points] = 0.0
    assert fitted.predict(missed)[0] < fitted.predict(heeded)[0] + 0.15
    far = known[10:11].copy()
    far[0, FEATURES.index("area")] = -1000.0
    near = far.copy()
    near[0, FEATURES.index("area")] = known[:, FEATURES.index("area")].mean() - 4
    assert fitted.predict(far) == pytest.approx(fitted.predict(near))


def test_a_calibration_of_other_estimates_is_refused() -> None:
    known, iou, _ = drawn(40)
    fitted = fit(known, iou).model_dump()
    with pytest.raises(
        ValidationError, match=r"expected the estimates \['pred_iou', .*'match'\]; calibrate again"
    ):
        Calibrator(**{**fitted, "names": ("match",)})
