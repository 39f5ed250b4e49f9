"""Decoded samples of any kind to 8-bit RGB: [H, W, 3] uint8, white to 255.

Alpha is ignored, as every public SAM pipeline does; colour profiles are not applied: the numbers are the file's own.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data.errors import BadInput

Rgb = npt.NDArray[np.uint8]
FAINT = 16  # a 16-bit image whose brightest value lies below white / FAINT: 12 bits kept in 16, more likely than night
_LEVELS = 1 << 16


def to_rgb(image: Image.Image, *, white: int, inverted: bool) -> Rgb:
    """Stored pixels [H, W, 3] uint8 of a loaded image of any mode; `white` and `inverted` are for 16-bit gray alone.

    16-bit colours come from Pillow as their high byte, which is at most one level off.
    """
    if image.mode.startswith("I;16"):
        return _gray_to_rgb(np.asarray(image), white=white, inverted=inverted)
    if image.mode in ("I", "F"):
        raise BadInput("expected samples of at most 16 bits, found 32-bit ones")
    if image.mode == "La":  # gray times alpha
        image = image.convert("LA")
    image.info.pop("transparency", None)  # of a palette: Pillow warns that it gets lost
    return np.asarray(image.convert("RGB"))


def is_faint(image: Image.Image, *, white: int) -> bool:
    """Whether a loaded image is 16-bit gray that uses the lowest sixteenth of its range alone."""
    if not image.mode.startswith("I;16"):
        return False
    return 0 < int(np.asarray(image).max()) <= white // FAINT


def _gray_to_rgb(values: npt.NDArray[np.uint16], *, white: int, inverted: bool) -> Rgb:
    """Gray [H, W] of 0..white to 8-bit RGB, rounded (Pillow's own conversion clips at 255 instead)."""
    levels = np.arange(_LEVELS, dtype=np.uint32)
    table = np.minimum((levels * 255 + white // 2) // white, 255).astype(np.uint8)
    gray = (255 - table if inverted else table)[values]
    return np.repeat(gray[:, :, None], 3, axis=2)
