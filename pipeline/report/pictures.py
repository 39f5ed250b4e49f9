"""What the report's pictures share: the photo in its frame, boxes and points on it, how much a page may hold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.records import Box
from pipeline.report.blocks import Click, Frame, Picture, Shot
from pipeline.report.layers import CROP_SIDE, Overlay, Window, overlay_uri, photo_uri

Image = npt.NDArray[np.uint8]


@dataclass
class Budget:
    """How many bytes of pictures a page may still hold."""

    left: int

    def takes(self, shot: Shot) -> bool:
        """Spend on a photo and its layers; once one is too large, all that come later, less worth seeing, are too."""
        pictures = [shot.photo, *(layer.picture for layer in shot.layers if layer.picture is not None)]
        size = sum(len(picture.uri) for picture in pictures)
        fits = size <= self.left
        self.left = self.left - size if fits else 0
        return fits


def photo(window: Window, image: Image, name: str) -> Picture:
    """A photo (h, w, 3) uint8 as the window shows it."""
    return Picture(photo_uri(window.photo(image)), f"Photo {name}", *window.size)


def laid_over(overlay: Overlay, window: Window, words: str) -> Picture:
    """An overlay as the picture that is laid over the window's photo."""
    return Picture(overlay_uri(overlay), words, *window.size)


def frame(box: Box, window: Window, *, used: bool = True) -> Frame:
    """A box xyxy of the photo in the window's pixels."""
    (x0, y0), (x1, y1) = window.place(box[0], box[1]), window.place(box[2], box[3])
    return Frame(x0, y0, x1 - x0, y1 - y0, used)


def clicks(points: Sequence[tuple[float, float, int]], window: Window) -> tuple[Click, ...]:
    """Points (x, y, 1 on the object or 0 off it) of the photo in the window's pixels."""
    return tuple(Click(*window.place(x, y), on=label == 1) for x, y, label in points)


def is_small(window: Window) -> bool:
    """Whether the picture is shown larger than it is, so that its pixels are better seen as they are."""
    return max(window.size) <= CROP_SIDE
