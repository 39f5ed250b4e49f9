"""A page with one of everything, for the tests of the markup and of the browser."""

import numpy as np

from pipeline.report.blocks import (
    Bar,
    Beside,
    Block,
    Chip,
    Choice,
    Click,
    Code,
    Curve,
    Dots,
    Fold,
    Frame,
    Gallery,
    Heading,
    Histogram,
    Layer,
    Legend,
    Number,
    Picture,
    Section,
    Shot,
    Table,
    Text,
)
from pipeline.report.layers import overlay_uri, photo_uri
from pipeline.report.page import Fact, Page

HOSTILE = '<script>alert(1)</script><img src=x onerror="x()">\'"{{7*7}} &amp; ../..'
PHOTO = photo_uri(np.zeros((2, 3, 3), np.uint8))
OVERLAY = overlay_uri(np.eye(2, 3, dtype=np.uint8))


def gallery(text: str, name: str = "all", *, own: bool = True) -> Gallery:
    """Two photos with two layers each, all marks on them."""
    choices = (Choice("photo", text), Choice("mask", text))
    layer = Layer(
        "mask",
        Picture(OVERLAY, text, 3, 2),
        (Number(1, 1, text),),
        (Frame(0, 0, 2, 1), Frame(0, 0, 1, 1, used=False)),
        (Click(1, 1), Click(2, 1, on=False)),
    )
    table = Table((text,), ((Chip(text, 3),),))
    shot = Shot(text, text, Picture(PHOTO, text, 3, 2), (layer,), (table,), pixelated=True)
    beside = ("mask",) if own else ()
    legend = Legend((("hit", text), ("extra", text), ("used", text)))
    return Gallery(
        name,
        choices,
        "mask",
        (shot, shot),
        own=own,
        beside=beside,
        legend=legend,
        marks=("numbers", "prompts"),
    )


def blocks(text: str) -> tuple[Block, ...]:
    """One of every kind, with `text` wherever a text goes."""
    table = Table((text, text), ((text, text), (text, "2")), caption=text, marked=0, words=frozenset({1}))
    charts = Table((text, text, text), ((text, Bar(0.3, 0.2, "strong", 0.5), Dots(0.2, 0.7)),))
    curve = Curve(text, ((0.1, 0.2, 3), (0.9, 0.4, 1)), text, text, text, table)
    return (
        Text((text, text)),
        Text((text,), items=True),
        Heading(text),
        Code(text),
        Legend((("mark", text), ("before", text), ("after", text), ("click", text))),
        table,
        Fold(text, (charts, Beside((curve, Histogram(text, (1, 0, 4), text, text))))),
        gallery(text),
        gallery(text, "few", own=False),
    )


def full_page(text: str = HOSTILE) -> Page:
    """Every block in one section, a second section behind it."""
    sections = (Section("one", text, blocks(text)), Section("two", text, (), short=text))
    return Page(title=text, subtitle=text, facts=(Fact(text, text, text),), sections=sections)
