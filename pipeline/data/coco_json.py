"""Reading a COCO file piece by piece: the entries of its sections with their place in the file, in constant memory."""

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.errors import BadInput
from pipeline.data.image_kinds import HEAD, describe, image_kind
from pipeline.data.json_window import JsonWindow

_ENCODINGS = (  # by how a file begins; UTF-32 first, as UTF-16's mark is half of its own
    ("UTF-32", (b"\xff\xfe\0\0", b"\0\0\xfe\xff", b"{\0\0\0", b"\0\0\0{")),
    ("UTF-16", (b"\xff\xfe", b"\xfe\xff", b"{\0", b"\0{")),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One element of a section: its position there, its bytes in the file, its parsed value.

    `remarks`: (key or "", problem) of what the parser takes but nobody means.
    """

    section: str
    index: int
    offset: int
    length: int
    value: object
    remarks: tuple[tuple[str, str], ...] = ()


def entries(path: Path, sections: frozenset[str], *, remarks: bool = False) -> Iterator[Entry]:
    """The elements of the named top-level arrays, in file order; other sections are parsed and skipped.

    With `remarks` they carry theirs, which takes longer, and a skipped section that has some is told as one entry
    without a value. BadInput, with line and column, for anything that is not one JSON object with arrays under these
    names.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # before open: opening a FIFO would wait for ever
            found = "a folder" if stat.S_ISDIR(mode) else "a special file"
            raise BadInput(f"{path}: cannot be read: expected a file, found {found}")
        with path.open("rb") as handle:
            head = handle.read(HEAD + 1)  # more than is looked at, or a character cut in two looks broken
            handle.seek(0)
            window = JsonWindow(handle, path, remarks=remarks)
            _refuse_others(window, head)
            yield from _sections(window, sections)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}") from error


def read_entry(data: bytes, where: str) -> object:
    """The value of one entry's bytes."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: the file changed while it was read: {error}") from error


def _refuse_others(window: JsonWindow, head: bytes) -> None:
    """BadInput for a file that is no dataset, with what it looks like by its first bytes."""
    for name, marks in _ENCODINGS:
        if head.startswith(marks):
            raise BadInput(f"{window.path}: expected UTF-8, found {name}; save the file as UTF-8")
    if window.peek() == "[":
        window.at += 1
        first = window.value() if window.peek() not in ("]", "") else None
        results = isinstance(first, dict) and "image_id" in first
        found = "a list of results, which say nothing of images and classes" if results else "a list"
    elif window.peek() != "{":
        found = _other(head)
    else:
        return
    raise BadInput(f"{window.path}: expected a COCO dataset (an object), found {found}")


def _other(head: bytes) -> str:
    """What a file is that does not begin as JSON's lists and objects do."""
    if head and not head.strip():
        return "nothing but white space"
    kind = image_kind(head)
    return describe(head).replace(", not the image", "") if kind is None else f"a {kind}"


def _sections(window: JsonWindow, sections: frozenset[str]) -> Iterator[Entry]:
    window.take("{", "a COCO dataset starts with '{'")
    seen: set[str] = set()
    more = window.peek() != "}"
    while more:
        name = window.key("a section name")
        if name in sections:
            if name in seen:
                raise window.error(window.at, f"section {name!r} occurs twice")
            seen.add(name)
            yield from _elements(window, name)
        elif remarks := window.skip():
            yield Entry(name, 0, window.offset, 0, None, tuple(remarks.values()))
        more = window.more()
    window.take("}", "expected ',' or '}' after a section")
    if window.peek():
        raise window.unexpected(window.at, "expected the end of the file after the dataset")


def _elements(window: JsonWindow, section: str) -> Iterator[Entry]:
    window.take("[", f"section {section!r} must be a list")
    index, more = 0, window.peek() != "]"
    while more:
        window.peek()
        offset = window.offset
        value = window.value()
        remarks = tuple(window.remarks.values()) if window.remarks else ()
        yield Entry(section, index, offset, window.offset - offset, value, remarks)
        index += 1
        more = window.more()
    window.take("]", f"expected ',' or ']' after an element of {section!r}")
