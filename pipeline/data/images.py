"""Photos in: judged by content, not name, size-checked from the header, upright 8-bit RGB out.

Whatever is wrong with a file becomes a `BadInput` that names it; what is wrong with the machine (a disk's error, too
little memory) stays what it is. A file is read once, so a link swapped in between changes nothing. Of animations and
pages the first is read. Orientation is EXIF's; XMP's is ignored, as browsers and annotation tools ignore it.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

from pipeline.data.damage import jpeg_damage
from pipeline.data.errors import BadInput, printable
from pipeline.data.image_open import BROKEN, opened
from pipeline.data.orient import UPRIGHT, orient_array, upright_size, valid_orientation
from pipeline.data.paths import Place, inside, open_file, reading
from pipeline.data.pixels import Rgb, is_faint, to_rgb
from pipeline.data.tiff import TiffPage

MAX_FILE_BYTES = 1 << 30
_ORIENTATION_TAG = 0x0112
_WHITE = 0xFFFF


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
class Checked:
    """What was found of a photo that can be decoded.

    `faint`: it holds 16-bit gray that uses the lowest sixteenth of its range alone, and is as dark.
    """

    header: Header
    faint: bool


@dataclass(frozen=True, slots=True)
class Upright:
    """A photo as a person sees it: `image` [H, W, 3] uint8 RGB, and the header it came with; `faint` as `Checked`."""

    image: Rgb
    header: Header
    faint: bool = False


def read_upright(path: Place) -> Upright:
    """The upright RGB image of a file; BadInput (naming it) for anything that is not a whole, allowed image."""
    return decode_upright(read_bytes(path), str(path))


def read_bytes(path: Place) -> bytes:
    """The content of a plain file; BadInput for a missing, unreadable, special or oversized one.

    OSError, with the path, if the disk or the server is to blame.
    """
    try:
        return _read(path)
    except BadInput as error:
        raise BadInput(f"image {printable(str(path))}: {error}") from error


def read_listed(folder: Place, file_name: str) -> bytes:
    """The same of a file that a data set lists, named as it is listed; BadInput also for one outside of the folder."""
    try:
        return _read(inside(folder, file_name))
    except BadInput as error:
        raise BadInput(f"image {printable(file_name)}: {error}") from error


def _read(path: Place) -> bytes:
    with reading(path), open_file(path) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise BadInput(f"expected at most {MAX_FILE_BYTES} bytes, found more")
    return data


def read_header(data: bytes, name: str) -> Header:
    """Format, sizes and orientation of an image file's bytes; BadInput names `name`.

    Pixels are decoded only where the EXIF may lie behind them (PNG), and need not be whole.
    """
    with opened(data, name) as (image, page):
        return _header(image, page)


def check_image(data: bytes, name: str) -> Checked:
    """What `decode_upright` tells of a file's bytes but for the pixels: they are decoded, not turned into RGB.

    BadInput as there.
    """
    with opened(data, name) as (image, page):
        loaded = _load(image, page, data)
        _rgb(loaded._replace(image=loaded.image.crop((0, 0, 1, 1))))  # refuses samples of unknown kinds
        return Checked(loaded.header, _is_faint(loaded))


def decode_upright(data: bytes, name: str) -> Upright:
    """The upright RGB image of a file's bytes; BadInput names `name`."""
    with opened(data, name) as (image, page):
        loaded = _load(image, page, data)
        pixels = orient_array(_rgb(loaded), loaded.header.exif_orientation)
        return Upright(np.ascontiguousarray(pixels), loaded.header, _is_faint(loaded))


class _Loaded(NamedTuple):
    """An image with its pixels; `white` and `inverted` are for 16-bit gray alone."""

    image: Image.Image
    header: Header
    white: int
    inverted: bool


def _load(image: Image.Image, page: TiffPage | None, data: bytes) -> _Loaded:
    """All pixels of an image, found whole."""
    if image.format == "PNG":
        PngImagePlugin.PngImageFile(BytesIO(data)).verify()  # checksums, which decoding does not look at
        # Looking for a PNG's EXIF loads its pixels, and a load that failed does nothing when called again.
        image.load()
    header = _header(image, page)
    image.load()
    if header.format == "JPEG" and (damage := jpeg_damage(data)) is not None:
        raise OSError(damage)
    # A TIFF with a turned size was not turned (`_orientation` took the tag away), though it says so.
    whole = image.copy() if page is not None and image.size != image.im.size else image
    white = (1 << page.bits) - 1 if page is not None and page.bits > 8 else _WHITE
    return _Loaded(whole, header, white, page is not None and page.white_is_zero)


def _rgb(loaded: _Loaded) -> Rgb:
    return to_rgb(loaded.image, white=loaded.white, inverted=loaded.inverted)


def _is_faint(loaded: _Loaded) -> bool:
    return not loaded.inverted and is_faint(loaded.image, white=loaded.white)


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
    except BROKEN:
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
