"""From logits of classes to masks at the image's own size: each pixel is of its likeliest class.

Legend: n classes with the background first, H x W the image, low-res maps as SAM's decoder gives them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.data.masks import encode, encode_crop
from pipeline.data.records import RLE
from teachers.sam.upsample import FloatArray, Upsampler

_TOUCHING = np.ones((3, 3), np.int64)  # pixels that meet at a corner are connected


@dataclass(frozen=True)
class Found:
    """A mask with at least one pixel, and the mean probability in it."""

    rle: RLE
    probability: float


@dataclass(frozen=True)
class Labelled:
    """Of each pixel (H, W): `classes`, the index of the likeliest, and `probability`, how likely it is, in 0..1."""

    classes: npt.NDArray[np.int64]
    probability: FloatArray

    def whole(self, index: int) -> Found | None:
        """The mask of a class; None if it has no pixel."""
        mask = self.classes == index
        if not mask.any():
            return None
        return Found(encode(mask), float(self.probability[mask].mean(dtype=np.float64)))

    def components(self, index: int, *, least: int) -> Iterator[Found]:
        """The connected parts of a class of at least `least` pixels, by their first pixels, row by row."""
        parts, _ = ndimage.label(self.classes == index, _TOUCHING)
        for number, place in enumerate(ndimage.find_objects(parts), start=1):
            mask = parts[place] == number
            if np.count_nonzero(mask) >= least:
                rle = encode_crop(mask, self.classes.shape, top=place[0].start, left=place[1].start)
                yield Found(rle, float(self.probability[place][mask].mean(dtype=np.float64)))


def labelled(logits: Sequence[FloatArray], upsampler: Upsampler) -> Labelled:
    """Of n low-res maps; one map of the image's own size is held at a time, besides three numbers a pixel."""
    best = upsampler.whole(logits[0]).logits.copy()
    classes = np.zeros(best.shape, np.int64)
    total: FloatArray = np.ones_like(best)  # of exp(logit - best)
    for index, low in enumerate(logits[1:], start=1):
        values = upsampler.whole(low).logits
        higher = values > best
        top = np.where(higher, values, best)
        total = total * np.exp(best - top) + np.exp(values - top)
        classes[higher] = index
        best = top
    return Labelled(classes, np.reciprocal(total))
