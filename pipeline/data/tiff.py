"""The first page of a TIFF by its tags, before anything is decoded; pages are counted, not read."""

import struct
from dataclasses import dataclass
from io import BytesIO

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from pipeline.data.errors import BadInput
from pipeline.data.rle_text import MAX_PIXELS

MAX_PAGES = 1000  # counted; the links may lead in circles, or to millions of pages of a few bytes
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES = 256, 257, 258, 262, 277
_SUBFILE, _TILE_WIDTH, _TILE_HEIGHT, _SAMPLE_FORMAT, _DNG_VERSION = 254, 322, 323, 339, 50706
_REDUCED = 1  # bit of _SUBFILE
_UNSIGNED = 1
_OTHER_SAMPLES = {2: "signed", 3: "floating point", 5: "complex", 6: "complex"}
_BIG = 43  # version of a BigTIFF


@dataclass(frozen=True, slots=True)
class TiffPage:
    """What the first page says of itself: stored (height, width), bits of a sample, whether 0 is white, all in words.

    `pages` is at most MAX_PAGES.
    """

    size: tuple[int, int]
    bits: int
    white_is_zero: bool
    layout: str
    pages: int


def read_page(data: bytes) -> TiffPage:
    """The first page's tags; BadInput (the message names no file) for samples or a layout that is not read."""
    with BytesIO(data) as file:
        tags = ImageFileDirectory_v2(file.read(16 if data[2] == _BIG else 8))
        file.seek(tags.next)
        tags.load(file)
    width, height = tags.get(_WIDTH), tags.get(_HEIGHT)
    if not (isinstance(width, int) and isinstance(height, int) and min(width, height) > 0):
        raise BadInput("expected a whole TIFF, found one that does not say its width and height")
    if tags.get(_DNG_VERSION) is not None or _number(tags, _SUBFILE, 0) & _REDUCED:
        raise BadInput("expected a photo first, found a small preview of one (a camera raw file?)")
    bits, photometric = _numbers(tags, _BITS), _number(tags, _PHOTOMETRIC, 0)
    kind = _OTHER_SAMPLES.get(max(_numbers(tags, _SAMPLE_FORMAT)), "")
    if kind or max(bits) > 16:
        found = f"{kind} ones of {max(bits)} bits".lstrip()
        raise BadInput(f"expected unsigned samples of at most 16 bits, found {found}")
    across, down = _number(tags, _TILE_WIDTH, 1), _number(tags, _TILE_HEIGHT, 1)
    if across * down > MAX_PIXELS:  # a tile is held whole, were the image 1x1
        raise BadInput(f"expected tiles of at most {MAX_PIXELS} pixels, found {across}x{down}")
    return TiffPage(
        size=(height, width),
        bits=bits[0],
        white_is_zero=photometric == 0,
        layout=f"{_number(tags, _SAMPLES, 1)} samples of {bits[0]} bits, photometric {photometric}",
        pages=_count_pages(data),
    )


def _numbers(tags: ImageFileDirectory_v2, tag: int) -> tuple[int, ...]:
    """A tag with a value for each sample; where it lacks, TIFF says 1."""
    found = tags.get(tag)
    return found if isinstance(found, tuple) and found else (1,)


def _number(tags: ImageFileDirectory_v2, tag: int, default: int) -> int:
    value = tags.get(tag, default)
    return value if isinstance(value, int) else default


def _count_pages(data: bytes) -> int:
    """Pages by the links between them; a link that leads nowhere or back ends the count."""
    order = "<" if data[:2] == b"II" else ">"
    count, entry, link, first = ("Q", 20, "Q", 8) if data[2] == _BIG else ("H", 12, "I", 4)
    seen: set[int] = set()
    (at,) = struct.unpack_from(order + link, data, first)
    while at and at not in seen and len(seen) < MAX_PAGES:
        try:
            (entries,) = struct.unpack_from(order + count, data, at)
            behind = at + struct.calcsize(order + count) + entries * entry
            (following,) = struct.unpack_from(order + link, data, behind)
        except (struct.error, OverflowError):
            break
        seen.add(at)
        at = following
    return max(1, len(seen))
