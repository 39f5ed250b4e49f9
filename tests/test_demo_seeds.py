"""The demo over seeds: what it runs, sums up and asks for."""

import json
from pathlib import Path

import pytest

from benchmarks import demo_seeds
from benchmarks.baselines import Run


@pytest.mark.parametrize(("ap50", "code"), [([0.1, 0.3], 0), ([0.1, 0.2], 1)])
def test_the_mean_of_the_points_decides(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ap50: list[float],
    code: int,
) -> None:
    def run(config: str, out: Path, *settings: str, weak: str, seed: int) -> Run:
        assert (config, settings) == ("stages.yaml", ("torch_threads=1",))
        out.mkdir(parents=True)
        score = {"AP": 0.05, "AP50": ap50[seed] if weak == "point+class" else 0.0}
        aligned = {"AP": 0.2, "AP50": 0.6}
        metrics = {"pseudo": {"miou": 0.5}, "students": {"student": score, "aligned": aligned}}
        (out / "metrics.json").write_text(json.dumps(metrics))
        return Run(out, out, out)

    monkeypatch.setattr(demo_seeds, "run_pipeline", run)
    monkeypatch.setattr(demo_seeds, "SEEDS", range(2))
    monkeypatch.setattr(demo_seeds, "OUT", tmp_path)
    assert demo_seeds.main() == code
    said = capsys.readouterr().out
    assert (tmp_path / "metrics.json").read_text() == said
    found = json.loads(said)
    assert found["point+class"]["student AP50"]["values"] == ap50
    assert found["point+class"]["aligned AP"]["values"] == [0.2, 0.2]
    assert found["box+class"]["mIoU"] == {"mean": 0.5, "spread": 0.0, "values": [0.5, 0.5]}
