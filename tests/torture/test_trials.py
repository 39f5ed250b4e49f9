"""A few seeded trials of each kind, small enough for every day; `make torture` does hundreds (docs/reliability.md)."""

import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.torture import faults, kinds, points
from benchmarks.torture.data import make_data
from benchmarks.torture.ground import LOCAL, RAY, Oracle, Trial, make_oracle

IMAGES = 60  # 1.5 s of work; three of them may be bad
SERIES = [
    ("driver", LOCAL, 0),
    ("worker", LOCAL, 0),
    ("orphans", LOCAL, 0),
    ("signals", LOCAL, 0),
    ("poison", LOCAL, 0),
    ("bitflips", LOCAL, 0),
    ("changed", LOCAL, 0),
    ("two", LOCAL, 0),
    ("disk", LOCAL, 0),
    ("driver", RAY, 0),
    ("worker", RAY, 0),
]


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """Short, as Ray's sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="ot-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def oracle(base: Path) -> Oracle:
    make_data(base / "data", images=IMAGES)
    return make_oracle(base / "oracle", base / "data")


def do(trial: Trial) -> None:
    kinds.KINDS[trial.kind].act(trial)
    trial.no_strays()
    shutil.rmtree(trial.folder)
    assert trial.failures == [], trial.how
    assert trial.kills > 0, trial.how


@pytest.mark.parametrize(("kind", "engine", "number"), SERIES)
def test_trial(base: Path, oracle: Oracle, kind: str, engine: str, number: int) -> None:
    draw = random.Random(f"{kind}/{engine}/test/{number}")
    folder = base / str(SERIES.index((kind, engine, number)))
    do(Trial(kind, engine, draw, folder, oracle, number=number))


@pytest.mark.parametrize(
    ("way", "share"),
    [(points.Hook(), 0.2), (points.Hook(), 0.8), (points.Strace(), 0.15)],
    ids=["driver", "worker", "strace"],
)
def test_killed_at_a_call(
    base: Path, oracle: Oracle, monkeypatch: pytest.MonkeyPatch, *, way: points.Injector, share: float
) -> None:
    if isinstance(way, points.Strace) and not isinstance(points.injector(), points.Strace):
        pytest.skip("strace is not there, or may not be used")
    monkeypatch.setattr(faults, "injector", lambda: way)
    folder = base / way.name
    folder.mkdir(exist_ok=True)
    number = int(share * len(faults.points(folder)))
    do(Trial("syscalls", LOCAL, random.Random(0), folder / f"{share}", oracle, number=number))


def test_a_point_that_is_not_reached(base: Path, oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before it is, at most TRIES of them; what is far beyond fails, and is no kill."""
    monkeypatch.setattr(faults, "injector", points.Hook)
    folder = base / "hook"
    folder.mkdir(exist_ok=True)
    last = max((p for p in faults.points(folder) if p.call == "rename"), key=lambda p: (p.role, p.number))
    for beyond, kills in ((1, 1), (faults.TRIES, 0)):
        point = replace(last, number=last.number + beyond)
        monkeypatch.setattr(faults, "points", lambda _, point=point: [point])
        trial = Trial("syscalls", LOCAL, random.Random(0), folder / f"beyond-{beyond}", oracle)
        faults.syscalls(trial)
        assert trial.kills == kills, trial.how
        assert any("never hit" in line for line in trial.failures) == (kills == 0)
        monkeypatch.undo()
        monkeypatch.setattr(faults, "injector", points.Hook)


def test_other_bytes_than_the_oracles_are_told(base: Path, oracle: Oracle) -> None:
    wrong = replace(oracle, contents={**oracle.contents, "run/export/coco/train.json": "0"})
    trial = Trial("driver", LOCAL, random.Random(0), base / "wrong", wrong)
    trial.finish()
    trial.judge()
    assert len(trial.failures) == 1
    assert "coco/train.json: sha256" in trial.failures[0]
