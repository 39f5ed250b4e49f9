"""The page in a browser: silent, alone, readable in every scheme and width, worked by the keyboard alone."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from chromium import NAMES, Chromium, find_browser
from pages import HOSTILE, full_page
from report_fakes import STUDENT, whole_run

from pipeline.report.page import render
from pipeline.stages import evaluate

LONG = "W" * 300
TURNED = "photo\u202egpj.exe\nsecond line"
PARTS = [
    "trust", "bill", "quality", "gate", "students", "cases", "doubtful", "unmatched", "times", "quarantine", "run",
]  # fmt: skip
TAB, RIGHT, SPACE = ("Tab", 9, ""), ("ArrowRight", 39, ""), (" ", 32, " ")
SHOWN = "getComputedStyle(document.querySelector('{}')).display"

# [text, ratio] of every visible text whose contrast with what is behind it is below 4.5 (WCAG AA). Numbers on photos
# have an outline of their own.
FAINT = """(() => {
  const parts = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const found = parts(getComputedStyle(e).backgroundColor);
      if (found.length && found[3] !== 0) return found;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), faint = [];
  let looked = 0;
  for (let node; node = walker.nextNode();) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest('.marks, title') || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = parts(element.namespaceURI.endsWith('svg') ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    looked++;
    if (ratio < 4.5) faint.push([node.data.slice(0, 40), Math.round(ratio * 100) / 100, element.className]);
  }
  return [looked, faint];
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    path = find_browser()
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is in PATH")
    with Chromium(path) as found:
        yield found


@pytest.fixture
def look(browser: Chromium) -> Chromium:
    browser.look()
    return browser


def written(folder: Path, text: str, *, more: str = "") -> Path:
    page = folder / "index.html"
    page.write_text(render(full_page(text)).replace("</main>", f"{more}</main>"), encoding="utf-8")
    return page


@pytest.mark.parametrize("text", ["plain", HOSTILE, TURNED, LONG], ids=["plain", "hostile", "turned", "long"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_silent_and_alone(look: Chromium, tmp_path: Path, text: str, scheme: str) -> None:
    look.look(scheme=scheme)
    page = written(tmp_path, text)
    seen = look.open(page)
    assert (seen.console, seen.errors, seen.requests) == ([], [], [page.as_uri()])
    shown = text.replace("\u202e", "\\u202e")
    assert look.run("document.querySelector('h1').textContent") == shown
    assert look.run("document.title") == " ".join(shown.split())
    assert look.run("document.querySelectorAll('script, img, iframe, object').length") == 0


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 360)])
def test_the_page_of_a_run_is_silent_alone_and_fits(
    look: Chromium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, width: int
) -> None:
    """What the stage itself writes, with everything in it that a run can have."""
    monkeypatch.setattr(evaluate.catalog, "load_artifact", lambda *_, **__: STUDENT)
    page = whole_run(tmp_path)
    look.look(width=width, scheme=scheme)
    seen = look.open(page)
    look.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert look.run("document.documentElement.scrollWidth") <= width
    assert look.run("[...document.querySelectorAll('section > h2')].map(h => h.id)") == PARTS
    drawn = "[...document.querySelectorAll('svg image')].map(i => i.getBBox().width > 0)"
    assert (shown := look.run(drawn))
    assert all(shown)
    assert look.run(FAINT)[1] == []
    assert (seen.console, seen.errors, seen.requests) == ([], [], [page.as_uri()])


def test_the_policy_stops_what_the_escaping_would_let_through(look: Chromium, tmp_path: Path) -> None:
    """A page into which all that escaping prevents was written: the second wall holds alone."""
    more = (
        "<script>document.title = 'ran'</script><img src=x onerror=\"document.title = 'ran'\">"
        '<img src="http://127.0.0.1:9/seen.png"><p id="styled" style="color: rgb(255, 0, 0)">x</p>'
        "<style>h1 { color: rgb(255, 0, 0) !important; }</style><a href=\"javascript:document.title = 'ran'\">x</a>"
        '<iframe src="http://127.0.0.1:9/"></iframe><link rel="stylesheet" href="http://127.0.0.1:9/x.css">'
    )
    seen = look.open(written(tmp_path, "plain", more=more))
    look.run("document.querySelector('main a[href^=javascript]').click()")
    assert look.run("document.title") == "plain"
    for name in ("#styled", "h1"):
        assert look.run(f"getComputedStyle(document.querySelector('{name}')).color") != "rgb(255, 0, 0)"
    refused = [line for line in seen.console if "Content Security Policy" in line]
    assert len(refused) >= 6
    assert not look.run("performance.getEntriesByType('resource').filter(e => e.transferSize > 0).length")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out(look: Chromium, tmp_path: Path, scheme: str) -> None:
    look.look(scheme=scheme)
    look.open(written(tmp_path, "plain"))
    look.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    looked, faint = look.run(FAINT)
    assert looked > 60
    assert faint == []


@pytest.mark.parametrize("width", [360, 800, 1280])
@pytest.mark.parametrize("text", ["plain", LONG, HOSTILE])
def test_the_page_never_scrolls_sideways(look: Chromium, tmp_path: Path, width: int, text: str) -> None:
    look.look(width=width, height=800)
    look.open(written(tmp_path, text))
    look.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert look.run("document.documentElement.scrollWidth") <= width


def walk(look: Chromium) -> list[str]:
    """What the Tab key comes by, from the start of the page until it leaves it: tag and name or text."""
    said = (
        "(e => e === document.body ? '' : `${e.tagName} ${e.name || e.getAttribute('href') || ''}`)"
        "(document.activeElement)"
    )
    found = []
    for _ in range(200):
        look.press(TAB[0], code=TAB[1])
        if not (name := look.run(said)):
            break
        found.append(name)
    return found


def test_the_keyboard_reaches_everything(look: Chromium, tmp_path: Path) -> None:
    look.open(written(tmp_path, "plain"))
    found = walk(look)
    assert found[:3] == ["A #main", "A #one", "A #two"]
    radios = {f"INPUT {name}" for name in ("all", "all-strength", "all-1", "all-2", "few", "few-strength")}
    assert radios <= set(found)
    assert len([name for name in found if name == "INPUT "]) == 4  # numbers and prompts of both galleries
    assert [name for name in found if name.startswith("SUMMARY")]
    assert [name for name in found if name.startswith("PRE")]


def focus(look: Chromium, name: str) -> None:
    """Press Tab until the focus is in that group of switches."""
    for _ in itertools.repeat(None, 100):
        look.press(TAB[0], code=TAB[1])
        if look.run("document.activeElement.name") == name:
            return
    raise AssertionError(f"the Tab key does not come by {name}")


def test_switches_work_by_the_keyboard_alone(look: Chromium, tmp_path: Path) -> None:
    look.open(written(tmp_path, "plain"))
    layer = "#one ~ .gallery.large .shot:nth-child({}) g.layer.on-mask"
    first, second = (SHOWN.format(layer.format(number)) for number in (1, 2))
    prompts, numbers = (SHOWN.format(f"{layer.format(1)} .{name}") for name in ("prompts", "numbers"))
    states = {"first": first, "second": second, "prompts": prompts, "numbers": numbers}

    def shown() -> set[str]:
        return {name for name, expression in states.items() if look.run(expression) != "none"}

    assert shown() == {"first", "second", "numbers"}
    focus(look, "all")
    outline = "getComputedStyle(document.activeElement.nextElementSibling).outlineStyle"
    assert look.run(outline) == "solid"
    look.press(RIGHT[0], code=RIGHT[1])  # from the last choice, the mask, on to the first: the photo
    assert shown() == {"numbers"}
    look.press(TAB[0], code=TAB[1])  # strength
    look.press(TAB[0], code=TAB[1])  # numbers
    look.press(SPACE[0], code=SPACE[1], text=SPACE[2])
    assert shown() == set()
    look.press(TAB[0], code=TAB[1])  # prompts
    look.press(SPACE[0], code=SPACE[1], text=SPACE[2])
    assert shown() == {"prompts"}
    focus(look, "all-1")
    for _ in range(2):  # as for all, photo, mask
        look.press(RIGHT[0], code=RIGHT[1])
    assert shown() == {"first", "prompts"}


def test_print_leaves_out_what_only_a_screen_can_do(look: Chromium, tmp_path: Path) -> None:
    look.look(media="print", scheme="dark")
    look.open(written(tmp_path, "plain"))
    for name in ("nav", ".switches", ".own-switch"):
        assert look.run(SHOWN.format(name)) == "none"
    assert look.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert look.print_pdf().startswith(b"%PDF")


def test_the_schemes_look_as_they_are_called(look: Chromium, tmp_path: Path) -> None:
    page = written(tmp_path, "plain")
    brightness = {}
    for scheme in ("light", "dark"):
        look.look(scheme=scheme)
        look.open(page)
        pixels = np.asarray(PIL.Image.open(io.BytesIO(look.screenshot())).convert("L"))
        assert pixels.shape == (900, 1280)
        assert len(np.unique(pixels)) > 50
        brightness[scheme] = float(np.median(pixels))
    assert brightness["light"] > 240
    assert brightness["dark"] < 40
