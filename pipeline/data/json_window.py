"""A JSON file of any length, read value by value through a window on it; syntax errors name line and column.

The file is scanned as Latin-1, where one character is one byte, so positions are exact; a value that holds other than
ASCII is parsed once more as UTF-8.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import BinaryIO

from pipeline.data.errors import BadInput, show

CHUNK = 1 << 22
MAX_VALUE = 1 << 25  # parsed, the worst 32 MiB ("[{},{},...") take 0.8 GB
_MAX_DEPTH = 100  # of one value, well within the parser's own limit, which depends on its caller's depth
_PIECES = 8  # levels of an unread value that are taken apart when they are long
_BOM = b"\xef\xbb\xbf"
_SPACE = " \t\n\r"
_SPACES = re.compile(f"[{_SPACE}]*")
_SHOWN = 20  # bytes of what is found
_WORD = re.compile(r"(?:null|true|false|-?[0-9][0-9.]*)(?![\w.])")
_CLOSING = {"{": "}", "[": "]"}
_TOKEN = 16  # a cut-off escape, literal or number shows within so many characters of the end

Remarks = dict[str, tuple[str, str]]  # a kind of oddity -> the key it was found at or "", the problem

_MOST = 10_000  # repetitions at a time: the matcher keeps some 100 bytes of each
_LETTER = r'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))'
_TEXT = f'"{_LETTER}{{0,{_MOST}}}+"'
_NUMBER = r"-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?+[0-9]++)?+"
_GAP = f"[{_SPACE}]*+"
_KEY = f"{_TEXT}{_GAP}:{_GAP}"
_FLAT = 3  # levels of an element that is not parsed


def _flat(levels: int) -> str:
    """The pattern of a value of at most so many lists and objects within each other; it never goes back."""
    kinds = [_TEXT, _NUMBER, "true", "false", "null", "NaN", "-?+Infinity"]
    for opening, closing in _CLOSING.items() if levels else ():
        item = f"{_KEY if opening == '{' else ''}{_flat(levels - 1)}{_GAP}"
        kinds.append(
            rf"\{opening}{_GAP}(?:{item}(?:,{_GAP}(?!\{closing})|(?=\{closing}))){{0,{_MOST}}}+\{closing}"
        )
    return f"(?:{'|'.join(kinds)})"


_LETTERS = re.compile(f"{_LETTER}{{0,{_MOST}}}+")
_MANY = {  # by opening bracket, elements with a comma behind each
    opening: re.compile(f"(?:{_GAP}{_KEY if opening == '{' else ''}{_flat(_FLAT)}{_GAP},){{0,{_MOST}}}+")
    for opening in _CLOSING
}


class _TooLong(BadInput):
    """A value did not end within the length that was allowed."""


class JsonWindow:
    """`text` holds what is loaded, from byte `base` on; `at` is the reading position in it.

    `remarks`: what the parser takes but nobody means (a key twice, NaN) in the value read last, if that was asked for.
    """

    def __init__(self, handle: BinaryIO, path: Path, *, remarks: bool) -> None:
        self.handle, self.path = handle, path
        self.text, self.base, self.at, self.ended = "", 0, 0, False
        self.remarks: Remarks = {}  # of the value read last, one of a kind
        self.decoder = json.JSONDecoder()
        if remarks:
            self.decoder = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=self._constant)
        while len(self.text) < len(_BOM) and not self.ended:
            self._fill()
        if self.text.startswith(_BOM.decode("latin-1")):
            self.at = len(_BOM)

    @property
    def offset(self) -> int:
        """The reading position in the file, in bytes."""
        return self.base + self.at

    def peek(self) -> str:
        """The next character that is not white space, '' at the end of the file."""
        while True:
            character = self.text[self.at : self.at + 1]
            if character and character not in _SPACE:
                return character
            if not character and self.ended:
                return ""
            if character:
                self.at = _end(_SPACES, self.text, self.at)
            else:
                self._fill()

    def take(self, character: str, problem: str) -> None:
        if self.peek() != character:
            raise self.unexpected(self.at, problem)
        self.at += 1

    def more(self) -> bool:
        """Whether a comma follows, which is taken."""
        more = self.peek() == ","
        self.at += more
        return more

    def key(self, what: str) -> str:
        name = self.value()
        if not isinstance(name, str):
            raise self.error(self.at, f"{what} must be text")
        self.take(":", f"expected ':' after {what}")
        return name

    def value(self, limit: int = 0) -> object:
        """The JSON value at the reading position, which moves behind it; _TooLong beyond the limit (or MAX_VALUE)."""
        self.peek()
        limit = limit or MAX_VALUE
        while True:
            self.remarks.clear()
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - _TOKEN
                if not cut or self.ended:
                    raise self.unexpected(error.pos, error.msg) from None
            except RecursionError:
                raise self.error(self.at, "nested too deeply") from None
            except ValueError:
                digits = sys.get_int_max_str_digits()
                raise self.error(self.at, f"an integer of more than {digits} digits") from None
            else:
                # A number near the end of the window may go on behind it ("1" of "1.5", even "1" of "1.").
                if self.ended or isinstance(value, str | list | dict) or end + _TOKEN < len(self.text):
                    source = self.text[self.at : end]
                    if source.count("[") + source.count("{") > _MAX_DEPTH and _depth(value) > _MAX_DEPTH:
                        raise self.error(self.at, "nested too deeply")
                    if not source.isascii():
                        value = None  # it may be large, and here is a second one
                        value = self._parsed_as_utf8(source)
                    self.at = end
                    return value
            if len(self.text) - self.at > limit:
                problem = f"an entry is longer than {limit} bytes or never ends"
                raise _TooLong(str(self.error(self.at, problem)))
            self._fill()

    def skip(self, levels: int = _PIECES) -> Remarks:
        """The remarks on a value that nobody reads; a long one goes by in pieces, none held whole, without remarks.

        Flat elements of a long one go by many at once: their grammar is checked, not their UTF-8.
        """
        first = self.peek()
        inner = first in ("{", "[") and levels > 0
        try:
            self.value(CHUNK if inner or first == '"' else MAX_VALUE)
            return dict(self.remarks)
        except _TooLong:
            if not inner and first != '"':
                raise
        if first == '"':
            self._skip_text()
        else:
            self._skip_elements(first, levels)
        return {}

    def _skip_elements(self, opening: str, levels: int) -> None:
        """Move behind a long list or object that begins here."""
        self.at += 1
        more = self.peek() != _CLOSING[opening]
        while more:
            while (end := _end(_MANY[opening], self.text, self.at)) > self.at:
                self.at = end
            if opening == "{":
                self.peek()
                self.key("a key")
            self.skip(levels - 1)
            more = self.more()
        self.take(_CLOSING[opening], f"expected ',' or '{_CLOSING[opening]}'")

    def _skip_text(self) -> None:
        """Move behind a text that begins here, however long."""
        self.at += 1
        while self.text[self.at : self.at + 1] != '"':
            if (end := _end(_LETTERS, self.text, self.at)) > self.at:
                self.at = end
            elif self.ended or self.at < len(self.text) - _TOKEN:
                raise self.unexpected(self.at, "expected the rest of a text")
            else:
                self._fill()
        self.at += 1

    def unexpected(self, position: int, problem: str) -> BadInput:
        """The error at a place of the window, with what is found there."""
        start = self.base + position
        ahead = self.handle.tell()
        self.handle.seek(max(start - _SHOWN, 0))  # the window may end here
        before, source = self.handle.read(min(start, _SHOWN)), self.handle.read(_SHOWN)
        self.handle.seek(ahead)
        text = source.decode("utf-8", "replace")
        hint = "; JSON has no comments" if text.startswith(("//", "/*", "#")) else ""
        if before.rstrip().endswith(b",") and text.startswith(("}", "]")):
            hint = "; JSON has no comma before it"
        word = _WORD.match(text)
        found = show(text) if word is None else word[0]
        return self.error(position, f"{problem}, found {found if text else 'the end of the file'}{hint}")

    def error(self, position: int, problem: str) -> BadInput:
        """The error at a place of the window, with its line and column (from 1, in bytes)."""
        left, line, column = self.base + position, 1, 1
        ahead = self.handle.tell()
        self.handle.seek(0)
        while left and (data := self.handle.read(min(CHUNK, left))):
            left -= len(data)
            line += data.count(b"\n")
            newline = data.rfind(b"\n")
            column = column + len(data) if newline < 0 else len(data) - newline
        self.handle.seek(ahead)  # one that is too long may still be read piece by piece
        return BadInput(f"{self.path}: not a COCO dataset: line {line}, column {column}: {problem}")

    def _fill(self) -> None:
        """Drop what was read and load as much again as is left, at least a chunk."""
        self.base += self.at
        rest = self.text[self.at :]
        data = self.handle.read(max(CHUNK, len(rest)))
        self.text, self.at, self.ended = rest + data.decode("latin-1"), 0, not data

    def _parsed_as_utf8(self, source: str) -> object:
        try:
            text = source.encode("latin-1").decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(self.at + error.start, "not valid UTF-8") from None
        self.remarks.clear()
        return self.decoder.decode(text)

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        value = dict(pairs)
        if len(value) < len(pairs) and "twice" not in self.remarks:
            key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            self.remarks["twice"] = (key, "expected each key once, found it twice; the last one counts")
        return value

    def _constant(self, name: str) -> float:
        self.remarks["constant"] = ("", f"expected a finite number, found {name}, for which JSON has no word")
        return float(name)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where a pattern that matches nothing, too, stops matching."""
    match = pattern.match(text, at)
    return at if match is None else match.end()


def _depth(value: object) -> int:
    """Levels of lists and objects within each other, counted up to one more than is allowed."""
    level, depth = [value], 0
    while level and depth <= _MAX_DEPTH:
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [item for values in inner for item in values]
        depth += bool(inner)
    return depth
