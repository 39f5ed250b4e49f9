"""One self-contained HTML page from plain data: no script, no request, every text escaped.

The page's Content-Security-Policy allows `data:` images and the page's own style sheet (by its digest) alone, so that
even a hole in the escaping could fetch, run or restyle nothing.
"""

import base64
import hashlib
import re
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.report.blocks import Beside, Block, Fold, Gallery, Section
from pipeline.report.layers import PALETTE

# Control and bidirectional characters and halves of surrogate pairs: in a name they hide or turn around what follows.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Fact:
    """One number of the head line: `value` is printed as it is, `note` says what it means."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """The whole report."""

    title: str
    subtitle: str
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...] = field(default=())


def visible(value: object) -> object:
    """A text with the characters that a browser hides or acts on spelled out; anything else as it is."""
    # Markup, a subclass of str, is what the templates made themselves.
    if type(value) is not str:
        return value
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), value)


def render(page: Page) -> str:
    """The page as one HTML text, self-contained."""
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = sorted({choice.name for gallery in galleries(page) for choice in gallery.choices})
    palette = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in PALETTE]
    style = environment.get_template("style.css.j2").render(layers=names, palette=palette).strip()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return environment.get_template("page.html.j2").render(page=page, style=style, digest=digest)


def galleries(page: Page) -> list[Gallery]:
    """Every gallery of the page, however deep it lies."""
    return [
        block for section in page.sections for block in _flat(section.blocks) if isinstance(block, Gallery)
    ]


def _flat(blocks: tuple[Block, ...]) -> list[Block]:
    found: list[Block] = []
    for block in blocks:
        found.append(block)
        if isinstance(block, Fold | Beside):
            found += _flat(block.blocks)
    return found
