"""Small files that ask for much: refused or read within little memory and time, measured in a process of its own."""

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from odd_files import LONG, SHORT, bmp, encoded, png, riff, tiff
from PIL import Image

from pipeline.data.rle_text import MAX_PIXELS
from pipeline.data.tiff import MAX_PAGES

MEGABYTES = (
    90  # more than the interpreter with numpy and Pillow; a canvas of 60000x60000 would take 3,400 of gray
)
SECONDS, PATIENCE = 5.0, 60.0
SIDE = 60_000
PIXELS = "expected at most 89478485 pixels, found 60000x60000"
ZEROS = 1 << 28
ANIMATION = struct.pack(">II", 2**31 - 1, 0)
FRAME = struct.pack(">IIIIIHHBB", 0, 1, 1, 0, 0, 1, 1, 0, 0)

PEAK = Path("/proc/self/status")  # what getrusage tells holds the peak of the process that started this one
# Reads a file's header, then all of it; prints what came of it, the growth of the peak memory in MB, and the seconds.
READ = f"""
import json, re, sys, time
from pathlib import Path
from pipeline.data.errors import BadInput
from pipeline.data.images import decode_upright, read_header
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path({str(PEAK)!r}).read_text())[1]) / 1024
data = Path(sys.argv[1]).read_bytes()
before, start = peak(), time.perf_counter()
for read in (read_header, decode_upright):
    try:
        found = read(data, "a")
        told = str(getattr(found, "header", found).frames)
    except BadInput as error:
        told = str(error)
print(json.dumps([told, peak() - before, time.perf_counter() - start]))
"""
pytestmark = pytest.mark.skipif(not PEAK.exists(), reason=f"peak memory is read from {PEAK}")


def packed_zeros() -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(ZEROS >> 20)) + packer.flush()


def text_bomb(kind: bytes, head: bytes, place: str = "before") -> bytes:
    return png((1, 1), [bytes(3)], **{place: [(kind, head + packed_zeros())]})


def jpeg() -> bytes:
    data = bytearray(encoded(Image.new("L", (8, 8)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", SIDE, SIDE)
    return bytes(data)


def webp(side: int) -> bytes:
    canvas = bytes(4) + (side - 1).to_bytes(3, "little") * 2
    return riff((b"VP8X", canvas), (b"VP8L", bytes(20)))


def text_bombs(count: int) -> list[tuple[bytes, bytes]]:
    packed = zlib.compress(bytes(1 << 20), 9)
    return [(b"zTXt", f"{number}".encode() + b"\0\0" + packed) for number in range(count)]


def many_pages(count: int, *, whole: bool) -> bytes:
    """A TIFF with `count` further pages, each a directory like the first one's or one of nothing, 6 bytes."""
    data = tiff((1, 1), b"a", pages=2)
    (first,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, first)
    (second,) = struct.unpack_from("<I", data, first + 2 + 12 * entries)
    page = data[first : first + 2 + 12 * entries] if whole else bytes(2)
    links = (second + (len(page) + 4) * (number + 1) for number in range(count - 1))
    return data[:second] + b"".join(page + struct.pack("<I", link) for link in (*links, 0))


def pages_in_a_ring() -> bytes:
    data = bytearray(tiff((1, 1), b"a", pages=3))
    (first,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, first)
    last = first + 2 * ((len(data) - first) // 3)
    struct.pack_into("<I", data, last + 2 + 12 * entries, first)
    return bytes(data)


def animation(count: int) -> bytes:
    frames = [Image.new("RGB", (4, 4), (n % 256, 0, 0)) for n in range(count)]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)


def apng() -> bytes:
    return png((1, 1), [bytes(3)], before=[(b"acTL", ANIMATION), (b"fcTL", FRAME)])


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "png": (lambda: png((SIDE, SIDE), [b""]), PIXELS),
    "jpeg": (jpeg, PIXELS),
    "bmp": (lambda: bmp((SIDE, SIDE), b""), PIXELS),
    "webp": (lambda: webp(SIDE), PIXELS),
    "webp a little too large": (lambda: webp(12_000), "found 12000x12000"),
    "webp as large as can be": (lambda: webp(1 << 24), "found 16777216x16777216"),
    "tiff": (lambda: tiff((SIDE, SIDE), b""), PIXELS),
    "tiff of packed tiles": (
        lambda: tiff((9, 9), b"", more=[(259, SHORT, [8]), (322, LONG, [SIDE]), (323, LONG, [SIDE])]),
        "expected tiles of at most 89478485 pixels, found 60000x60000",
    ),
    "png text": (lambda: text_bomb(b"zTXt", b"a\0\0"), "data too large"),
    "png international text": (lambda: text_bomb(b"iTXt", b"a\0\1\0\0\0"), "data too large"),
    "png profile": (lambda: text_bomb(b"iCCP", b"a\0\0"), "data too large"),
    "png text behind the pixels": (lambda: text_bomb(b"zTXt", b"a\0\0", "after"), "data too large"),
    "png many texts": (
        lambda: png((1, 1), [bytes(3)], before=text_bombs(300)),
        "Too much memory used in text",
    ),
    "png pixels": (lambda: png((1, 1), [bytes(1 << 28)]), "1"),
    "tiff pages in a ring": (pages_in_a_ring, "3"),
    "tiff with a million pages": (lambda: many_pages(1_000_000, whole=False), str(MAX_PAGES)),
    "tiff with many whole pages": (lambda: many_pages(200_000, whole=True), str(MAX_PAGES)),
    "webp with many frames": (lambda: animation(2000), "2000"),
    "png that declares many frames": (apng, str(2**31 - 1)),
}


def measured(path: Path) -> tuple[str, float, float]:
    command = [sys.executable, "-W", "ignore", "-c", READ, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    found, megabytes, seconds = json.loads(done.stdout)
    return found, megabytes, seconds


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_takes_little(tmp_path: Path, bomb: str) -> None:
    make, told = BOMBS[bomb]
    path = tmp_path / "bomb"
    path.write_bytes(make())
    found, megabytes, seconds = measured(path)
    assert told in found
    assert (megabytes < MEGABYTES, seconds < SECONDS) == (True, True), (megabytes, seconds)


def test_the_measure_can_fail(tmp_path: Path) -> None:
    """An honest photo of 40 million pixels takes more than a bomb may."""
    path = tmp_path / "large"
    path.write_bytes(encoded(Image.new("L", (8000, 5000)), "PNG"))
    found, megabytes, _ = measured(path)
    assert (found, megabytes > MEGABYTES) == ("1", True)


# Validates a set of photos or takes them in; prints the growth of the peak memory in MB.
LOOK = f"""
import re, sys
from pathlib import Path
from validate_fakes import examine, taken_in
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path({str(PEAK)!r}).read_text())[1]) / 1024
path, before = Path(sys.argv[2]), peak()
found = {{"validate": examine, "ingest": taken_in}}[sys.argv[1]](path, path.parent)
assert found == ([], "") or found.errors == [], found
print(peak() - before)
"""
LARGE, PHOTOS = 8000, 6
DECODED = 4 * MAX_PIXELS / 2**20  # Pillow keeps RGB in four bytes


@pytest.mark.parametrize("way", ["validate", "ingest"])
def test_large_photos_do_not_lie_in_memory_together(tmp_path: Path, way: str) -> None:
    """Four threads look at photos: four of these would take a gigabyte."""
    photo = encoded(Image.new("RGB", (LARGE, LARGE)), "PNG", compress_level=1)
    size = {"width": LARGE, "height": LARGE}
    images = [{"id": n, "file_name": f"{n}.png"} | size for n in range(PHOTOS)]
    for image in images:
        (tmp_path / str(image["file_name"])).write_bytes(photo)
    path = tmp_path / "set.json"
    path.write_text(json.dumps({"images": images, "categories": [], "annotations": []}))
    command = [sys.executable, "-W", "ignore", "-c", LOOK, way, str(path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=PATIENCE, env=environment
    )
    assert float(done.stdout) < DECODED + MEGABYTES
