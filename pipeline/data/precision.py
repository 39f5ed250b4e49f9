"""Where to cut calibrated masks so that a wanted share of the kept ones is right, with a promise that holds.

A mask is right from IoU 0.5. The masks of one image are often right or wrong together, so the variance of a share is
taken between images (ratio estimator, Cochran 1977), and as several cuts are tried, each has its part of the risk
(Bonferroni). Legend: n masks.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RIGHT = 0.5
TRIED = 10  # cuts: the best tenth of the masks, the best two tenths, ...
Z = 2.3263  # standard deviations of a normal distribution: one-sided, a risk of 10% shared by TRIED cuts
LEAST_KEPT = 10  # masks that a cut must leave to say anything

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cut:
    """Masks of a quality of at least `quality`: their share `kept`, and `right`, of these the share that is right.

    `sure`: what the share of right ones is at least, with 90% confidence for all cuts together.
    """

    quality: float
    kept: float
    right: float
    sure: float


def cuts(said: Floats, iou: Floats, image_ids: Ids) -> list[Cut]:
    """The cuts that are tried, from the one that keeps fewest; the one that keeps all has quality 0. All (n,)."""
    ranked = -np.sort(-said)
    count = len(said)
    levels = [float(ranked[-(-count * k // TRIED) - 1]) for k in range(1, TRIED)] if count else []
    some = [level for level in dict.fromkeys(levels) if level > ranked[-1]]
    found = [_cut(level, said, iou, image_ids) for level in (*some, 0.0)]
    return [cut for cut in found if cut is not None]


def cut_for(precision: float, said: Floats, iou: Floats, image_ids: Ids) -> Cut | None:
    """The cut that keeps most masks among those that are surely right often enough; None if there is none."""
    reached = [cut for cut in cuts(said, iou, image_ids) if cut.sure >= precision]
    return max(reached, key=lambda cut: cut.kept, default=None)


def _cut(level: float, said: Floats, iou: Floats, image_ids: Ids) -> Cut | None:
    kept = said >= level
    count = int(kept.sum())
    if count < LEAST_KEPT:
        return None
    right = iou[kept] >= RIGHT
    share = float(right.mean())
    sure = wilson(share, independent(right, image_ids[kept]))
    return Cut(level, count / len(said), share, sure)


def independent(right: npt.NDArray[np.bool_], image_ids: Ids) -> float:
    """How many masks that do not depend on each other would tell as much as these (n,) of some images.

    Where all are right, or all wrong, nothing shows how they depend: as many as there are images.
    """
    _, image = np.unique(image_ids, return_inverse=True)
    images, share = int(image.max()) + 1, float(right.mean())
    if images < 2 or share in (0.0, 1.0):
        return float(images)
    between = np.bincount(image, weights=right - share)
    variance = float((between**2).sum()) / len(right) ** 2 * images / (images - 1)
    return min(share * (1 - share) / variance, float(len(right))) if variance > 0 else float(images)


def wilson(share: float, count: float) -> float:
    """Lower end of the one-sided score interval of a share found in `count` independent cases (Wilson 1927)."""
    z = Z**2 / count
    return float((share + z / 2 - np.sqrt(z * share * (1 - share) + z**2 / 4)) / (1 + z))
