import json
import os
import random
from pathlib import Path

import pytest

from pipeline.data import coco_json, json_window
from pipeline.data.coco_json import entries
from pipeline.data.errors import BadInput
from pipeline.data.json_window import JsonWindow

SECTIONS = frozenset({"images", "annotations"})


@pytest.fixture(params=[1, 7, 1 << 22], ids=lambda size: f"window {size}")
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test at windows so small that each token is cut somewhere."""
    monkeypatch.setattr(json_window, "CHUNK", request.param)


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", []),
        ('{"images": []}', []),
        ('{"images":[1,{"a":[2]}]}', [("images", 0, 1), ("images", 1, {"a": [2]})]),
        (
            '\ufeff{ "annotations" : [ 12345 , 1.5e3 ] }',
            [("annotations", 0, 12345), ("annotations", 1, 1500.0)],
        ),
        ('{"info": {"images": [9]}, "images": [true], "x": 123}\n', [("images", 0, True)]),
        (
            '{"annotations": ["é€😀\\u00e9", null], "images": [-7]}',
            [("annotations", 0, "é€😀é"), ("annotations", 1, None), ("images", 0, -7)],
        ),
        ('{"n\\u00e9": 1, "é": "x", "images": [0]}', [("images", 0, 0)]),
        ('{"x": {"a\\"b": ["é\\u00e9\\\\", [], {}, -1.5e3, null]}, "images": [0]}', [("images", 0, 0)]),
    ],
)
def test_entries_and_their_place(tmp_path: Path, text: str, expected: list[tuple[str, int, object]]) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    found = list(entries(path, SECTIONS))
    assert [(e.section, e.index, e.value) for e in found] == expected
    data = path.read_bytes()
    assert [coco_json.read_entry(data[e.offset : e.offset + e.length], "x") for e in found] == [
        v for *_, v in expected
    ]


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a COCO dataset (an object), found an empty file"),
        (b"  \n [1]", "expected a COCO dataset (an object), found a list"),
        (b" \n", "found nothing but white space"),
        (b'"text"', "found text ('\"text\"')"),
        (b"<html>", "found an HTML page"),
        (b"\x89PNG\r\n", "found a PNG"),
        (b"PK\3\4\0\0", "found a ZIP archive"),
        (b"\x1f\x8b\x08\0", "found a gzip archive"),
        (b"\0" * 100, "found nothing but zero bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "found a git-lfs pointer (run `git lfs pull`)"),
        (b'{"images": {}}', "line 1, column 12: section 'images' must be a list, found '{}}'"),
        (b'{"images": null}', "must be a list, found null"),
        (b'{"images":', "must be a list, found the end of the file"),
        (b'{"images": [1, /* x */ 2]}', "found '/* x */ 2]}'; JSON has no comments"),
        (b'{"images": [{"a": 1,\n}]}', "found '}]}'; JSON has no comma before it"),
        (b"{'images': []}", "line 1, column 2: "),
        (b'{"images": 3', "must be a list"),
        (b'{"images": [1', "line 1, column 14: expected ',' or ']'"),
        (b'{"images": [1 2]}', "line 1, column 15: expected ',' or ']'"),
        (b'{"images": [1,]}', "line 1, column 15: Expecting value"),
        (b'{"images": [{"a": 1, }]}', "column 22"),
        (b'{"images":\n [{"a"\n: tru}]}', "line 3, column 3: Expecting value"),
        (b'{"images": ["open', "Unterminated string"),
        (b'{"images": ["\xff"]}', "not valid UTF-8"),
        (b'{"images": [], "images": []}', "section 'images' occurs twice"),
        (b'{"images": []', "expected ',' or '}'"),
        (b'{"images": []} x', "expected the end of the file"),
        (b"{1: 2}", "section name must be text"),
        (b'{"images" []}', "expected ':'"),
        (b'{"images": [' + b"[" * 100_000, "nested too deeply"),
        (b'{"images": [' + b"[" * 101 + b"]" * 101 + b"]}", "line 1, column 13: nested too deeply"),
        ("{".encode("utf-16"), "expected UTF-8, found UTF-16; save"),
        ("{ }".encode("utf-16-le"), "expected UTF-8, found UTF-16"),
        ("{ }".encode("utf-16-be"), "expected UTF-8, found UTF-16"),
        ("{".encode("utf-32"), "expected UTF-8, found UTF-32"),
        ("{".encode("utf-32-be"), "expected UTF-8, found UTF-32"),
        (b'[{"image_id": 1}]', "found a list of results, which say nothing of images"),
        (b'{"x": {"a": "\\q"}}', "Invalid \\escape|expected the rest of a text"),
        (b'{"x": {"a": "\n"}}', "Invalid control character|expected the rest of a text"),
        (b'{"x": {"a": "open', "Unterminated string|expected the rest of a text"),
        (b'{"x": {"a": [1 2]}}', "Expecting ',' delimiter|expected ',' or ']'"),
        (b'{"x": {1: 2}}', "Expecting property name|a key must be text"),
        (b'{"images": [' + b"1" * 5000 + b"]}", "line 1, column 13: an integer of more than 4300 digits"),
    ],
    ids=range(43),
)
def test_syntax_errors_name_the_place(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(data)
    with pytest.raises(BadInput) as caught:
        list(entries(path, SECTIONS))
    assert any(part in str(caught.value) for part in message.split("|"))
    assert str(path) in str(caught.value)


def test_endless_entries_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_window, "CHUNK", 64)
    monkeypatch.setattr(json_window, "MAX_VALUE", 1000)
    path = tmp_path / "long.json"
    path.write_text('{"images": ["' + "a" * 100_000)
    with pytest.raises(BadInput, match="longer than 1000 bytes or never ends"):
        list(entries(path, SECTIONS))


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"images": [{"a": 1, "a": 2}, {"b": {"é": 1, "é": 1}}]}', [("images", 0, "a"), ("images", 1, "é")]),
        ('{"images": [[NaN, -Infinity]], "x": 3}', [("images", 0, "")]),
        ('{"x": [{"a": 1}], "images": [{"NaN": 1, "a": {"NaN": 2}}]}', []),
    ],
)
def test_remarks_on_what_nobody_means(
    tmp_path: Path, text: str, expected: list[tuple[str, int, str]]
) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    told = [(e.section, e.index, key) for e in entries(path, SECTIONS, remarks=True) for key, _ in e.remarks]
    assert told == expected
    assert [e.remarks for e in entries(path, SECTIONS) if e.remarks] == []


@pytest.mark.parametrize("value", ['{"y": Infinity}', '[{"a": 1, "a": 2}]', "[[[[[NaN]]]], 1]"])
def test_what_nobody_reads_has_remarks_unless_it_is_long(
    tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text(f'{{"x": {value}}}')
    for size, told in ((1 << 22, 1), (4, 0)):
        monkeypatch.setattr(json_window, "CHUNK", size)
        assert len(list(entries(path, SECTIONS, remarks=True))) == told


@pytest.mark.parametrize(
    "element",
    ["0", "-1.5e3", '"a\\n\\u00e9"', "[]", '{"a": [{"b": null}, "c"], "d": {}}', "[[1, 2], [3, NaN]]"],
)
@pytest.mark.parametrize("form", ["[%s]", '{"a": [%s]}', '{"a": {"b": 1, "c": [0, %s]}}'])
def test_long_values_that_nobody_reads_are_not_parsed(
    tmp_path: Path, element: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_window, "CHUNK", 1 << 12)
    path = tmp_path / "a.json"
    path.write_text(f'{{"x": {form % ",".join([element] * 20_000)}, "images": [1]}}')
    parsed = []
    value = JsonWindow.value
    monkeypatch.setattr(JsonWindow, "value", lambda *args: parsed.append(0) or value(*args))
    assert [e.value for e in entries(path, SECTIONS)] == [1]
    assert len(parsed) < 20 + 2 * path.stat().st_size / (1 << 12)  # by windows, not by elements


def test_long_values_that_nobody_reads_are_json_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(0)
    path = tmp_path / "a.json"
    good = '{"x": [[1, -2.5e+3, 0], {"a": "b\\n\\u00e9", "c": [true, {}, [[[[7]]]]]}, null, "", [NaN, {"d": 1}]]}'
    refused = 0
    for _ in range(1500):
        at, size = dice.randrange(7, len(good) - 1), dice.choice((1, 16, 48))
        put = dice.choice(["", *'[]{},:"01-.eE \\\x01tn', '"k":1,', "01", "tru", "[1,]", "[,1]"])
        text = good[:at] + put + good[at + dice.randint(0, 2) :]
        path.write_text(text)
        monkeypatch.setattr(json_window, "CHUNK", size)
        try:
            expected = bool(json.loads(text))
        except ValueError:
            expected = False
        try:
            list(entries(path, SECTIONS))
            found = True
        except BadInput:
            found = False
        assert found == expected, text
        refused += not found
    assert 200 < refused < 1400


@pytest.mark.parametrize(
    "bad",
    ["01", "[1,]", '{"a": 1,}', "[1 2]", '{"a" 1}', "{1: 2}",
     '"\\q"', "tru", "[,1]", "1.", "+1", "1e", '"\x01"', "[}", "[[1}]"],
)  # fmt: skip
def test_a_long_value_with_a_mistake_in_it(tmp_path: Path, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_window, "CHUNK", 200)
    path = tmp_path / "a.json"
    path.write_text(f'{{"x": [{"0, " * 200}{bad}{", 0" * 200}]}}')
    with pytest.raises(BadInput, match="line 1, column 6"):
        list(entries(path, SECTIONS))


def test_unreadable_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none.json", tmp_path, tmp_path / "pipe"):
        with pytest.raises(BadInput, match="cannot be read"):
            list(entries(path, SECTIONS))
