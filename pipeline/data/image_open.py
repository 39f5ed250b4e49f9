"""An image file's bytes to an image that can be loaded: known formats alone, of a checked size, errors in words.

Threads share the room for pixels, so that many large photos take no more memory than one.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

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
from pipeline.data.rle_text import MAX_PIXELS
from pipeline.data.room import Room
from pipeline.data.tiff import TiffPage, read_page

_DECODED = Room(MAX_PIXELS)  # pixels that all threads decode at a time
_BLOCK = 64 << 20
# Not Image.open: it warns of sizes that are refused here, and hides why a file cannot be opened.
_OPENERS = {
    "JPEG": JpegImagePlugin.jpeg_factory,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
# What Pillow's decoders raise on broken files; OSError covers truncation. A MemoryError is no fault of the file.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    RuntimeError,
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


@contextmanager
def opened(data: bytes, name: str) -> Iterator[tuple[Image.Image, TiffPage | None]]:
    """The image of a file's bytes, not loaded yet, with room for its pixels."""
    with _refused(data, name):
        page = read_page(data) if image_kind(data) == "TIFF" else None
        with _DECODED.taken(_declared_pixels(data, page)):
            # Blocks above malloc's largest mmap threshold (32 MiB) go back when freed; smaller ones each thread keeps.
            Image.core.set_block_size(_BLOCK)  # type: ignore[attr-defined]
            image = _open(data, page)
            try:
                yield image, page
            finally:
                image.close()  # who reads it may be part of a cycle, and its pixels would wait for the collector


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
    except BROKEN as error:
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


def _declared_pixels(data: bytes, page: TiffPage | None) -> int:
    """How many pixels an image will take, known before it takes them."""
    width, height = _webp_canvas(data) if image_kind(data) == "WEBP" else _open(data, page).size
    return width * height


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
