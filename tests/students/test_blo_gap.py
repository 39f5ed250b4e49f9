"""What a row of the study says of a run: the scores of its student, of images learned from and of those scored on."""

import json
from dataclasses import asdict
from math import log
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from little_pictures import HEIGHT, WIDTH, draw, write_coco
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from benchmarks import studies
from benchmarks.blo_cells import Cell, Row, config_of, from_start, start_config
from benchmarks.blo_inst import detector_of, row_of, write_detector
from benchmarks.blo_tables import tables
from benchmarks.studies import Settings
from pipeline.cli import app
from pipeline.engine.status import find_results

CELL = Cell("penn-fudan", 0, "first")


def in_this_process(command: list[str], **_: object) -> CompletedProcess[str]:
    """Where the small SAM is the student's."""
    done = CliRunner().invoke(app, [*command[3:], "--workers=0"])
    assert done.exit_code == 0, done.stderr
    return CompletedProcess(command, done.exit_code)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Photographs to learn from, and some to score on where nothing is to be seen of the objects."""
    folder = tmp_path / CELL.world
    images = folder / "images"
    images.mkdir(parents=True)
    pictures = [draw(number, images) for number in range(8)]
    write_coco(folder / "train.json", pictures[:5])
    write_coco(folder / "test.json", pictures[5:])
    for picture in pictures[5:]:
        Image.new("RGB", (WIDTH, HEIGHT), (110, 110, 110)).save(images / picture.uri)
    return tmp_path


@pytest.mark.usefixtures("small_sam")
def test_a_runs_row(data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run as the study makes it, small: its detector finds what is there, so of the test nothing."""
    config = config_of(CELL)
    config["models"]["aligned"] |= {"detector_weights": str(trained), "pretrain_epochs": 0, "steps": 1}
    monkeypatch.setattr(studies.subprocess, "run", in_this_process)
    runs = studies.Runs(tmp_path / "ledger.jsonl", tmp_path / "out", None, data)
    assert runs.one(CELL.name, config, lambda run: asdict(row_of(CELL, "made", run, run)))
    (line,) = studies.read_lines(runs.ledger)
    row = Row.of(line)
    assert (row.cell, row.made_by) == (CELL, "made")
    assert row.training["steps"] == 2  # its own and its start's, for which it stands here
    assert row.training["found_of_sam"] > 0
    assert row.training["found_of_detector"] > 0
    assert (row.found_in_test, row.missed_in_test) == (0, pytest.approx(log(2)))
    (metrics,) = tmp_path.glob("out/*/*/metrics.json")
    scores = json.loads(metrics.read_text())["students"]["aligned"]
    assert (scores["AP"], scores["AP50"], scores["AP75"]) == (row.AP, row.AP50, row.AP75)
    assert tables([row]).startswith("penn-fudan, 1 seed:")


def learned(run: Path) -> dict[str, Tensor]:
    (artifact,) = find_results(run, "train_student").values()
    return load_file(artifact / "model.safetensors")


@pytest.mark.usefixtures("small_sam")
@pytest.mark.parametrize("order", ["none", "joint", "second"])
def test_a_start_is_what_each_student_would_train(
    data: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """The whole of a cell in one run, and its start and the rest in two, are the same bits."""
    cell = Cell("penn-fudan", 0, order)
    monkeypatch.setattr(studies.subprocess, "run", in_this_process)
    runs = studies.Runs(tmp_path / "ledger.jsonl", tmp_path / "out", None, data)

    def run(name: str, config: Settings, **small: object) -> Path:
        config["models"]["aligned"] |= small
        folder = runs.run(name, config)
        assert folder is not None
        return folder

    given = {"detector_weights": str(trained), "pretrain_epochs": 1}
    start = run(cell.start.name, start_config(cell.start), **given)
    write_detector(start)
    whole = learned(run(cell.name, config_of(cell), steps=2, **given))
    rest = learned(run(cell.name, from_start(cell, detector_of(start)), steps=2))
    assert {name for name in whole if not torch.equal(whole[name], rest[name])} == set()
    before = learned(start)
    assert any(not torch.equal(whole[name], before[name]) for name in whole if name.startswith("detector."))
