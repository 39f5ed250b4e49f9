"""`pipeline validate` as a command: exit codes, output, files of any length, a million annotations."""

import json
import os
import re
import resource
import subprocess
import sys
import time
from errno import ENOSPC
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from validate_fakes import (
    GOOD,
    SQUARE,
    check,
    everything_is_there,
    examine,
    more,
    named,
    thing,
    valid_set,
    write_photos,
)

from pipeline import validate as module
from pipeline.cli import app
from pipeline.data import masks

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "images")


def test_twenty_of_a_kind_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    content = valid_set()
    bad = [{"id": 100 + n, "image_id": 1, "category_id": 3, "segmentation": [[n, 1, 2]]} for n in range(35)]
    lost = [{"id": 200 + n, "image_id": 50 + n, "category_id": 3} for n in range(21)]
    more("annotations", *bad, *lost)(content)
    lines = check(tmp_path, content, None).lines
    assert sum("expected an even number of 6 or more coordinates" in line for line in lines) == 20
    assert [line for line in lines if "more like this" in line] == [
        "error annotations image_id: expected the id of an image ... and 1 more like this",
        "error annotations segmentation[]: expected an even number of N or more coordinates ... and 15 more like this",
    ]
    assert lines[-1].endswith(
        ": 56 errors, 0 warnings in 3 images, 65 annotations, 2 classes; photos were not looked at"
    )


def test_kinds_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KINDS", 5)
    twice = b",".join(b'{"id": %d, "key%d": 1, "key%d": 2}' % (n, n, n) for n in range(100))
    lines = check(tmp_path, GOOD.replace(b'"annotations": [', b'"annotations": [' + twice + b","), None).lines
    assert sum(line.startswith("warning") for line in lines) <= 5 + 20 + 1
    assert any(re.fullmatch(r"warning of other kinds ... and \d+ more like this", line) for line in lines)


@pytest.mark.parametrize("value", [b'"' + b"a" * 600_000 + b'"', b"[" + b"0," * 200_000 + b"0]",
    b'{"x": {"y": [' + b'{"id": 1, "url": "x\\u00e9y"},' * 20_000 + b'"' + b"\\n" * 200_000 + b'"]}}'],
    ids=["text", "numbers", "nested"])  # fmt: skip
def test_long_sections_that_nobody_reads_are_skipped(
    tmp_path: Path, value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.json_window.CHUNK", 1 << 14)
    monkeypatch.setattr("pipeline.data.json_window.MAX_VALUE", 1 << 18)
    seen = check(tmp_path, GOOD.replace(b'{"info"', b'{"licenses": ' + value + b', "info"', 1), None)
    assert seen.code == 0, seen.lines
    cut = check(tmp_path, b'{"licenses": ' + value[:-1], None)
    assert re.search(r"line 1, column \d+: ", cut.lines[0])


def run_command(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["validate", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_the_command_returns_the_code(tmp_path: Path, photos: Path) -> None:
    path = tmp_path / "set.json"
    for change, code in ((everything_is_there, 0), (thing(id=0), 1), (thing(id="x"), 2)):
        content = valid_set()
        change(content)
        path.write_text(json.dumps(content))
        found, out, err = run_command(path, "--images", photos)
        assert (found, err) == (code, "")
        assert out.splitlines()[-1].startswith(f"{path}: ")


@pytest.mark.parametrize("path", ["gone.json", ".", "pipe", "a\x1b[31m.json"])
def test_a_file_that_cannot_be_read(tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    code, out, _ = run_command(tmp_path / path)
    assert code == 2
    assert re.search(r"^error .*: cannot be read: ", out)
    assert "\x1b" not in out
    assert out.splitlines()[-1].endswith(": cannot be used, 1 error, 0 warnings")


@pytest.mark.parametrize(("name", "found"), [("gone", "none"), ("set.json", "a file")])
def test_a_folder_that_is_none(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "set.json").write_bytes(GOOD)
    code, out, _ = run_command(tmp_path / "set.json", "--images", tmp_path / name)
    assert code == 2
    assert out.splitlines()[0] == f"error {tmp_path / name}: expected a folder of images, found {found}"
    assert out.splitlines()[1].endswith("; photos were not looked at")


@pytest.mark.parametrize("error", [KeyError("oops"), OSError(ENOSPC, "No space left on device")])
def test_our_own_fault_is_70(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """A full disk says nothing of the file either."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(module.Checker, "whole", fail)
    (tmp_path / "set.json").write_bytes(GOOD)
    code, out, err = run_command(tmp_path / "set.json")
    assert code == 70
    assert (
        out == f"internal error: {type(error).__name__}: {error}; please report it, no file may cause one\n"
    )
    assert "Traceback" in err


def test_an_interrupt_is_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Checker, "whole", stop)
    (tmp_path / "set.json").write_bytes(GOOD)
    assert run_command(tmp_path / "set.json")[0] == 130


@pytest.mark.parametrize(("reader", "code"), [("cat", 2), ("true", 141)])
def test_output_of_any_encoding_and_end(tmp_path: Path, reader: str, code: int) -> None:
    content = valid_set()
    named("собака", "Собака")(content)
    more("annotations", *({"id": "é"} for _ in range(20)))(content)
    (tmp_path / "set.json").write_text(json.dumps(content))
    main = "import time; time.sleep(0.5); from pipeline.cli import main; main()"
    command = f"{sys.executable} -c '{main}' validate set.json"
    done = subprocess.run(
        ["bash", "-c", f"{command} | {reader}; exit ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, b"")
    if reader == "cat":
        assert rb"found '\u0421\u043e\u0431\u0430\u043a\u0430', that of categories[2]" in done.stdout


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["coco-tiny", "penn-fudan", "car-parts", "dsb2018-nuclei", "human-seg"])
def test_real_sets(real_data: Path, name: str, split: str) -> None:
    """The three of car-parts are so: two outlines that cross themselves, a part without a pixel."""
    warnings = 3 if (name, split) == ("car-parts", "train") else 0
    seen = examine(real_data / name / f"{split}.json", real_data / name / "images")
    assert (seen.code, len(seen.lines)) == (bool(warnings), warnings + 1), seen.lines


def large_shapes() -> list[object]:
    """Ten shapes that fit 640x480, no two alike: outlines of 24 points, of two parts, RLE in both forms."""
    shapes: list[object] = []
    for n in range(10):
        turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        circle = np.stack([60 + 50 * n + 40 * np.cos(turn), 240 + 90 * np.sin(turn)], axis=1).ravel().round(2)
        rle = masks.rle_from_coco([circle.tolist()], 480, 640, where="a circle")
        runs = masks.runs_of(rle).tolist()
        forms: list[object] = [
            [circle.tolist()],
            {"size": [480, 640], "counts": rle.counts},
            {"size": [480, 640], "counts": runs},
            [circle.tolist(), SQUARE],
        ]
        shapes.append(forms[n % 4])
    return shapes


def write_large(path: Path, annotations: int, *, broken: bool) -> None:
    """A file of so many annotations, ten to an image, one a crowd; or all of them broken."""
    shapes = ["x", {"size": 1}, [[1]]] if broken else large_shapes()
    texts = [json.dumps(shape) for shape in shapes]
    with path.open("w") as file:
        file.write('{"categories": [{"id": 3, "name": "cat"}], "annotations": [')
        for n in range(annotations):
            head = f'{{"id": {n + 1}, "image_id": {n // 10}, "category_id": 3, "iscrowd": {int(n % 10 == 1)}'
            file.write(("," if n else "") + f'{head}, "segmentation": {texts[n % len(texts)]}}}\n')
        file.write('], "images": [')
        for n in range(annotations // 10):
            head = f'{{"id": {n}, "file_name": "{n:012}.jpg"'
            file.write(("," if n else "") + f'{head}, "width": 640, "height": 480}}\n')
        file.write("]}")


CHILD = """
import sys
from pathlib import Path
from pipeline.cli import app
try:
    app(["validate", sys.argv[1]])
finally:
    # Not ru_maxrss, which begins with that of the process that started this one.
    print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True], ids=["valid", "broken"])
def test_a_million_annotations(tmp_path: Path, broken: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Within 2 GB and 15 minutes of one core; what it took is printed."""
    path = tmp_path / "large.json"
    write_large(path, 1_000_000, broken=broken)
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    *lines, peak = done.stdout.splitlines()
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    with capsys.disabled():
        size = path.stat().st_size / 1e6
        took = f"{time.monotonic() - start:.0f} s ({used:.0f} s of CPU), {int(peak) / 1024:.0f} MiB"
        sys.stdout.write(f"\n{size:.0f} MB, 1,000,000 annotations: {took}; {lines[-1]}\n")
    assert done.returncode == (2 if broken else 0), lines[-5:]
    assert int(peak) < 2 * 1024**2
    assert used < 15 * 60
    assert len(lines) < 100
