"""The picture of the embedded models' trainings: what is read from their logs, and that it is drawn."""

import json
from pathlib import Path

from benchmarks.tiny_curves import SMOOTH, curves, draw, read


def log(path: Path, *stages: int) -> Path:
    lines = [
        {"step": step, "seconds": 1.0, "lr": 0.1, "loss": float(step), **({"click": 2.0} if step % 2 else {})}
        for last in stages
        for step in range(1, last + 1)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_stages_follow_each_other(tmp_path: Path) -> None:
    found = curves(read(log(tmp_path / "sam.jsonl", SMOOTH, 2 * SMOOTH)))
    assert list(found) == ["loss", "click"]
    steps, values = found["loss"]
    assert steps == [SMOOTH, 2 * SMOOTH, 3 * SMOOTH]
    assert values == [(SMOOTH + 1) / 2, (SMOOTH + 1) / 2, (SMOOTH + 1) / 2 + SMOOTH]
    assert set(found["click"][1]) == {2.0}


def test_every_log_has_a_panel(tmp_path: Path) -> None:
    logs = [log(tmp_path / f"{name}.jsonl", 20) for name in ("sam", "text")]
    draw(logs, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
