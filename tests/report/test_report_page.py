"""The page: self-contained, escaped, readable in both colour schemes; pictures are data: URIs and nothing else."""

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pipeline.data import masks
from pipeline.data.errors import BadInput
from pipeline.report.documents import Case
from pipeline.report.overlay import MAX_SIDE, data_uri, draw
from pipeline.report.page import Fact, Page, Picture, Section, Strip, Table, render
from pipeline.report.pictures import case_strip

HOSTILE = '<script>alert(1)</script><img src=x onerror="x()">\'"{{7*7}} &amp; ../..'
PIXEL = data_uri(np.zeros((2, 3, 3), np.uint8))


class Elements(HTMLParser):
    """Every start tag with its attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def full_page(text: str = HOSTILE) -> Page:
    section = Section(
        heading=text,
        notes=(text,),
        tables=(Table((text, text), ((text, text),), caption=text, marked=0),),
        strips=(Strip(text, (Picture(PIXEL, text, 3, 2),)),),
    )
    return Page(title=text, subtitle=text, facts=(Fact(text, text, text),), sections=(section,))


def test_hostile_names_are_text() -> None:
    seen = Elements(render(full_page()))
    assert {tag for tag, _ in seen.tags} & {"script", "iframe", "object", "link", "form"} == set()
    assert [a["src"] for tag, a in seen.tags if tag == "img"] == [PIXEL]
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    assert seen.text.count(HOSTILE) == 15
    assert "49" not in seen.text


def test_nothing_is_fetched() -> None:
    html = render(full_page("plain"))
    seen = Elements(html)
    links = [
        v for _, a in seen.tags for k, v in a.items() if k in ("src", "href", "srcset", "action", "poster")
    ]
    assert all(link is not None and link.startswith("data:image/") for link in links)
    assert not re.search(r"https?://|//\w|@import|url\(", html)
    (policy,) = [
        a["content"]
        for tag, a in seen.tags
        if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy
    assert "prefers-color-scheme: dark" in html


@pytest.mark.parametrize(
    "uri",
    ["http://example.org/a.png", "data:text/html;base64,AA", "a.png", 'data:image/png;base64,AA" x="', ""],
)
def test_a_picture_is_a_data_uri(uri: str) -> None:
    with pytest.raises(ValueError, match="must be a data: URI"):
        Picture(uri, "", 1, 1)


def test_a_row_has_as_many_cells_as_the_header() -> None:
    with pytest.raises(ValueError, match="a row needs 2 cells"):
        Table(("a", "b"), (("1",),))


def test_words_and_marked_rows_are_told_apart() -> None:
    tables = (Table(("a", "b"), (("1", "2"), ("3", "why")), marked=1, remarks=True), Table(("a",), (("1",),)))
    seen = Elements(render(Page("t", "s", (), (Section("h", tables=tables),))))
    assert [attributes for tag, attributes in seen.tags if tag == "table"] == [{"class": "remarks"}, {}]
    rows = [attributes for tag, attributes in seen.tags if tag == "tr"]
    assert rows == [{}, {}, {"class": "marked"}, {}, {}]


@pytest.mark.parametrize("size", [(1, 1), (20, 30), (1, 4000), (700, 900)])
def test_drawing_shrinks_and_colours_the_mask_alone(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 100, np.uint8)
    mask = np.zeros(size, bool)
    mask[:, : max(1, size[1] // 2)] = True
    drawn = draw(image, [masks.encode(mask)])
    assert max(drawn.shape[:2]) <= MAX_SIDE
    assert drawn.dtype == np.uint8
    assert not np.array_equal(drawn[:, 0], np.full_like(drawn[:, 0], 100))
    if size[1] > 1:
        assert np.array_equal(drawn[:, -1], np.full_like(drawn[:, -1], 100))
    assert np.array_equal(draw(image, []), np.full_like(drawn, 100))


def test_a_case_is_drawn_on_the_photo_of_ingest_alone(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "a.png")
    case = Case(
        image_id=1,
        uri="a.png",
        sha256=hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest(),
        why="worst",
        miou=0.5,
        truth=[],
        pseudo=[],
        students={},
    )
    assert len(case_strip(case, tmp_path).pictures) == 3
    PIL.Image.fromarray(np.full((4, 6, 3), 9, np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(BadInput, match="changed since ingest"):
        case_strip(case, tmp_path)
