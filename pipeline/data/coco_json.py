"""Reading a COCO file piece by piece: the entries of its sections with their place in the file, in constant memory.

The file is scanned as Latin-1, where one character is one byte, so an entry's offset is exact and can be read again
later; an entry that holds other than ASCII is parsed once more as UTF-8. Syntax errors name line and column.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.data.errors import BadInput

_CHUNK = 1 << 22
_MAX_ENTRY = 1 << 26
_BOM = b"\xef\xbb\xbf"
_SPACE = " \t\n\r"
_TOKEN = 16  # a cut-off escape, literal or number shows within so many characters of the end


@dataclass(frozen=True, slots=True)
class Entry:
    """One element of a section: its position there, its bytes in the file, its parsed value."""

    section: str
    index: int
    offset: int
    length: int
    value: object


def entries(path: Path, sections: frozenset[str]) -> Iterator[Entry]:
    """The elements of the named top-level arrays, in file order; other sections are parsed and skipped.

    BadInput, with line and column, for anything that is not one JSON object with arrays under these names.
    """
    try:
        with path.open("rb") as handle:
            yield from _Scanner(handle, path).entries(sections)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}") from error


def read_entry(data: bytes, where: str) -> object:
    """The value of one entry's bytes."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: the file changed while it was read: {error}") from error


class _Scanner:
    """A window on the file: `text` holds what is loaded, from byte `base` on; `at` is the reading position in it."""

    def __init__(self, handle: BinaryIO, path: Path) -> None:
        self.handle, self.path = handle, path
        self.text, self.base, self.at, self.ended = "", 0, 0, False
        self.decoder = json.JSONDecoder()
        while len(self.text) < len(_BOM) and not self.ended:
            self._fill()
        if self.text.startswith(_BOM.decode("latin-1")):
            self.at = len(_BOM)

    def entries(self, sections: frozenset[str]) -> Iterator[Entry]:
        if self._peek() == "[":
            raise BadInput(
                f"{self.path}: expected a COCO dataset (an object), found a list, as results files have"
            )
        self._take("{", "a COCO dataset starts with '{'")
        seen: set[str] = set()
        more = self._peek() != "}"
        while more:
            name = self._value()
            if not isinstance(name, str):
                raise self._error(self.at, "a section name must be text")
            self._take(":", "expected ':' after a section name")
            if name in sections:
                if name in seen:
                    raise self._error(self.at, f"section {name!r} occurs twice")
                seen.add(name)
                yield from self._elements(name)
            else:
                self._value()
            more = self._peek() == ","
            self.at += more
        self._take("}", "expected ',' or '}' after a section")
        if self._peek():
            raise self._error(self.at, "expected the end of the file after the dataset")

    def _elements(self, section: str) -> Iterator[Entry]:
        self._take("[", f"section {section!r} must be a list")
        index, more = 0, self._peek() != "]"
        while more:
            self._peek()
            offset = self.base + self.at
            value = self._value()
            yield Entry(section, index, offset, self.base + self.at - offset, value)
            index += 1
            more = self._peek() == ","
            self.at += more
        self._take("]", f"expected ',' or ']' after an element of {section!r}")

    def _fill(self) -> None:
        """Drop what was read and load as much again as is left, at least a chunk."""
        self.base += self.at
        rest = self.text[self.at :]
        data = self.handle.read(max(_CHUNK, len(rest)))
        self.text, self.at, self.ended = rest + data.decode("latin-1"), 0, not data

    def _peek(self) -> str:
        """The next character that is not white space, '' at the end of the file."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self._fill()

    def _take(self, character: str, problem: str) -> None:
        if self._peek() != character:
            raise self._error(self.at, problem)
        self.at += 1

    def _value(self) -> object:
        """The JSON value at the reading position, which moves behind it."""
        self._peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - _TOKEN
                if not cut or self.ended:
                    raise self._error(error.pos, error.msg) from None
            except RecursionError:
                raise self._error(self.at, "nested too deeply") from None
            except ValueError as error:  # an integer of thousands of digits
                raise self._error(self.at, str(error)) from None
            else:
                # A number near the end of the window may go on behind it ("1" of "1.5", even "1" of "1.").
                if self.ended or isinstance(value, str | list | dict) or end + _TOKEN < len(self.text):
                    return self._finish(value, end)
            if len(self.text) - self.at > _MAX_ENTRY:
                raise self._error(self.at, f"an entry is longer than {_MAX_ENTRY} bytes or never ends")
            self._fill()

    def _finish(self, value: object, end: int) -> object:
        source, start = self.text[self.at : end], self.at
        self.at = end
        if source.isascii():
            return value
        try:
            return json.loads(source.encode("latin-1").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise self._error(start + error.start, "not valid UTF-8") from None

    def _error(self, position: int, problem: str) -> BadInput:
        """The error at a place of the window, with its line and column (from 1, in bytes)."""
        offset, line, column = self.base + position, 1, 1
        self.handle.seek(0)
        left = offset
        while left and (data := self.handle.read(min(_CHUNK, left))):
            left -= len(data)
            line += data.count(b"\n")
            newline = data.rfind(b"\n")
            column = column + len(data) if newline < 0 else len(data) - newline
        return BadInput(f"{self.path}: not a COCO dataset: line {line}, column {column}: {problem}")
