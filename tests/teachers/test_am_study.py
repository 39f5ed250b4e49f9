"""The study of AM-SAM: which fits it makes, what a row holds, how it goes on, and what its tables are of."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from few_shots import ONTOLOGY, shot
from small_models import build_small_sam

from benchmarks import am_cells as cells
from benchmarks import am_sam as study
from benchmarks import studies
from benchmarks.am_cells import Cell, Draw, Row, cells_of, config_of, settings_of
from benchmarks.am_fits import Fits, share_found
from benchmarks.am_tables import tables
from benchmarks.am_world import Remembering, World, boxes_of, by_class, dice
from pipeline.data.records import RLE, Origin, Prompt, Record, Role
from teachers.am_sam_settings import AmSamSettings
from teachers.sam.predictor import SamPredictor

DRAW = Draw(cells.WIDE_WORLD, 4, 0)
RESULTS = Path(__file__).parents[2] / "docs" / "results.md"


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Ten pictures to draw shots of, three to score on."""
    train = tuple(shot(number, tmp_path) for number in range(1, 11))
    test = tuple(replace(shot(number, tmp_path), role=Role.VAL) for number in range(20, 23))
    return World(ONTOLOGY, tmp_path, train, test)


@pytest.mark.parametrize("world_name", cells.WORLDS)
def test_every_cell_is_a_teacher_of_its_own(world_name: str) -> None:
    own = list(cells_of(Draw(world_name, 8, 1)))
    assert len(set(own)) == len(own)
    asked = [(cell.boxes, settings_of(cell)) for cell in own if cell.arm != cells.PLAIN]
    assert all(asked.count(one) == 1 for one in asked)
    for cell in own:
        settings = AmSamSettings.model_validate(settings_of(cell))
        assert (settings.boxes == "none") == (cell.boxes == "none")
    assert len({studies.made_by(config_of(cell)) for cell in own}) == len(own)


def test_what_is_compared() -> None:
    own = {(cell.boxes, cell.arm) for cell in cells_of(DRAW)}
    without = {arm for boxes, arm in own if boxes == "none"}
    assert without == {cells.SINGLE, cells.BILEVEL, cells.CALIBRATED, cells.AGAIN}
    assert {arm for boxes, arm in own if boxes == "truth"} == set(cells.ARMS)
    assert {arm for boxes, arm in own if boxes == "detector"} < set(cells.ARMS)
    for other in cells.WORLDS[1:]:
        assert {(cell.boxes, cell.arm) for cell in cells_of(replace(DRAW, world=other))} < own


def test_more_shots_hold_the_fewer_ones(world: World) -> None:
    few, rest = world.drawn(4, 3)
    more, _ = world.drawn(8, 3)
    assert {record.image_id for record in few} < {record.image_id for record in more}
    assert {record.image_id for record in (*few, *rest)} == set(range(1, 11))
    assert len(few) + len(rest) == 10
    assert few != world.drawn(4, 4)[0]


def masks(record: Record) -> dict[int, RLE]:
    return by_class(record.instances)


def test_dice(tmp_path: Path) -> None:
    one, other = masks(shot(1, tmp_path)), masks(shot(1, tmp_path, classes=(3,)))
    assert dice(one, one) == 1
    assert dice(one, other) == dice(other, one) == 0.5
    assert dice(one, {}) == 0
    assert dice({}, {}) == 1
    moved = masks(shot(2, tmp_path, classes=(3,)))
    overlap = dice(other, moved)
    assert 0 < overlap < 1


def test_which_boxes_count_as_found(world: World) -> None:
    def told(score: float, moved: float) -> Callable[[Record], tuple[Prompt, ...]]:
        def find(record: Record) -> tuple[Prompt, ...]:
            x0, y0, x1, y1 = boxes_of(record.instances)[3]
            return (Prompt(Origin.DINO, (x0 + moved, y0, x1 + moved, y1), class_id=3, score=score),)

        return find

    assert share_found(world.test, told(0.9, 0)) == 0.5  # of two classes one is asked for
    assert share_found(world.test, told(0.1, 0)) == 0
    assert share_found(world.test, told(0.9, 15)) == 0


def test_rows_of_a_draw(world: World) -> None:
    """Every arm with a SAM of 64 px, for an epoch: what each row tells."""
    predictor = Remembering(SamPredictor(build_small_sam()))
    fits = Fits(DRAW, world, predictor, effort=0.01)
    rows = {(cell.boxes, cell.arm): fits.row(cell, "made") for cell in cells_of(DRAW)}
    assert all(0 <= row.dice <= 1 for row in rows.values())
    for (boxes, arm), row in rows.items():
        assert (row.found is None) == (boxes == "none")
        assert (row.of_d2 is None) == (arm in (cells.PLAIN, cells.SINGLE))
        assert (row.own_masks is None) == (arm != cells.AGAIN)
        assert list(row.curve) == (
            [] if arm == cells.PLAIN else ["0", "1"] + ["2", "3"] * (arm == cells.AGAIN)
        )
        assert Row.of(asdict(row)) == row
    assert rows["truth", cells.PLAIN].found == 1
    assert rows["none", cells.AGAIN].own_masks == 3  # half of the six images that are no shots


class Inline:
    """Stands for a pool of processes: runs at once."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, call: Callable[..., object], *given: object) -> Future[object]:
        future: Future[object] = Future()
        try:
            future.set_result(call(*given))
        except RuntimeError as error:
            future.set_exception(error)
        return future


def row(cell: Cell, made_by: str, *, score: float = 0.5) -> Row:
    tuned = {"of_d2": 0.4, "best_epoch": 1, "curve": {"0": 0.1, "1": 0.2}} if cell.arm != cells.PLAIN else {}
    found = {"found": 0.5, "found_in_shots": 1.0} if cell.boxes != "none" else {}
    return Row(cell, made_by, score, **tuned, **found)  # type: ignore[arg-type]


Call = Callable[..., int]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[Cell]]:
    """Stands for the fits: which cells they were asked for; seed 1 fails."""
    heard: list[list[Cell]] = []

    def fits(_: Path, draw: Draw, left: dict[Cell, str], __: float) -> list[Row]:
        heard.append(list(left))
        if draw.seed == 1:
            raise RuntimeError("no luck")
        return [row(cell, made_by) for cell, made_by in left.items()]

    monkeypatch.setattr(study, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(study, "_taken_in", lambda *_: Path())
    monkeypatch.setattr(study, "fits", fits)
    return heard


@pytest.fixture
def call(tmp_path: Path) -> Call:
    given = [f"--ledger={tmp_path / 'ledger.jsonl'}", "--worlds", "toyworld", "--shots", "4", "8"]
    return lambda *more: study.main([*given, *more])


def test_a_ledger_is_gone_on_with(
    call: Call, asked: list[list[Cell]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--seeds", "0", "1") == 1
    assert len(asked) == 4
    assert capsys.readouterr().err.count("no luck") == 2
    ledger = tmp_path / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:-1]))
    asked.clear()
    assert call("--seeds", "0") == 0
    assert [len(left) for left in asked] == [1]
    asked.clear()
    assert call("--seeds", "0", "--effort=0.5") == 0
    assert len(asked) == 2


def test_the_tables_are_of_whole_fits(
    call: Call, asked: list[list[Cell]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "results.md"
    document.write_text("a\n<!-- am-sam -->\nold\n<!-- end of am-sam -->\nb\n")
    assert call("--seeds", "0") == 0
    assert call("--seeds", "2", "--effort=0.5") == 0
    capsys.readouterr()
    assert call("--seeds", "0", f"--write={document}") == 0
    text = document.read_text()
    assert text.startswith("a\n<!-- am-sam -->\n\ntoyworld, 1 seed, Dice of the test images:")
    assert "old" not in text
    assert "| truth | plain SAM | 50.0 | 50.0 | - | - | - |" in text
    assert capsys.readouterr().err == ""
    assert asked


def test_differences_are_of_seeds_that_have_both() -> None:
    draws = [Draw(cells.WIDE_WORLD, 8, seed) for seed in range(3)]
    some = [row(Cell(draw, "truth", cells.BILEVEL), "m", score=0.5 + 0.1 * draw.seed) for draw in draws]
    others = [row(Cell(draw, "none", cells.BILEVEL), "m", score=0.5) for draw in draws[:2]]
    text = tables([*some, *others])
    assert "| boxes of the truth, for bi-level | - | +5.0 (7.1), 1 of 2 | - |" in text
    assert "| none | bi-level | - | 50.0 (0.0) | - | 89.1 / 91.3 / 92.4 |" in text
    assert "| truth | bi-level | 10.0 | 20.0 |" in text


def test_the_document_has_its_marks() -> None:
    studies.check(RESULTS, study.NAME)
