"""Which part of an image a box prompt is answered on: a small object is enlarged, so that SAM's grid resolves it.

A low-res pixel of SAM stands for a sixteenth of a patch's area; an object of few patches comes out as a blot. SAM's
automatic mask generator meets that with crops of the image (Kirillov et al. 2023, App. B); here the prompt's own box
says where to look. Points alone say nothing about size, so they see the whole image.
"""

from dataclasses import dataclass

from pipeline.data.records import Box
from teachers.sam.pixels import Window

Part = tuple[int, Window | None]  # an image by its index, and what is seen of it (None: all)

MOST = 8  # input pixels a side that one pixel of the image may become; more shows nothing new


@dataclass(frozen=True)
class Zoom:
    """`share`: of its window's side that a box shall take (0: never enlarge); `side`: of SAM's input square, pixels."""

    share: float
    side: int

    def window(self, box: Box | None, height: int, width: int) -> Window | None:
        """The window around `box` in an image of that size; None: the whole image, as without a box.

        The window is square, or as high or wide as the image where that is less, and lies inside the image.
        """
        if box is None or not self.share:
            return None
        x0, y0, x1, y1 = box
        wanted = max(x1 - x0, y1 - y0) / self.share
        side = int(max(wanted, self.side / MOST) + 0.5)
        if side >= max(height, width):
            return None
        top, rows = _span((y0 + y1) / 2, side, height)
        left, columns = _span((x0 + x1) / 2, side, width)
        return Window(top, left, rows, columns)


NO_ZOOM = Zoom(share=0.0, side=1)


def _span(centre: float, side: int, whole: int) -> tuple[int, int]:
    """First line and number of lines around `centre` inside 0..whole."""
    length = min(side, whole)
    return min(max(int(centre - length / 2 + 0.5), 0), whole - length), length
