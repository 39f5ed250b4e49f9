"""What a row of the study says of a run: the scores of its student, of images learned from and of those scored on."""

import json
from dataclasses import asdict
from math import log
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from little_pictures import HEIGHT, WIDTH, draw, write_coco
from PIL import Image
from small_blo import write_trained
from small_models import build_small_sam
from typer.testing import CliRunner

from benchmarks import studies
from benchmarks.blo_cells import Cell, Row, config_of
from benchmarks.blo_inst import row_of
from benchmarks.blo_tables import tables
from pipeline.cli import app
from students import blo_inst


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as the study makes it, small: in its test's pictures nothing is to be seen where the objects are."""
    folder = tmp_path_factory.mktemp("study")
    images = folder / "penn-fudan" / "images"
    images.mkdir(parents=True)
    pictures = [draw(number, images) for number in range(8)]
    write_coco(folder / "penn-fudan" / "train.json", pictures[:5])
    write_coco(folder / "penn-fudan" / "test.json", pictures[5:])
    for picture in pictures[5:]:
        Image.new("RGB", (WIDTH, HEIGHT), (110, 110, 110)).save(images / picture.uri)
    config = config_of(Cell("penn-fudan", 0, "first"))
    own = {"detector_weights": str(write_trained(folder)), "pretrain_epochs": 0, "steps": 1}
    config["models"]["aligned"] |= own
    runs = studies.Runs(folder / "ledger.jsonl", folder / "out", None, folder)
    made: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies.subprocess, "run", in_this_process)
        patch.setattr(blo_inst, "load_sam", lambda *_, **__: build_small_sam())
        assert runs.one("small", config, lambda out: made.append(out) or {})  # type: ignore[func-returns-value]
    return made[0]


def in_this_process(command: list[str], **_: object) -> CompletedProcess[str]:
    done = CliRunner().invoke(app, [*command[3:], "--workers=0"])
    assert done.exit_code == 0, done.stderr
    return CompletedProcess(command, done.exit_code)


def test_a_runs_row(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(blo_inst, "load_sam", lambda *_, **__: build_small_sam())
    cell = Cell("penn-fudan", 0, "first")
    row = row_of(cell, "made", run)
    assert row.training["found_of_sam"] > 0
    assert row.training["found_of_detector"] > 0
    assert row.found_in_test == 0
    assert row.missed_in_test == pytest.approx(log(2))
    scores = json.loads((run / "metrics.json").read_text())["students"]["aligned"]
    assert (scores["AP"], scores["AP50"], scores["AP75"]) == (row.AP, row.AP50, row.AP75)
    studies.add_line(tmp_path / "ledger.jsonl", asdict(row))
    (line,) = studies.read_lines(tmp_path / "ledger.jsonl")
    assert Row.of(line) == row
    assert tables([row]).startswith("penn-fudan, 1 seed:")
