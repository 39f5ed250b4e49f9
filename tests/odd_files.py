"""Image files built byte by byte, so that what they must decode to is known from their making and from no decoder."""

import struct
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

Entry = tuple[int, int, Sequence[object] | bytes]  # of an IFD: tag, type, values
BYTE, ASCII, SHORT, LONG, RATIONAL, FLOAT = 1, 2, 3, 4, 5, 11
ORIENTATION = 0x0112
_PACKED = {BYTE: "B", SHORT: "H", LONG: "I", RATIONAL: "II", FLOAT: "f"}

# Where the stored pixel (row, column) of an HxW image is seen, (y, x), by EXIF orientation. From the words of the EXIF
# standard: 6, for one, says that row 0 is the visual right-hand side and column 0 the visual top.
SEEN: dict[int, Callable[[int, int, int, int], tuple[int, int]]] = {
    1: lambda r, c, h, w: (r, c),  # noqa: ARG005
    2: lambda r, c, h, w: (r, w - 1 - c),  # noqa: ARG005
    3: lambda r, c, h, w: (h - 1 - r, w - 1 - c),
    4: lambda r, c, h, w: (h - 1 - r, c),  # noqa: ARG005
    5: lambda r, c, h, w: (c, r),  # noqa: ARG005
    6: lambda r, c, h, w: (c, h - 1 - r),  # noqa: ARG005
    7: lambda r, c, h, w: (w - 1 - c, h - 1 - r),
    8: lambda r, c, h, w: (w - 1 - c, r),  # noqa: ARG005
}


def seen(stored: npt.NDArray[np.generic], orientation: int) -> npt.NDArray[np.generic]:
    """A stored array [H, W, ...] as it is seen, pixel by pixel."""
    h, w = stored.shape[:2]
    upright = np.zeros((w, h, *stored.shape[2:]) if orientation >= 5 else stored.shape, stored.dtype)
    for r in range(h):
        for c in range(w):
            upright[SEEN[orientation](r, c, h, w)] = stored[r, c]
    return upright


def encoded(image: Image.Image, form: str, **settings: object) -> bytes:
    """A file as Pillow writes it."""
    sink = BytesIO()
    image.save(sink, form, **settings)  # type: ignore[arg-type]
    return sink.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    size: tuple[int, int],
    rows: Sequence[bytes],
    *,
    depth: int = 8,
    colour: int = 2,
    before: Sequence[tuple[bytes, bytes]] = (),
    after: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """A PNG of (height, width) and its rows; `colour`: 0 gray, 2 RGB, 3 palette, 4 gray+alpha, 6 RGBA."""
    head = struct.pack(">IIBBBBB", size[1], size[0], depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    chunks = [(b"IHDR", head), *before, (b"IDAT", data), *after, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in chunks)


def ifd(entries: Sequence[Entry], at: int, *, order: str = "<", following: int = 0) -> bytes:
    """A directory of a TIFF that starts at byte `at`, with the values that do not fit into it behind."""
    table, behind = b"", b""
    start = at + 2 + 12 * len(entries) + 4
    for tag, kind, values in sorted(entries, key=lambda entry: entry[0]):
        raw = values if isinstance(values, bytes) else _pack(order, kind, values)
        count = len(values)
        place = raw.ljust(4, b"\0")
        if len(raw) > 4:
            place = struct.pack(order + "I", start + len(behind))
            behind += raw
        table += struct.pack(order + "HHI", tag, kind, count) + place
    return struct.pack(order + "H", len(entries)) + table + struct.pack(order + "I", following) + behind


def _pack(order: str, kind: int, values: Sequence[object]) -> bytes:
    parts = [value if isinstance(value, tuple) else (value,) for value in values]
    return b"".join(struct.pack(order + _PACKED[kind], *part) for part in parts)


def tiff_head(order: str = "<") -> bytes:
    """The first 8 bytes of a TIFF whose directory follows at once."""
    return struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)


def tiff(
    size: tuple[int, int],
    pixels: bytes,
    *,
    bits: Sequence[int] = (8,),
    photometric: int = 1,
    order: str = "<",
    more: Sequence[Entry] = (),
    pages: int = 1,
) -> bytes:
    """A TIFF of (height, width) in one strip; `photometric`: 0 white is 0, 1 black, 2 RGB, 3 palette, 5 CMYK, 8 Lab.

    Its further `pages` are the first one again.
    """
    height, width = size
    entries: list[Entry] = [
        (256, LONG, [width]),
        (257, LONG, [height]),
        (258, SHORT, list(bits)),
        (259, SHORT, [1]),
        (262, SHORT, [photometric]),
        (273, LONG, [8]),
        (277, SHORT, [len(bits)]),
        (278, LONG, [height]),
        (279, LONG, [len(pixels)]),
    ]
    given = {tag for tag, _, _ in more}
    entries = [entry for entry in entries if entry[0] not in given] + list(more)
    at = 8 + len(pixels) + len(pixels) % 2
    length = len(ifd(entries, at, order=order))
    length += length % 2
    data = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, at) + pixels
    data = data.ljust(at, b"\0")
    for page in range(pages):
        following = at + length * (page + 1) if page + 1 < pages else 0
        data += ifd(entries, at + length * page, order=order, following=following).ljust(length, b"\0")
    return data


def exif(kind: int = SHORT, values: Sequence[object] | bytes = (1,), *, order: str = "<") -> bytes:
    """An EXIF block (a TIFF without an image) that holds an orientation of any type."""
    return tiff_head(order) + ifd([(ORIENTATION, kind, values)], 8, order=order)


def with_exif(stored: npt.NDArray[np.uint8], form: str, block: bytes) -> bytes:
    """A lossless file (JPEG: as good as it gets) of RGB pixels [H, W, 3] with an EXIF block; not for TIFFs."""
    settings = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(form, {})
    return encoded(Image.fromarray(stored), form, exif=b"Exif\0\0" + block, **settings)


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of the given chunks."""
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bmp(size: tuple[int, int], rows: bytes, *, bits: int = 24, palette: bytes = b"") -> bytes:
    """A BMP of (height, width), rows from the bottom up, a negative height from the top down."""
    head = struct.pack(
        "<IiiHHIIiiII", 40, size[1], size[0], 1, bits, 0, len(rows), 0, 0, len(palette) // 4, 0
    )
    start = 14 + len(head) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(rows), 0, 0, start) + head + palette + rows
