"""Photos and the masks laid over them, small enough to live inside an HTML page.

Shapes: image (h, w, 3) uint8 RGB upright; a mask (h, w) bool in the same frame; an overlay (h, w) uint8, indices into
one palette of colours with alpha. A `Window` says which part of a photo is drawn and how large.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from pipeline.data import masks
from pipeline.data.records import RLE, Box

MAX_SIDE = 512  # pixels of a whole photo's longer side as it is drawn
CROP_SIDE = 320  # of a part's
QUALITY = 75  # of the WebP
FILL, HATCH, EDGE = 150, 215, 255  # alpha inside a mask, on its stripes, on its border; the page dims them
STRIPE = 6  # pixels from one stripe to the next, a third of them drawn

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Overlay = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

# Twelve hues that stay apart on photos in light and dark; object i has colour i modulo 12.
PALETTE: tuple[Colour, ...] = (
    (230, 25, 75),
    (60, 180, 75),
    (255, 225, 25),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (70, 240, 240),
    (240, 50, 230),
    (210, 245, 60),
    (250, 190, 212),
    (0, 128, 128),
    (170, 110, 40),
)
# Okabe and Ito's blue, orange and reddish purple: told apart with any colour vision. Extra pixels are hatched as well.
HIT: Colour = (0, 114, 178)
MISSED: Colour = (230, 159, 0)
EXTRA: Colour = (204, 121, 167)
COLOURS = (*PALETTE, HIT, MISSED, EXTRA)
HIT_INDEX, MISSED_INDEX, EXTRA_INDEX = range(len(PALETTE), len(COLOURS))
STRENGTHS = (FILL, HATCH, EDGE)
_TABLE = ((0, 0, 0, 0), *((*colour, alpha) for colour in COLOURS for alpha in STRENGTHS))


@dataclass(frozen=True)
class Window:
    """A part of a photo, in the photo's pixels, and the size at which it is drawn, never enlarged."""

    top: int
    left: int
    height: int
    width: int
    drawn_height: int
    drawn_width: int

    @classmethod
    def whole(cls, height: int, width: int) -> "Window":
        """All of a photo."""
        return cls._fitted(0, 0, height, width, limit=MAX_SIDE)

    @classmethod
    def around(cls, box: Box, height: int, width: int, *, margin: float = 0.6, least: int = 72) -> "Window":
        """A square in the photo around a box, with `margin` of its longer side on each side, `least` or more pixels."""
        x0, y0, x1, y1 = box
        side = max(max(x1 - x0, y1 - y0) * (1 + 2 * margin), least)
        w, h = min(round(side), width), min(round(side), height)
        left = min(max(round((x0 + x1 - w) / 2), 0), width - w)
        top = min(max(round((y0 + y1 - h) / 2), 0), height - h)
        return cls._fitted(top, left, h, w, limit=CROP_SIDE)

    @classmethod
    def _fitted(cls, top: int, left: int, height: int, width: int, *, limit: int) -> "Window":
        scale = min(1.0, limit / max(height, width))
        return cls(top, left, height, width, max(1, round(height * scale)), max(1, round(width * scale)))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of what is drawn."""
        return self.drawn_width, self.drawn_height

    @property
    def scale(self) -> tuple[float, float]:
        """Drawn pixels a photo's pixel, along x and y."""
        return self.drawn_width / self.width, self.drawn_height / self.height

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the photo is drawn; outside of the picture for one outside of the window."""
        sx, sy = self.scale
        return (x - self.left) * sx, (y - self.top) * sy

    def photo(self, image: Image) -> Image:
        """This part of the photo as it is drawn."""
        part = image[self.top : self.top + self.height, self.left : self.left + self.width]
        return self._resized(part)

    def mask(self, rle: RLE) -> Mask:
        """This part of a mask as it is drawn."""
        dense = masks.decode(rle)[self.top : self.top + self.height, self.left : self.left + self.width]
        drawn: Mask = self._resized(dense.astype(np.uint8) * 255) >= 128
        return drawn

    def _resized(self, pixels: Image) -> Image:
        if pixels.shape[:2] == (self.drawn_height, self.drawn_width):
            return np.ascontiguousarray(pixels)
        size = (self.drawn_width, self.drawn_height)
        pillow = PillowImage.fromarray(np.ascontiguousarray(pixels))
        return np.asarray(pillow.resize(size, PillowImage.Resampling.BILINEAR), dtype=np.uint8)


@dataclass(frozen=True)
class Shape:
    """One mask as it is drawn: `colour` an index into COLOURS, `hatched` for what matched nothing."""

    mask: Mask
    colour: int
    hatched: bool = False


def paint(shapes: Sequence[Shape], window: Window) -> Overlay:
    """An overlay of all shapes, later ones on top; borders above every filling, so that small masks stay seen."""
    overlay = np.zeros((window.drawn_height, window.drawn_width), np.uint8)
    stripes = _stripes(overlay.shape)
    for shape in shapes:
        first = 1 + shape.colour * len(STRENGTHS)
        if shape.hatched:
            overlay[shape.mask & stripes] = first + 1
        else:
            overlay[shape.mask] = first
    for shape in shapes:
        border = edge(shape.mask)
        overlay[border & _dashes(border.shape) if shape.hatched else border] = (
            1 + shape.colour * len(STRENGTHS) + 2
        )
    return overlay


def errors(matched: Sequence[tuple[Mask | None, Mask | None]], window: Window) -> Overlay:
    """Right, missed and extra pixels of (true, found) masks, object by object: None for one without a partner.

    Where objects overlap, what is wrong for one of them counts.
    """
    shape = (window.drawn_height, window.drawn_width)
    hit, missed, extra = (np.zeros(shape, bool) for _ in range(3))
    nothing = np.zeros(shape, bool)
    for truth, found in matched:
        real, drawn = nothing if truth is None else truth, nothing if found is None else found
        hit |= real & drawn
        missed |= real & ~drawn
        extra |= drawn & ~real
    overlay = np.zeros(shape, np.uint8)
    stripes = _stripes(shape)
    for pixels, colour, alpha in (
        (hit, HIT_INDEX, 1),
        (missed, MISSED_INDEX, 1),
        (extra, EXTRA_INDEX, 0),
        (extra & stripes, EXTRA_INDEX, 2),
    ):
        overlay[pixels] = 1 + colour * len(STRENGTHS) + alpha
    return overlay


def _stripes(shape: tuple[int, ...]) -> Mask:
    rows, columns = np.indices(shape)
    stripes: Mask = (rows + columns) % STRIPE < STRIPE // 3
    return stripes


def _dashes(shape: tuple[int, ...]) -> Mask:
    rows, columns = np.indices(shape)
    dashes: Mask = ((rows + columns) // 3 % 2 == 0) | ((rows - columns) // 3 % 2 == 0)
    return dashes


def edge(mask: Mask) -> Mask:
    """The pixels of a mask that touch its outside, by side; the picture's own edge is no outside."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    border: Mask = mask & ~inner
    return border


def colours(overlay: Overlay) -> Image:
    """The overlay as (h, w, 4) uint8 RGBA."""
    return np.array(_TABLE, np.uint8)[overlay]


def photo_uri(image: Image) -> str:
    """The image as a WebP `data:` URI."""
    buffer = io.BytesIO()
    PillowImage.fromarray(image).save(buffer, format="WEBP", quality=QUALITY, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def overlay_uri(overlay: Overlay) -> str:
    """The overlay as a PNG `data:` URI; its palette holds the colours that are used and no others."""
    used = np.union1d(np.array([0], np.uint8), overlay)
    picture = PillowImage.fromarray(np.searchsorted(used, overlay).astype(np.uint8), mode="P")
    table = np.array(_TABLE, np.uint8)[used]
    picture.putpalette(table[:, :3].tobytes(), "RGB")
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True, transparency=table[:, 3].tobytes())
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
