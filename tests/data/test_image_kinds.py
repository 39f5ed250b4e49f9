"""What a file is by its bytes, in words a person can act on."""

import pytest
from odd_files import bmp, encoded, png, tiff
from PIL import Image

from pipeline.data.errors import BadInput
from pipeline.data.image_kinds import ALLOWED, describe, image_kind, is_picture
from pipeline.data.images import decode_upright, read_header

RED = Image.new("RGB", (8, 8), (255, 0, 0))
PNG = encoded(RED, "PNG")
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 132735\n"
SVG = b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg" width="5"/>'
BIG_TIFF = b"II+\0\10\0\0\0" + bytes(16)


@pytest.mark.parametrize(
    ("data", "found", "picture"),
    [
        (b"", "an empty file", False),
        (bytes(500), "nothing but zero bytes", False),
        (LFS, "a git-lfs pointer, not the image (run `git lfs pull`)", False),
        (
            b"/annex/objects/SHA256E-s9--ab.jpg\n",
            "a git-annex pointer, not the image (run `git annex get`)",
            False,
        ),
        (b"../.git/annex/objects/SHA256E-s9--ab.jpg\n", "a git-annex pointer", False),
        (b"<html><body>404</body></html>", "an HTML page", False),
        (b"\xef\xbb\xbf\r\n  <!DOCTYPE HTML PUBLIC '-//IETF'>", "an HTML page", False),
        ("<!doctype html><p>né".encode("utf-16"), "an HTML page", False),
        (b"<html><svg/></html>", "an HTML page", False),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "an XML file", False),
        (b'{"error": "no such key"}', 'text (\'{"error": "no such key"}\')', False),
        (b"Not found\nsecond line", "text ('Not found')", False),
        (
            b"BMW cars are made in Munich, in Bavaria",
            "text ('BMW cars are made in Munich, in Bavaria')",
            False,
        ),
        (("é" * 3000).encode()[:-1], f"text ('{'é' * 40}'...)", False),  # cut within a character
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "a PDF", False),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "a PostScript file", False),
        (b"PK\3\4rest", "a ZIP archive", False),
        (b"\x1f\x8b\x08rest", "a gzip archive", False),
        (b"\x93NUMPY\1\0", "a NumPy array", False),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "a macOS resource file (AppleDouble), not the image", False),
        (b"\0\0\0\x18ftypisom\0\0\2\0isommp41", "a video (MP4 or alike)", False),
        (b"\x01\x02\x03\xfe\xffrest", "a file that starts with b'\\x01\\x02\\x03\\xfe\\xffrest'", False),
        (b"RIFF\x24\0\0\0WAVEfmt ", "a file that starts with", False),
        (encoded(RED, "GIF"), "a GIF", True),
        (encoded(RED, "AVIF"), "an AVIF", True),
        (encoded(RED, "JPEG2000"), "a JPEG 2000", True),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC", True),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "a HEIC", True),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a camera raw file (CR3)", True),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL", True),
        (b"\xff\x0a\xfa\x0f", "a JPEG XL", True),
        (b"8BPS\0\1", "a Photoshop file (PSD)", True),
        (SVG, "an SVG", True),
        (b"  <svg/>", "an SVG", True),
        (encoded(RED, "PPM"), "a PNM (PBM, PGM or PPM)", True),
        (encoded(RED, "ICO"), "an icon file (ICO)", True),
        (b"II*\0\x10\0\0\0CR\2\0", "a camera raw file (CR2)", True),
        (bytes(128) + b"DICM" + bytes(9), "a DICOM file", True),
        (b"MM\0+\0\10\0\0", "a big-endian BigTIFF", True),
    ],
)
def test_what_is_not_read_is_named(data: bytes, found: str, picture: bool) -> None:
    assert image_kind(data) is None
    assert describe(data).startswith(found)
    assert is_picture(data) is picture
    for read in (read_header, decode_upright):
        with pytest.raises(BadInput) as caught:
            read(data, "dir/odd\nname.jpg")
        assert str(caught.value).startswith(f"image dir/odd\\nname.jpg: expected {ALLOWED}, found {found}")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (encoded(RED, "JPEG"), "JPEG"),
        (PNG, "PNG"),
        (encoded(RED, "WEBP"), "WEBP"),
        (encoded(RED, "TIFF"), "TIFF"),
        (tiff((1, 1), b"a", order=">"), "TIFF"),
        (BIG_TIFF, "TIFF"),
        (bmp((1, 1), bytes(4)), "BMP"),
        (PNG[:4], "PNG"),
        (b"BM", "BMP"),
    ],
)
def test_what_is_read_goes_by_its_bytes(data: bytes, kind: str) -> None:
    assert image_kind(data) == kind
    assert is_picture(data)


WHOLE = {form: encoded(RED, form) for form in ("JPEG", "PNG", "WEBP", "TIFF", "BMP")}
LZW = encoded(RED, "TIFF", compression="tiff_lzw")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's
@pytest.mark.parametrize("form", [*WHOLE, "LZW"])
def test_a_truncated_file_is_refused_wherever_it_ends(form: str) -> None:
    """But for the checksum of a PNG's last chunk, which holds nothing."""
    whole = LZW if form == "LZW" else WHOLE[form]
    kind = "TIFF" if form == "LZW" else form
    cuts = sorted({*range(1, len(whole), max(1, len(whole) // 60)), len(whole) - 1})
    cuts = [cut for cut in cuts if form != "PNG" or cut < len(whole) - 4]
    for cut in cuts:
        with pytest.raises(BadInput) as caught:
            decode_upright(whole[:cut], "a")
        if cut >= 18:
            assert kind in str(caught.value), f"{cut}: {caught.value}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PNG[:20], "expected a whole PNG, found a broken one: it ends too early"),
        (PNG[:10], "expected a whole PNG, found a broken one: its header is cut off or damaged"),
        (PNG[:-12], "expected a whole PNG, found a broken one: truncated PNG file"),
        (WHOLE["JPEG"][:-90], "expected a whole JPEG, found a broken one: "),
        (WHOLE["WEBP"][:-9], "expected a whole WEBP, found a broken one: its pixels cannot be decoded"),
        (LZW[:60], "expected a whole TIFF, found "),
        (WHOLE["BMP"][:100], "expected a whole BMP, found a broken one: image file is truncated"),
        (PNG.replace(b"\r\n", b"\n"), "expected a whole PNG, found a broken one: not a PNG file"),
        (bmp((0, 4), b""), "expected a whole BMP, found a broken one: it does not say its size"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's
def test_how_a_broken_file_is_told(data: bytes, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        decode_upright(data, "a.png")
    assert str(caught.value).startswith(f"image a.png: {message}")


def test_a_png_with_one_wrong_bit_is_refused() -> None:
    """Pillow itself checks neither the checksum of pixels nor that of the stream they are packed in."""
    good = png((2, 2), [bytes(range(6)), bytes(range(6, 12))], after=[(b"tEXt", b"a\0b")])
    for place in range(8, len(good) - 12):  # the last chunk holds nothing
        bad = bytearray(good)
        bad[place] ^= 4
        with pytest.raises(BadInput):
            decode_upright(bytes(bad), "a")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's
def test_nothing_but_bad_input_comes_of_damage() -> None:
    """A steady crowd of files with a few bytes changed near their beginning, where the sizes and tags are."""
    import random

    dice = random.Random(4)
    frames = [RED, Image.new("RGB", (8, 8))]
    crowd = [*WHOLE.values(), LZW, encoded(RED, "PNG", save_all=True, append_images=frames)]
    crowd += [encoded(RED, "WEBP", save_all=True, append_images=frames), tiff((4, 4), bytes(16), pages=3)]
    crowd += [
        encoded(RED.convert("CMYK"), "JPEG"),
        encoded(RED.convert("P"), "PNG"),
        encoded(RED, "MPO", save_all=True),
    ]
    told = []
    for number in range(1200):
        data = bytearray(crowd[number % len(crowd)])
        for _ in range(dice.randint(1, 3)):
            data[dice.randrange(min(len(data), 300))] = dice.choice((0, 1, 127, 255, dice.randrange(256)))
        try:
            decode_upright(bytes(data), "a")
        except BadInput as error:
            told.append(str(error))
    assert all(message.startswith("image a: ") for message in told)
    assert 300 < len(told) < 1200
