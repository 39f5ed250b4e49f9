"""The page's markup: self-contained, escaped, with headings and tables that hang together; no browser needed."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from pages import HOSTILE, OVERLAY, PHOTO, full_page, gallery

from pipeline.report.blocks import Choice, Picture, Section, Table
from pipeline.report.page import Page, render, visible


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

    def all(self, name: str) -> list[str | None]:
        """Values of one attribute, in order."""
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def hostile() -> Elements:
    return Elements(render(full_page()))


def test_hostile_names_are_text(hostile: Elements) -> None:
    assert {tag for tag, _ in hostile.tags} & {"script", "iframe", "object", "link", "form", "img"} == set()
    assert {name for _, attributes in hostile.tags for name in attributes if name.startswith("on")} == set()
    assert hostile.text.count(HOSTILE) > 60
    assert "49" not in re.sub(r"[\d.]+%|[\d.]+", "", hostile.text.replace(HOSTILE, ""))


def test_nothing_is_fetched_and_nothing_runs() -> None:
    html = render(full_page("plain"))
    seen = Elements(html)
    links = [link or "" for name in ("src", "href", "srcset", "action", "poster") for link in seen.all(name)]
    assert set(links) >= {PHOTO, OVERLAY, "#main", "#one"}
    assert all(link.startswith(("data:image/", "#")) for link in links)
    assert not re.search(r"https?:|//\w|@import|url\(|javascript:", re.sub(r"data:[^\"]*", "", html))
    (policy,) = [
        a["content"] for t, a in seen.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    rules = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert policy == rules
    assert seen.all("style") == []  # the policy lets no inline style through


def test_an_image_is_in_the_page_once(hostile: Elements) -> None:
    assert hostile.all("href").count(PHOTO) == hostile.all("href").count(OVERLAY) == 4  # one a photo
    ids = hostile.all("id")
    assert len(set(ids)) == len(ids)
    uses = [a["href"] for t, a in hostile.tags if t == "use"]
    assert uses
    assert {use[1:] for use in uses if use} <= set(ids)


def test_headings_do_not_skip_a_level(hostile: Elements) -> None:
    levels = [int(tag[1]) for tag, _ in hostile.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_tables_name_their_rows_and_columns(hostile: Elements) -> None:
    scopes = [attributes.get("scope") for tag, attributes in hostile.tags if tag == "th"]
    assert set(scopes) == {"col", "row"}
    names = [a["aria-label"] for t, a in hostile.tags if t == "svg" and a.get("role") == "img"]
    assert names
    assert all(names)


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


@pytest.mark.parametrize("name", ["", "a b", "1a", "a}", "A", "a:hover"])
def test_what_goes_into_the_style_sheet_is_a_plain_word(name: str) -> None:
    with pytest.raises(ValueError, match="a name for CSS"):
        Choice(name, "x")
    with pytest.raises(ValueError, match="a name for CSS"):
        Section(name, "x", ())
    with pytest.raises(ValueError, match="a name for CSS"):
        gallery("x", name)


def test_a_gallery_knows_its_layers() -> None:
    shots = gallery("x").shots
    with pytest.raises(ValueError, match=r"layers must be of \['photo'\], got \['mask'\]"):
        type(gallery("x"))("a", (Choice("photo", "x"),), "photo", shots)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\tand\nlines", "plain\tand\nlines"),
        ("abc\u202ecba", "abc\\u202ecba"),
        ("\u2066\x00\x1b\x7f\x85", "\\u2066\\x00\\x1b\\x7f\\x85"),
        ("file\udcff.jpg", "file\\udcff.jpg"),
        ("日本語 é \u200d", "日本語 é \u200d"),
        (7, 7),
    ],
)
def test_characters_that_hide_are_spelled_out(text: object, shown: object) -> None:
    assert visible(text) == shown
    html = render(full_page(str(text)))
    assert str(shown) in html
    html.encode()


def test_a_page_of_nothing() -> None:
    seen = Elements(render(Page("t", "s", ())))
    assert "nav" not in {tag for tag, _ in seen.tags}
