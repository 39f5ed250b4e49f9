"""Who watches a trial: what he counts, and that each of his checks can fail."""

import json
import time
from pathlib import Path

import pytest

from benchmarks.torture.watch import DELAYED, PLACES, Watcher, heartbeats, images_in_hand


def beat(path: Path, pid: int, about: str, ids: tuple[int, ...] = (1,)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"pid": pid, "host": "h", "about": about, "ids": list(ids)}))
    time.sleep(0.1)  # so that it is seen


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run" / "keys").mkdir(parents=True)
    for keys in DELAYED.values():
        (tmp_path / "run" / keys).write_text("a\n")
    return tmp_path / "run"


@pytest.mark.parametrize("on_ray", [False, True])
def test_units_that_are_begun_again(run: Path, tmp_path: Path, *, on_ray: bool) -> None:
    first, second = (
        tmp_path / place.replace("*", "1-2") / "heartbeat.json" if on_ray else run / ".heartbeat.json"
        for place in PLACES
    )
    with Watcher(run, tmp_path, on_ray=on_ray) as watcher:
        beat(first, 5, "propose unit 0-1")
        beat(first, 5, "propose unit 0-1", (2,))
        beat(first, 5, "propose unit 1-1", ())
        beat(second, 6, "pseudo_label unit 0-1")
        assert watcher.wrong(0) == []
        beat(second, 6, "propose unit 0-1")
    assert watcher.redone == 1
    assert watcher.wrong(1) == []
    assert watcher.wrong(0) == ["1 units redone, 0 workers lost: {'propose unit 0-1': [5, 6]}"]
    assert images_in_hand(heartbeats(run, tmp_path, on_ray=on_ray), 6) == [1]


def test_the_summary_of_rays_driver_is_no_worker(run: Path, tmp_path: Path) -> None:
    with Watcher(run, tmp_path, on_ray=True) as watcher:
        beat(tmp_path / "omworker-1-2" / "heartbeat.json", 5, "propose unit 0-1")
        beat(run / ".heartbeat.json", 4, "propose unit 0-1")
    assert watcher.redone == 0


def test_who_has_seen_nothing(run: Path, tmp_path: Path) -> None:
    with Watcher(run, tmp_path, on_ray=False) as watcher:
        beat(run / ".heartbeat.json", 5, "filter unit 0-1")
    assert watcher.wrong(0) == ["only 0 of 2 units were seen in hand"]
