"""One self-contained HTML page from plain data: no script, no request, every text escaped.

The page's Content-Security-Policy allows inline style and `data:` images alone, so that even a hole in the escaping
could fetch or run nothing.
"""

import re
from dataclasses import dataclass, field
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

DATA_URI = re.compile(r"data:image/(webp|jpeg|png);base64,[A-Za-z0-9+/=]+")


@dataclass(frozen=True)
class Fact:
    """One number of the head line: `value` is printed as it is, `note` says what it means."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table of printed cells; the first column names the row; `marked` is the index of the row to stand out.

    `remarks`: the last column holds words, not numbers.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    marked: int | None = None
    remarks: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row needs {len(self.header)} cells, got {len(row)}: {row!r}")


@dataclass(frozen=True)
class Picture:
    """One image as a `data:` URI with the text shown below it; ValueError for any other URI."""

    uri: str
    caption: str
    width: int
    height: int

    def __post_init__(self) -> None:
        if not DATA_URI.fullmatch(self.uri):
            raise ValueError(f"a picture must be a data: URI, got {self.uri[:40]!r}")


@dataclass(frozen=True)
class Strip:
    """Pictures of one image side by side under one heading."""

    heading: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Section:
    """One part of the page, in the order given: notes, tables, strips."""

    heading: str
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    strips: tuple[Strip, ...] = ()


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    subtitle: str
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...] = field(default=())


def render(page: Page) -> str:
    """The page as one HTML text, self-contained."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("pipeline.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(page=page)
