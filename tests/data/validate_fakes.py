"""A small valid set with every form of label, ways to break it, and a watched run of `validate` on the pieces.

python tests/data/validate_fakes.py EXAMPLES SEED      (mutated bytes, in a process of its own)
"""

import faulthandler
import json
import random
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np
from PIL import Image

from pipeline.data import masks
from pipeline.data.arrow import to_table
from pipeline.data.errors import BadInput, printable
from pipeline.data.records import WeakKind
from pipeline.data.weak import MaskShare
from pipeline.stages.intake import Intake, Setting
from pipeline.stages.sources import Split
from pipeline.validate import validate

WIDTH, HEIGHT = 20, 16
SQUARE = [2, 2, 8, 2, 8, 8, 2, 8]
SECONDS = 60.0  # more than any of these files may take, on a busy machine too
_TOKENS = (
    *(b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"9" * 30, b"9" * 5000, b"1.5", b"null", b"true", b'"x"'),
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b",",
        b":",
        b"\\",
        b"\\ud800",
        b"\\u202e",
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
    ),
    *(
        b"[[[[" * 300,
        b'{"a":' * 200,
        b'"id":1,',
        b'"counts":"~"',
        b'"size":[16,20]',
        b'"segmentation":[[0,0,9,0]],',
        b'"%s":NaN,' % (b"a" * 3000),
    ),
)
_VALUES = (
    b"NaN",
    b"-1",
    b"0",
    b"1",
    b"1e999",
    b"9" * 30,
    b"true",
    b"null",
    b'""',
    b"[]",
    b"{}",
    b'"\\ud800"',
    b"2.5",
)
_VALUE = re.compile(rb'-?\d+(?:\.\d+)?|"[^"]*"')


def square_rle(left: int = 2, top: int = 2) -> dict[str, object]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + 6, left : left + 6] = True
    rle = masks.encode(mask)
    return {"size": list(rle.size), "counts": rle.counts}


def listed_rle(left: int = 2, top: int = 2) -> dict[str, object]:
    rle = masks.RLE((HEIGHT, WIDTH), str(square_rle(left, top)["counts"]))
    return {"size": [HEIGHT, WIDTH], "counts": masks.runs_of(rle).tolist()}


def valid_set() -> dict[str, object]:
    """Three images; annotations[i] has id i + 1: polygon, parts, both forms of RLE, of crowd; box, points, phrase."""
    shapes: list[dict[str, object]] = [
        {"image_id": 1, "segmentation": [SQUARE], "bbox": [2, 2, 6, 6], "area": 36},
        {"image_id": 1, "segmentation": [SQUARE, [10, 2, 14, 2, 14, 6]], "bbox": [2, 2, 12, 6]},
        {"image_id": 1, "segmentation": square_rle(10, 9), "bbox": [10, 9, 6, 6], "area": 36},
        {"image_id": 2, "segmentation": listed_rle(), "bbox": [2, 2, 6, 6]},
        {"image_id": 2, "segmentation": square_rle(9, 9), "iscrowd": 1},
        {"image_id": 2, "segmentation": listed_rle(9, 3), "iscrowd": 1},
        {"image_id": 3, "bbox": [3, 3, 9, 9]},
        {"image_id": 3, "point_coords": [[4.5, 5.5], [1, 1]], "point_labels": [1, 0]},
        {"image_id": 3, "phrase": "the small one", "bbox": [1, 1, 5, 5]},
    ]
    annotations = [
        {"id": number, "category_id": 3, "iscrowd": 0} | shape for number, shape in enumerate(shapes, start=1)
    ]
    del annotations[-1]["category_id"]
    images: list[dict[str, object]] = [
        {"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in (1, 2, 3)
    ]
    images[1] |= {"tags": [3], "instructions": ["find it"], "pseudo": {"ignore": [square_rle()]}}
    return {
        "info": {"description": "a set", "licenses": [{"id": 1}]},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": 3, "name": "cat"},
            {"id": 5, "name": "chien de berger é", "supercategory": "x"},
        ],
    }


def write_photos(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in (1, 2, 3):
        Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


@dataclass
class Seen:
    """What a run of `validate` showed."""

    code: int = -1
    lines: list[str] = field(default_factory=list)
    traceback: str = ""

    def line(self, text: str) -> None:
        self.lines.append(printable(text))

    def state(self, text: str) -> None:
        """Of no interest here."""

    def trouble(self, text: str) -> None:
        self.traceback += text

    @property
    def errors(self) -> list[str]:
        return sorted(line.removeprefix("error ") for line in self.lines if line.startswith("error "))


class Hang(BaseException):
    """A run took longer than anything may."""


@contextmanager
def watched() -> Iterator[None]:
    """Hang after SECONDS of CPU; a dump and the end of the process when native code, or waiting, is what hangs."""

    def ring(_signum: int, _frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    faulthandler.dump_traceback_later(30 * SECONDS, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def examine(path: Path, images: Path | None) -> Seen:
    """Run `validate` and hold what must be true of any file: a code of 0, 1, 2 that fits the lines, each a line."""
    seen = Seen()
    with watched():
        seen.code = validate(path, images, seen)
    assert seen.code in (0, 1, 2), seen.traceback
    kinds = [line.split(" ")[0] for line in seen.lines[:-1]]
    assert set(kinds) <= {"error", "warning"}, seen.lines
    assert seen.code == (2 if "error" in kinds else 1 if kinds else 0), seen.lines
    assert printable(str(path)) in seen.lines[-1]
    for line in seen.lines:
        assert line.isprintable()
        assert len(line) < 1000, line
    return seen


def taken_in(path: Path, images: Path) -> tuple[list[str], str]:
    """(what a run's intake leaves out and why, why it stops or ""), in the words of `validate`."""
    setting = Setting(WeakKind.NONE, MaskShare(0.0), seed=0, semantic=False)
    reasons: list[str] = []
    try:
        with Intake([Split("train", path, images)], setting) as intake:
            count = 0
            for visible, full in intake.records():
                assert to_table([visible] if full is None else [visible, full])  # it can be kept
                count += 1
            reasons = [reason + _name(entry) for entry, reason in intake.bad_images.items()]
            reasons += intake.bad_annotations.values()
    except BadInput as error:
        return [], str(error)
    place = re.compile(r"^(\w+\[\d+\](?: \(id -?\d+\))?): ")
    return sorted(place.sub(r"\1 ", printable(reason)) for reason in reasons), "" if count else "no image"


def _name(entry: str) -> str:
    """What `validate` adds of `train image 3 (a.png)`: the name, if it is a photo that cannot be used."""
    name = entry.partition(" (")[2].removesuffix(")")
    return f" ({name if len(name) <= 200 else f'{name[:200]}...'})" if name else ""


def mutated(data: bytes, dice: random.Random) -> bytes:
    """The same bytes with one to four changes: flips, cuts, copies, tokens put in, values for one another."""
    for _ in range(dice.randint(1, 4)):
        if dice.random() < 0.6 and len(values := list(_VALUE.finditer(data))) > 1:
            at, other = dice.sample(values, 2)
            value = other[0] if dice.random() < 0.5 else dice.choice(_VALUES)
            data = data[: at.start()] + value + data[at.end() :]
            continue
        start, end = sorted((dice.randrange(len(data) + 1), dice.randrange(len(data) + 1)))
        end = min(end, start + dice.choice((1, 2, 8, 40, 400)))
        piece = data[start:end]
        other = dice.randrange(len(data) + 1)
        data = dice.choice(
            (
                data[:start]
                + bytes(b ^ (1 << dice.randrange(8)) for b in piece[:2])
                + data[start + len(piece[:2]) :],
                data[:start] + data[end:],
                data[:end] + piece + data[end:],
                data[:other] + piece + data[other:],
                data[:start] + dice.choice(_TOKENS) + data[end:],
                data[:start] + dice.choice(_TOKENS) + data[start:],
                data[:start] + str(dice.choice((-(2**31), 2**31, 2**63, 10**18, 0, 3))).encode() + data[end:],
            )
        )
    return data[: dice.randrange(len(data) + 1)] if dice.random() < 0.05 else data


Content = dict[str, object]
Change = Callable[[Content], None]
GOOD = json.dumps(valid_set()).encode()


def check(folder: Path, content: Content | bytes, images: Path | None) -> Seen:
    path = folder / "set.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return examine(path, images)


def entry(section: str, index: int, **fields: object) -> Change:
    """Give an entry these fields."""

    def change(content: Content) -> None:
        content[section][index] |= fields  # type: ignore[index]

    return change


def image(index: int = 0, **fields: object) -> Change:
    return entry("images", index, **fields)


def thing(index: int = 0, **fields: object) -> Change:
    return entry("annotations", index, **fields)


def named(*names: str) -> Change:
    """Add classes from id 10 on."""

    def change(content: Content) -> None:
        content["categories"] += [{"id": 10 + n, "name": name} for n, name in enumerate(names)]  # type: ignore[operator]

    return change


def more(section: str, *values: object) -> Change:
    def change(content: Content) -> None:
        content[section] = [*content[section], *values]  # type: ignore[misc]

    return change


def everything_is_there(content: Content) -> None:
    """Nothing is changed."""


def main(examples: int, seed: int) -> None:
    """Examine so many mutated files; the first that does harm ends the process, its bytes are kept and named."""
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(Path(folder) / "images")
        path = Path(folder) / "set.json"
        texts = [
            json.dumps(valid_set()).encode(),
            json.dumps(valid_set(), indent=1, ensure_ascii=False).encode(),
        ]
        codes = [0, 0, 0]
        for _ in range(examples):
            path.write_bytes(mutated(dice.choice(texts), dice))
            try:
                codes[examine(path, photos).code] += 1
            except BaseException:
                kept = Path(tempfile.gettempdir()) / "validate-harmful.json"
                kept.write_bytes(path.read_bytes())
                sys.stderr.write(f"harmful: {kept}\n")
                raise
    sys.stdout.write(f"codes 0, 1, 2: {codes}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
