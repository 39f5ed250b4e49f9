"""Which part of an image a box prompt is answered on: a small object is enlarged, so that SAM's grid resolves it.

A low-res pixel of SAM stands for a sixteenth of a patch's area; an object of few patches comes out as a blot. SAM's
automatic mask generator meets that with crops of the image (Kirillov et al. 2023, App. B); here the prompt's own box
says where to look. Points alone say nothing about size, so they are asked on the whole image, and several of them once
more around the mask that came of it, with that mask as a prompt. A single point is not: what it means is too unsure,
and the second look made its masks worse (docs/tiny-family.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.data.records import Box, Point, Prompt
from teachers.sam.pixels import Window

Part = tuple[int, Window | None]  # an image by its index, and what is seen of it (None: all)

MOST = 8  # input pixels a side that one pixel of the image may become; more shows nothing new
LEAST = 1.5  # times enlarged; less is not worth a pass of the encoder
CLICKS = 2  # points without a box that are worth a second look


@dataclass(frozen=True)
class Zoom:
    """`share`: of its window's side that a box shall take (0: never enlarge); `side`: of SAM's input square, pixels."""

    share: float
    side: int

    def window(self, prompt: Prompt, height: int, width: int) -> Window | None:
        """The window around a prompt's box and points in an image of that size.

        None stands for the whole image, as without a box or with a large one. The window is square, or as high or wide
        as the image where that is less, and lies inside the image.
        """
        if prompt.box_xyxy is None or not self.share:
            return None
        x0, y0, x1, y1 = _hull(prompt.box_xyxy, prompt.points)
        wanted = max(x1 - x0, y1 - y0) / self.share
        side = int(max(wanted, self.side / MOST) + 0.5)
        if side * LEAST > max(height, width):
            return None
        top, rows = _span((y0 + y1) / 2, side, height)
        left, columns = _span((x0 + x1) / 2, side, width)
        return Window(top, left, rows, columns)

    def again(self, prompt: Prompt, found: Box | None, height: int, width: int) -> Window | None:
        """The window around what came of a prompt on the whole image, `found` (None: nothing), to ask it once more.

        None if once is enough.
        """
        if found is None or prompt.box_xyxy is not None or len(prompt.points) < CLICKS:
            return None
        return self.window(replace(prompt, box_xyxy=found), height, width)


def _hull(box: Box, points: Sequence[Point]) -> Box:
    """A box around the box and the points, which a machine's box need not hold."""
    x0, y0, x1, y1 = box
    x, y = [point.x for point in points], [point.y for point in points]
    return min([x0, *x]), min([y0, *y]), max([x1, *x]), max([y1, *y])


def _span(centre: float, side: int, whole: int) -> tuple[int, int]:
    """First line and number of lines around `centre` inside 0..whole."""
    length = min(side, whole)
    return min(max(int(centre - length / 2 + 0.5), 0), whole - length), length
