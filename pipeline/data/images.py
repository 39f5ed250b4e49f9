"""Photos in: judged by content, not name, size-checked from the header, upright 8-bit RGB out.

Whatever is wrong with a file becomes a `BadInput` that names it; a file is read once, so a link swapped in between
changes nothing. Alpha is ignored, as every public SAM pipeline does; of animations and pages the first is read.
"""

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from pipeline.data.errors import BadInput
from pipeline.data.orient import UPRIGHT, orient_array, upright_size, valid_orientation
from pipeline.data.rle_text import MAX_PIXELS

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
MAX_FILE_BYTES = 1 << 30
_ORIENTATION_TAG = 0x0112
_BITS_TAG = 0x0102  # TIFF BitsPerSample
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"RIFF": "WEBP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"BM": "BMP",
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

Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself; sizes are (height, width), `exif_orientation` 1-8 leads from stored to upright."""

    stored_size: tuple[int, int]
    upright_size: tuple[int, int]
    exif_orientation: int
    format: str
    frames: int


@dataclass(frozen=True, slots=True)
class Upright:
    """A photo as a person sees it: `image` [H, W, 3] uint8 RGB, and the header it came with."""

    image: Rgb
    header: Header


def read_upright(path: Path) -> Upright:
    """The upright RGB image of a file; BadInput (naming it) for anything that is not a whole, allowed image."""
    return decode_upright(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """The content of a regular file; BadInput for a missing, unreadable, special or oversized one."""
    try:
        if not path.is_file():  # before open: opening a FIFO would wait for ever
            found = "a folder" if path.is_dir() else "a special file" if path.exists() else "nothing"
            raise BadInput(f"image {path}: expected a file, found {found}")
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise BadInput(f"image {path}: expected at most {MAX_FILE_BYTES} bytes, found {size}")
        return path.read_bytes()
    except OSError as error:
        raise BadInput(f"image {path}: cannot be read: {error.strerror or error}") from error


def read_header(data: bytes, name: str) -> Header:
    """Format, sizes and orientation of an image file's bytes; BadInput names `name`.

    Pixels are decoded only where the EXIF may lie behind them (PNG), and need not be whole.
    """
    image = _open(data, name)
    try:
        return _header(image)
    except _BROKEN as error:
        raise BadInput(f"image {name}: broken header: {error}") from error


def decode_upright(data: bytes, name: str) -> Upright:
    """The upright RGB image of a file's bytes; BadInput names `name`."""
    image = _open(data, name)
    try:
        # Looking for a PNG's EXIF loads its pixels, and a load that failed does nothing when called again. A TIFF
        # forgets its orientation while it loads.
        if image.format != "TIFF":
            image.load()
        header = _header(image)
        image.load()
        pixels = _to_rgb(image, name)
    except _BROKEN as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"image {name}: {_format(image)} cannot be decoded: {error}") from error
    # Pillow turns TIFFs upright while loading them, and nothing else.
    if header.format != "TIFF":
        pixels = orient_array(pixels, header.exif_orientation)
    return Upright(np.ascontiguousarray(pixels), header)


def _open(data: bytes, name: str) -> Image.Image:
    """The image of a file's bytes, its size checked, its pixels not loaded yet."""
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise BadInput(
                f"image {name}: expected at most {MAX_PIXELS} pixels, found {image.width}x{image.height}"
            )
        return image
    except UnidentifiedImageError as error:
        found = _looks_like(data)
        raise BadInput(f"image {name}: expected a readable {', '.join(FORMATS)}, found {found}") from error
    except _BROKEN as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"image {name}: broken header: {error}") from error


def _header(image: Image.Image) -> Header:
    orientation = _orientation(image)
    frames = int(getattr(image, "n_frames", 1))
    size = (image.height, image.width)
    if image.format == "TIFF":  # its width and height are upright already
        return Header(upright_size(size, orientation), size, orientation, "TIFF", frames)
    return Header(size, upright_size(size, orientation), orientation, _format(image), frames)


def _looks_like(data: bytes) -> str:
    """What bytes that no decoder takes seem to be."""
    if not data:
        return "an empty file"
    known = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)
    return f"a broken {known} header" if known else f"a file that starts with {data[:12]!r}"


def _format(image: Image.Image) -> str:
    # A JPEG with several pictures inside (3D cameras, phones) reports itself as MPO.
    return "JPEG" if image.format == "MPO" else str(image.format)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1-8; a broken EXIF block counts as none."""
    try:
        return valid_orientation(image.getexif().get(_ORIENTATION_TAG))
    except _BROKEN:
        return UPRIGHT


def _to_rgb(image: Image.Image, name: str) -> Rgb:
    """Stored pixels [H, W, 3] uint8 of a loaded image of any mode."""
    if image.mode.startswith("I;16"):
        return _gray_to_rgb(np.asarray(image).astype(np.uint32), white=_white(image))
    if image.mode == "I":  # 32-bit; 16-bit files come like this from some decoders
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise BadInput(f"image {name}: expected 8- or 16-bit pixels, found 32-bit up to {values.max()}")
        return _gray_to_rgb(values.astype(np.uint32), white=0xFFFF)
    if image.mode == "F":
        raise BadInput(f"image {name}: expected 8- or 16-bit pixels, found floating point")
    return np.asarray(image.convert("RGB"))


def _white(image: Image.Image) -> int:
    """The brightest value of a 16-bit image: TIFFs of microscopes and scanners often hold 10, 12 or 14 bits."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = int(image.tag_v2.get(_BITS_TAG, (16,))[0])
        return (1 << bits) - 1 if 8 < bits <= 16 else 0xFFFF
    return 0xFFFF


def _gray_to_rgb(values: npt.NDArray[np.uint32], *, white: int) -> Rgb:
    """Gray [H, W] of 0..white to 8-bit RGB, white to 255 (Pillow's own conversion clips at 255 instead)."""
    gray = np.minimum((values * 255 + white // 2) // white, 255).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


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
