"""The report's section on calibrated trust: what the quality rests on, and what a precision would keep."""

import numpy as np

from pipeline.report.calibration import calibration, calibration_words
from pipeline.report.documents import CalibrationFile
from pipeline.report.page import Page, render
from pipeline.stages.trust import reliability

NOTHING = CalibrationFile(
    weak="point+class", why="expected at least 10 masks", images=1, masks=3, kinds={}, calibrator=None,
    reliability=None, said=[], true=[], image_ids=[],
)  # fmt: skip


def measured(count: int = 400) -> CalibrationFile:
    said = np.linspace(0.2, 0.95, count)
    true = np.where(np.arange(count) % 10 < 10 * said, said, 0.1)
    return NOTHING.model_copy(
        update={
            "why": "reserved masks",
            "images": count,
            "masks": count,
            "reliability": reliability(said, true),
            "said": said.tolist(),
            "true": true.tolist(),
            "image_ids": list(range(count)),
        }
    )


def shown(found: CalibrationFile) -> str:
    return render(Page("title", "subtitle", (), (calibration(found),)))


def test_it_says_what_the_quality_rests_on_and_what_it_keeps() -> None:
    html = shown(measured())
    assert "learned from 400 masks of 400 images (reserved masks)" in html
    assert "calibration error is 0." in html
    rows = [line.split("</tr>")[0] for line in html.split("<tr>") if "<td" in line]
    kept = {row.split(">")[1].split("<")[0]: row for row in rows}
    assert {"0.5", "0.6", "0.7", "0.8", "0.9", "0.95"} <= set(kept)
    assert "%" in kept["0.7"]
    assert "%" not in kept["0.95"]  # these masks cannot promise it


def test_without_a_calibration_it_says_why() -> None:
    assert calibration_words(NOTHING) == (
        "No pseudo-mask has a calibrated quality: expected at least 10 masks."
    )
    html = shown(NOTHING)
    assert "expected at least 10 masks" in html
    assert "<table" not in html
