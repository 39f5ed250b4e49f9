"""Errors that are the user's to mend: they name the file and entry, what was found and what was expected."""

import reprlib

_LENGTH = 60
_HUGE = 2**63
_BRIEF = reprlib.Repr()  # bounded in time and depth, whatever a file holds
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = _LENGTH


class BadInput(ValueError):
    """An image, annotation, file or setting from outside is not usable; the message says where, what and why."""


def show(value: object) -> str:
    """A found value for a message, cut to a readable length."""
    if isinstance(value, int) and not -_HUGE <= value < _HUGE:
        return "a huge integer"
    text = _BRIEF.repr(value)
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 3]}..."


def printable(text: str) -> str:
    """Text that stays on its line and leaves a terminal alone: control, bidi and other unseen characters as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
