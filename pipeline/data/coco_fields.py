"""Single fields of an entry's raw JSON: wrong types and values become an `EntryError` that names the field."""

from pipeline.data.errors import show

MAX_ID = 2**63 - 1


class EntryError(Exception):
    """An entry cannot be used: which field, and why."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field, self.problem = field, problem


Raw = dict[str, object]


def as_object(value: object) -> Raw:
    """The entry itself, which must be an object."""
    if not isinstance(value, dict):
        raise EntryError("entry", f"expected an object, found {show(value)}")
    return value


def integer(raw: Raw, field: str, *, low: int = -MAX_ID - 1, high: int = MAX_ID) -> int:
    """An integer field within low..high."""
    value = raw.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        span = "" if low < 0 else f" from {low} to {high}" if high < MAX_ID else f" of at least {low}"
        raise EntryError(field, f"expected an integer{span}, found {present(raw, field)}")
    return value


def known_id(value: object) -> int | None:
    """An id that can be one, or None."""
    return value if type(value) is int and abs(value) <= MAX_ID else None


def text(raw: Raw, field: str) -> str:
    """A text field that is not blank."""
    value = known_text(raw.get(field))
    if value is None:
        raise EntryError(field, f"expected text, found {present(raw, field)}")
    return value


def known_text(value: object) -> str | None:
    """Text that is not blank and can be written as UTF-8 (JSON allows half a surrogate pair, which cannot), or None."""
    if not isinstance(value, str) or not value.strip():
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def present(raw: Raw, field: str) -> str:
    """A field's value for a message."""
    return show(raw[field]) if field in raw else "nothing"


def numbers(value: object, count: int) -> list[float] | None:
    """Finite floats of a list of exactly `count` numbers, else None."""
    if not isinstance(value, list) or len(value) != count:
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= MAX_ID for v in value):
        return None  # NaN and infinity fail the comparison too
    return [float(v) for v in value]
