"""How numbers are said in the report: each kind in one way, unknown ones as a dash."""

DASH = "–"
ORIGINS = {"dino": "a detector", "sam": "SAM itself", "human": "a person", "image": "nobody: the whole image"}


def score(value: float | None) -> str:
    """An AP or IoU with three decimals."""
    return DASH if value is None else f"{value:.3f}"


def amount(value: float | None, digits: int, unit: str = "") -> str:
    """A number with so many decimals."""
    return DASH if value is None else f"{value:.{digits}f}{unit}"


def percent(part: float, whole: float) -> str:
    """A share in percent; a dash of nothing."""
    if not whole:
        return DASH
    share = 100 * part / whole
    return f"{share:.1f}%" if 0 < share < 10 or 99 < share < 100 else f"{share:.0f}%"


def counted(count: int, thing: str, things: str | None = None) -> str:
    """A count with its noun."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


def duration(seconds: float) -> str:
    """Seconds as a person says it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def placed_by(origin: str) -> str:
    """Who placed a box, in words; an origin that has none as it is."""
    return ORIGINS.get(origin, origin)
