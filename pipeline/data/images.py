"""Photos in: judged by content, not name, size-checked from the header, upright 8-bit RGB out.

Whatever is wrong with a file becomes a `BadInput` that names it; a file is read once, so a link swapped in between
changes nothing. Of animations and pages the first is read. Orientation is EXIF's; XMP's is ignored, as browsers and
annotation tools ignore it.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import (
    BmpImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from pipeline.data.errors import BadInput, printable
from pipeline.data.image_kinds import ALLOWED, describe, image_kind
from pipeline.data.orient import UPRIGHT, orient_array, upright_size, valid_orientation
from pipeline.data.paths import inside, open_file
from pipeline.data.pixels import Rgb, is_faint, to_rgb
from pipeline.data.rle_text import MAX_PIXELS
from pipeline.data.tiff import TiffPage, read_page

MAX_FILE_BYTES = 1 << 30
_ORIENTATION_TAG = 0x0112
_WHITE = 0xFFFF
# Not Image.open: it warns of sizes that are refused here, and hides why a file cannot be opened.
_OPENERS = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
# What Pillow's decoders raise on broken files; OSError covers truncation.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_CUT = (TypeError, KeyError, IndexError, EOFError, struct.error)
_WORDS = {
    "decoder error .*|could not create decoder object|failed to read next frame": "its pixels cannot be decoded",
    r"broken PNG file \(chunk b''\)|Truncated File Read": "it ends too early",
    "not identified by this driver": "it does not say its size",
}


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself; sizes are (height, width), `exif_orientation` 1-8 leads from stored to upright.

    `frames` counts frames or pages, a TIFF's up to 1000.
    """

    stored_size: tuple[int, int]
    upright_size: tuple[int, int]
    exif_orientation: int
    format: str
    frames: int


@dataclass(frozen=True, slots=True)
class Upright:
    """A photo as a person sees it: `image` [H, W, 3] uint8 RGB, and the header it came with.

    `faint`: it holds 16-bit gray that uses the lowest sixteenth of its range alone, and is as dark.
    """

    image: Rgb
    header: Header
    faint: bool = False


def read_upright(path: Path) -> Upright:
    """The upright RGB image of a file; BadInput (naming it) for anything that is not a whole, allowed image."""
    return decode_upright(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """The content of a plain file; BadInput for a missing, unreadable, special or oversized one."""
    try:
        return _read(path)
    except BadInput as error:
        raise BadInput(f"image {printable(str(path))}: {error}") from error


def read_listed(folder: Path, file_name: str) -> bytes:
    """The same of a file that a data set lists, named as it is listed; BadInput also for one outside of the folder."""
    try:
        return _read(inside(folder, file_name))
    except BadInput as error:
        raise BadInput(f"image {printable(file_name)}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise BadInput(f"expected at most {MAX_FILE_BYTES} bytes, found more")
    return data


def read_header(data: bytes, name: str) -> Header:
    """Format, sizes and orientation of an image file's bytes; BadInput names `name`.

    Pixels are decoded only where the EXIF may lie behind them (PNG), and need not be whole.
    """
    with _refused(data, name):
        page = read_page(data) if image_kind(data) == "TIFF" else None
        return _header(_open(data, page), page)


def decode_upright(data: bytes, name: str) -> Upright:
    """The upright RGB image of a file's bytes; BadInput names `name`."""
    with _refused(data, name):
        page = read_page(data) if image_kind(data) == "TIFF" else None
        image = _open(data, page)
        if image.format == "PNG":
            PngImagePlugin.PngImageFile(BytesIO(data)).verify()  # checksums, which decoding does not look at
            # Looking for a PNG's EXIF loads its pixels, and a load that failed does nothing when called again.
            image.load()
        header = _header(image, page)
        image.load()
        # A TIFF with a turned size was not turned (`_orientation` took the tag away), though it says so.
        whole = image.copy() if page is not None and image.size != image.im.size else image
        white = (1 << page.bits) - 1 if page is not None and page.bits > 8 else _WHITE
        inverted = page is not None and page.white_is_zero
        pixels = orient_array(to_rgb(whole, white=white, inverted=inverted), header.exif_orientation)
        faint = not inverted and is_faint(whole, white=white)
        return Upright(np.ascontiguousarray(pixels), header, faint)


@contextmanager
def _refused(data: bytes, name: str) -> Iterator[None]:
    """Whatever is wrong with an image's bytes, in words and with its name."""
    kind = image_kind(data)
    try:
        if kind is None:
            raise BadInput(f"expected {ALLOWED}, found {describe(data)}")
        yield
    except BadInput as error:
        raise BadInput(f"image {printable(name)}: {error}") from error
    except _BROKEN as error:
        raise BadInput(
            f"image {printable(name)}: expected a whole {kind}, found a broken one: {_plain(error)}"
        ) from error


def _plain(error: BaseException) -> str:
    """A decoder's message in words."""
    opening = error.__cause__ if isinstance(error, SyntaxError) else error  # Pillow wraps what happens there
    if isinstance(opening, _CUT):
        return "its header is cut off or damaged"
    text = str(error) or type(error).__name__
    return next((words for code, words in _WORDS.items() if re.fullmatch(code, text)), text)


def _open(data: bytes, page: TiffPage | None) -> Image.Image:
    """The image of a file's bytes, its size checked, its pixels not loaded yet."""
    kind = image_kind(data)
    assert kind is not None
    if kind == "WEBP":  # its decoder takes memory for the canvas when it is made
        _check_size(_webp_canvas(data))
    try:
        image = _OPENERS[kind](BytesIO(data), "")
    except SyntaxError as error:
        if page is None:
            raise
        raise BadInput(f"expected a TIFF of a known layout, found {page.layout}: {error}") from error
    _check_size(image.size)
    return image


def _check_size(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise BadInput(f"expected at most {MAX_PIXELS} pixels, found {width}x{height}")


def _webp_canvas(data: bytes) -> tuple[int, int]:
    """(width, height) that a WebP declares; (0, 0) if it is too broken to say."""
    chunk, body = data[12:16], data[20:30]
    if len(body) < 10:
        return (0, 0)
    if chunk == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", body[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _header(image: Image.Image, page: TiffPage | None) -> Header:
    orientation = _orientation(image)
    if page is not None:
        return Header(page.size, upright_size(page.size, orientation), orientation, "TIFF", page.pages)
    size = (image.height, image.width)
    # A JPEG with several pictures inside (3D cameras, phones) reports itself as MPO.
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    frames = int(getattr(image, "n_frames", 1))
    return Header(size, upright_size(size, orientation), orientation, kind, frames)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1-8; a broken EXIF block counts as none.

    It is taken away from the image: Pillow turns TIFFs while loading them, by values that are no orientation too.
    """
    for key in ("xmp", "XML:com.adobe.xmp"):  # where Pillow looks when EXIF has none
        image.info.pop(key, None)
    try:
        exif = image.getexif()
        found = exif.get(_ORIENTATION_TAG)
        if found is not None:
            del exif[_ORIENTATION_TAG]
        return valid_orientation(found)
    except _BROKEN:
        return UPRIGHT


def annotation_orientation(header: Header, height: int, width: int, *, where: str) -> int:
    """How to turn annotations made for height x width into the upright frame: 1 (leave them) or the EXIF orientation.

    BadInput when the size fits neither the upright nor the stored frame.
    """
    if (height, width) == header.upright_size:
        return UPRIGHT
    if (height, width) == header.stored_size:
        return header.exif_orientation
    (h, w), (sh, sw) = header.upright_size, header.stored_size
    stored = "" if (h, w) == (sh, sw) else f" (stored as {sw}x{sh})"
    raise BadInput(
        f"{where}: expected width x height {w}x{h}{stored} as the file has, found {width}x{height}"
    )
