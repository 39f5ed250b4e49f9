"""What a file is by its first bytes, whatever its name says: an image that is read, or what else in plain words."""

import re
from typing import NamedTuple

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
ALLOWED = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
HEAD = 4096  # bytes looked at
LFS = "a git-lfs pointer, not the image (run `git lfs pull`)"
_QUOTED = 40  # characters of a text that are quoted


class _Magic(NamedTuple):
    """Bytes at an offset, and what they mean; `image` says that it is a picture of a kind that is not read."""

    at: int
    magic: bytes
    what: str
    image: bool = True


_READ = (
    _Magic(0, b"\xff\xd8\xff", "JPEG"),
    _Magic(0, b"\x89PNG", "PNG"),
    _Magic(8, b"WEBP", "WEBP"),
    _Magic(0, b"II*\0", "TIFF"),
    _Magic(0, b"MM\0*", "TIFF"),
    _Magic(0, b"II+\0", "TIFF"),  # BigTIFF
    _Magic(0, b"BM", "BMP"),
)
_OTHERS = (
    _Magic(0, b"II*\0\x10\0\0\0CR", "a camera raw file (CR2)"),
    _Magic(0, b"MM\0+", "a big-endian BigTIFF"),
    _Magic(0, b"GIF8", "a GIF"),
    _Magic(0, b"\0\0\0\x0cJXL ", "a JPEG XL"),
    _Magic(0, b"\xff\x0a", "a JPEG XL"),
    _Magic(0, b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    _Magic(0, b"\xff\x4f\xff\x51", "a JPEG 2000"),
    _Magic(0, b"8BPS", "a Photoshop file (PSD)"),
    _Magic(0, b"gimp xcf", "a GIMP file (XCF)"),
    _Magic(0, b"v/1\x01", "an OpenEXR file"),
    _Magic(0, b"#?RADIANCE", "a Radiance HDR file"),
    _Magic(0, b"FUJIFILMCCD-RAW", "a camera raw file (RAF)"),
    _Magic(0, b"IIRO", "a camera raw file (ORF)"),
    _Magic(0, b"IIU\0", "a camera raw file (RW2)"),
    _Magic(0, b"\0\0\1\0", "an icon file (ICO)"),
    _Magic(0, b"qoif", "a QOI"),
    _Magic(128, b"DICM", "a DICOM file"),
    _Magic(0, b"SIMPLE  =", "a FITS file"),
    _Magic(0, b"%PDF-", "a PDF", image=False),
    _Magic(0, b"%!PS", "a PostScript file", image=False),
    _Magic(0, b"PK\3\4", "a ZIP archive", image=False),
    _Magic(0, b"\x1f\x8b", "a gzip archive", image=False),
    _Magic(0, b"\x93NUMPY", "a NumPy array", image=False),
    _Magic(0, b"\x89HDF", "an HDF5 file", image=False),
    _Magic(0, b"\0\5\x16\7", "a macOS resource file (AppleDouble), not the image", image=False),
)
_BRANDS = {  # of files that are boxes, as MP4 is
    b"avif": "an AVIF",
    b"avis": "an AVIF",
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"), "a HEIC"),
    b"crx ": "a camera raw file (CR3)",
}
_HTML = re.compile(r"<(!doctype html|html|head|body)\b", re.IGNORECASE)
_SVG = re.compile(r"<svg\b", re.IGNORECASE)
_PNM = re.compile(rb"P[1-7]\s")


def image_kind(data: bytes) -> str | None:
    """Which of FORMATS the bytes claim to be, None for anything else."""
    kind = next((m.what for m in _READ if data.startswith(m.magic, m.at)), None)
    # Text may start with BM; a BMP goes on with a small number there.
    unlike = (kind == "WEBP" and data[:4] != b"RIFF") or (kind == "BMP" and any(data[16:18]))
    return None if unlike or _other(data) is not None else kind


def is_picture(data: bytes) -> bool:
    """Whether the bytes seem to be a picture of any kind, read or not."""
    other = _other(data)
    return image_kind(data) is not None or (other is not None and other.image)


def describe(data: bytes) -> str:
    """What bytes that are none of FORMATS seem to be, with an article."""
    if not data:
        return "an empty file"
    other = _other(data)
    if other is not None:
        return other.what
    if not data.strip(b"\0"):
        return "nothing but zero bytes"
    text = _text(data)
    return f"a file that starts with {data[:12]!r}" if text is None else _describe_text(text)


def _other(data: bytes) -> _Magic | None:
    for magic in _OTHERS:
        if data.startswith(magic.magic, magic.at):
            return magic
    if data[4:8] == b"ftyp":
        brands = (data[at : at + 4] for at in (8, *range(16, 64, 4)))
        known = next((_BRANDS[brand] for brand in brands if brand in _BRANDS), None)
        return _Magic(4, b"ftyp", known or "a video (MP4 or alike)", image=known is not None)
    if _PNM.match(data):
        return _Magic(0, data[:2], "a PNM (PBM, PGM or PPM)")
    text = _text(data) if data[:HEAD].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" else None
    if text is not None and _SVG.search(text) and not _HTML.search(text):
        return _Magic(0, b"<", "an SVG")
    return None


def _describe_text(text: str) -> str:
    if text.startswith("version https://git-lfs.github.com/spec/"):
        return LFS
    if text.startswith("<") and _HTML.search(text):
        return "an HTML page"
    if text.startswith("<?xml"):
        return "an XML file"
    if "/annex/objects/" in text[:200]:
        return "a git-annex pointer, not the image (run `git annex get`)"
    line = next(iter(text.splitlines()), "")
    return f"text ({line[:_QUOTED]!r}{'...' if len(line) > _QUOTED else ''})"


def _text(data: bytes) -> str | None:
    """The beginning of what can be read as text, None if it cannot."""
    head = data[:HEAD]
    try:
        utf16 = head[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = head[: len(head) // 2 * 2].decode("utf-16") if utf16 else head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(data) <= HEAD or error.start < HEAD - 3:  # else a character is cut in two
            return None
        text = head[: error.start].decode("utf-8-sig")
    readable = all(c.isprintable() or c in "\t\n\r\f\x1b" for c in text)
    return text.strip() if readable and text.strip() else None
