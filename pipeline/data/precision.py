"""Where to cut calibrated masks so that a wanted share of the kept ones is right, with a promise that holds.

A mask is right from IoU 0.5. The masks of one image are often right or wrong together, so the variance of a share is
taken between images (ratio estimator, Cochran 1977); a few images show little of it, so it is drawn to that of masks
which are all right or all wrong together. Cuts are tried from the one that keeps fewest masks until one cannot promise
the share, so that all of them together have the risk of one (fixed sequence testing; Maurer et al. 1995, Angelopoulos
et al. 2021). Where the masks of an image are all right or all wrong and there are few images, the risk is up to twice
as high as asked (the tests simulate it). Legend: n masks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RIGHT = 0.5
TRIED = 10  # cuts: the best tenth of the masks, the best two tenths, ...
CONFIDENCE = 0.9  # that the promise holds
LEAST_KEPT = 10  # masks that a cut must leave to say anything
DRAWN = 4  # images' worth of weight that "all right or all wrong together" has beside the images seen

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """Masks of a quality of at least `quality`: their share `kept`, and `right`, of these the share that is right.

    `sure`: what that share is at least among all masks like these, with the confidence asked for; `most`: what `sure`
    is if all are right, the most that so many images can promise.
    """

    quality: float
    kept: float
    right: float
    sure: float
    most: float


def cuts(said: Floats, iou: Floats, image_ids: Ids, *, confidence: float = CONFIDENCE) -> list[Cut]:
    """The cuts that are tried, from the one that keeps fewest; the one that keeps all has quality 0. All (n,)."""
    ranked = -np.sort(-said)
    count = len(said)
    levels = [float(ranked[-(-count * k // TRIED) - 1]) for k in range(1, TRIED)] if count else []
    some = [level for level in dict.fromkeys(levels) if level > ranked[-1]]
    found = [_cut(level, said, iou=iou, image_ids=image_ids, confidence=confidence) for level in (*some, 0.0)]
    return [cut for cut in found if cut is not None]


def cut_for(precision: float, tried: Sequence[Cut]) -> Cut | None:
    """The last of the cuts, as `cuts` orders them, up to which each is surely right often enough; None if none is.

    One of too few images to promise the share even if all were right is passed over: that is known before looking.
    """
    last = None
    for cut in tried:
        if cut.sure >= precision:
            last = cut
        elif cut.most >= precision:
            break
    return last


def best_promise(tried: Sequence[Cut]) -> Cut | None:
    """The cut whose `sure` is the highest precision that `cut_for` has a cut for."""
    promised = [cut for cut in tried if cut_for(cut.sure, tried) is not None]
    return max(promised, key=lambda cut: cut.sure, default=None)


def _cut(level: float, said: Floats, *, iou: Floats, image_ids: Ids, confidence: float) -> Cut | None:
    kept = said >= level
    count = int(kept.sum())
    if count < LEAST_KEPT:
        return None
    right = iou[kept] >= RIGHT
    share = float(right.mean())
    images = len(np.unique(image_ids[kept]))
    t = _student(confidence, images)
    most = wilson(1.0, images, t)
    sure = wilson(share, independent(right, image_ids[kept]), t)
    return Cut(level, count / len(said), share, min(sure, most), most)


def _student(confidence: float, images: int) -> float:
    """Quantile of Student's distribution: the variance between so many images is an estimate itself."""
    from scipy.special import stdtrit  # imported late: it takes long, and every command looks at the stages

    return float(stdtrit(max(images - 1, 1), confidence))


def independent(right: npt.NDArray[np.bool_], image_ids: Ids) -> float:
    """How many masks that do not depend on each other would tell as much as these (n,) of some images.

    Where all are right, or all wrong, nothing shows how they depend: as many as there are images. The fewer images,
    the nearer to that in any case.
    """
    _, image = np.unique(image_ids, return_inverse=True)
    images, share = int(image.max()) + 1, float(right.mean())
    if images < 2 or share in (0.0, 1.0):
        return float(images)
    between = np.bincount(image, weights=right - share)
    found = float((between**2).sum()) / len(right) ** 2 * images / (images - 1)
    together = share * (1 - share) / images
    variance = ((images - 1) * found + DRAWN * together) / (images - 1 + DRAWN)
    return min(share * (1 - share) / variance, float(len(right)))


def wilson(share: float, count: float, z: float) -> float:
    """Lower end of the one-sided score interval of a share found in `count` independent cases (Wilson 1927).

    `z`: the standard deviations that stand for the confidence.
    """
    w = z**2 / count
    return float((share + w / 2 - np.sqrt(w * share * (1 - share) + w**2 / 4)) / (1 + w))
