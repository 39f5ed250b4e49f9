"""What a page is made of, as plain data: texts, tables with bars in them, plots, galleries of pictures with layers.

Nothing here is HTML: every text is escaped where it is laid out. Lengths of bars are shares of the whole, 0..1.
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

DATA_URI = re.compile(r"data:image/(webp|jpeg|png);base64,[A-Za-z0-9+/=]+")
SLUG = re.compile(r"[a-z][a-z0-9-]*")

Tone = Literal["plain", "strong"]


def _check_slug(slug: str) -> None:
    if not SLUG.fullmatch(slug):
        raise ValueError(f"a name for CSS must match {SLUG.pattern}, got {slug!r}")


@dataclass(frozen=True)
class Text:
    """A paragraph, or with `items` a list of them."""

    kind: ClassVar[str] = "text"
    lines: tuple[str, ...]
    items: bool = False


@dataclass(frozen=True)
class Code:
    """Text to be copied as it is."""

    kind: ClassVar[str] = "code"
    text: str


Swatch = Literal[
    "part", "more", "mark", "before", "after", "hit", "missed", "extra", "used", "unused", "click"
]


@dataclass(frozen=True)
class Legend:
    """What the marks of a chart or picture mean."""

    kind: ClassVar[str] = "legend"
    entries: tuple[tuple[Swatch, str], ...]


@dataclass(frozen=True)
class Bar:
    """A bar of one or two parts, each a share of the cell's width; `mark`: where a line crosses it."""

    kind: ClassVar[str] = "bar"
    share: float
    more: float = 0.0
    tone: Tone = "plain"
    mark: float | None = None


@dataclass(frozen=True)
class Dots:
    """Two numbers 0..1 on one line: a hollow dot before, a full one after."""

    kind: ClassVar[str] = "dots"
    before: float
    after: float


@dataclass(frozen=True)
class Chip:
    """A text behind a patch of an object's colour, an index into the palette of layers.py."""

    kind: ClassVar[str] = "chip"
    text: str
    colour: int


Cell = str | Bar | Dots | Chip


@dataclass(frozen=True)
class Table:
    """A table; the first column names the row; `marked` is the index of the row to stand out.

    `words`: indices of columns of text, the others hold numbers or bars.
    """

    kind: ClassVar[str] = "table"
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    marked: int | None = None
    words: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"a row needs {len(self.header)} cells, got {len(row)}: {row!r}")


@dataclass(frozen=True)
class Histogram:
    """Counts in equal bins of 0..1; `marks`: x values that are named on the axis."""

    kind: ClassVar[str] = "histogram"
    heading: str
    counts: tuple[int, ...]
    caption: str
    x_name: str
    marks: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Curve:
    """Points (x, y, how many) in 0..1 beside the diagonal on which both agree; `table` says the same in numbers."""

    kind: ClassVar[str] = "curve"
    heading: str
    points: tuple[tuple[float, float, int], ...]
    caption: str
    x_name: str
    y_name: str
    table: Table


@dataclass(frozen=True)
class Picture:
    """One image as a `data:` URI with the words that stand for it; ValueError for any other URI."""

    uri: str
    alt: str
    width: int
    height: int

    def __post_init__(self) -> None:
        if not DATA_URI.fullmatch(self.uri):
            raise ValueError(f"a picture must be a data: URI, got {self.uri[:40]!r}")


@dataclass(frozen=True)
class Number:
    """A label on a picture, its middle at x, y in the picture's pixels."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Frame:
    """A box x, y, width, height in the picture's pixels: one that was used, or (dashed) one that was not."""

    x: float
    y: float
    width: float
    height: float
    used: bool = True


@dataclass(frozen=True)
class Click:
    """A point in the picture's pixels, on the object or off it."""

    x: float
    y: float
    on: bool = True


@dataclass(frozen=True)
class Layer:
    """What is laid over a photo: an image of the same frame (or none) and marks. `name`: one of its gallery's."""

    name: str
    picture: Picture | None = None
    numbers: tuple[Number, ...] = ()
    frames: tuple[Frame, ...] = ()
    clicks: tuple[Click, ...] = ()


@dataclass(frozen=True)
class Shot:
    """One photo with its layers; `blocks` tell what is on it; `pixelated`: show pixels as they are, not smoothed."""

    heading: str
    caption: str
    photo: Picture
    layers: tuple[Layer, ...]
    blocks: "tuple[Block, ...]" = ()
    pixelated: bool = False


@dataclass(frozen=True)
class Choice:
    """A layer that a gallery can show: its name for CSS and its words."""

    name: str
    words: str

    def __post_init__(self) -> None:
        _check_slug(self.name)


@dataclass(frozen=True)
class Gallery:
    """Photos with switches: one row of them for all, with `own` one for each photo as well.

    `shown`: the name of the layer that is shown first. `beside`: layers that each photo shows apart, always. `legend`:
    of the layers. `marks`: what else can be switched off. `level`: of the photos' headings, 3 or 4.
    """

    kind: ClassVar[str] = "gallery"
    name: str
    choices: tuple[Choice, ...]
    shown: str
    shots: tuple[Shot, ...]
    own: bool = False
    beside: tuple[str, ...] = ()
    legend: Legend | None = None
    marks: tuple[Literal["numbers", "prompts"], ...] = ()
    level: Literal[3, 4] = 3

    def __post_init__(self) -> None:
        _check_slug(self.name)
        known = {choice.name for choice in self.choices}
        used = {layer.name for shot in self.shots for layer in shot.layers} | {self.shown, *self.beside}
        if not used <= known:
            raise ValueError(f"layers must be of {sorted(known)}, got {sorted(used - known)}")


@dataclass(frozen=True)
class Fold:
    """Blocks behind a line that opens them."""

    kind: ClassVar[str] = "fold"
    summary: str
    blocks: "tuple[Block, ...]"


@dataclass(frozen=True)
class Beside:
    """Blocks side by side where there is room."""

    kind: ClassVar[str] = "beside"
    blocks: "tuple[Block, ...]"


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    kind: ClassVar[str] = "heading"
    text: str


Block = Text | Code | Legend | Table | Histogram | Curve | Gallery | Fold | Beside | Heading


@dataclass(frozen=True)
class Section:
    """One part of the page; `name` is its anchor, `short` its words in the table of contents."""

    name: str
    heading: str
    blocks: tuple[Block, ...]
    short: str = ""

    def __post_init__(self) -> None:
        _check_slug(self.name)
