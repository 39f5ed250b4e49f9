"""The trivial baselines of the benchmarks, and the order that the kinds' means must have."""

import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from stage_fakes import (
    SIZE,
    annotation,
    box_rle,
    boxed,
    human,
    point,
    record,
    write_coco,
    write_images,
)

from benchmarks.baselines import Run, baselines, disc, ellipse, grabcut, mean_areas
from benchmarks.kinds import checks
from pipeline.config import Request, load_plan
from pipeline.data.records import Instance, Role
from pipeline.engine.display import Silent
from pipeline.engine.drive import Options, drive

GOOD = {
    "none": 0.1,
    "class": 0.2,
    "point+class": 0.5,
    "box+class": 0.7,
    "disc": 0.3,
    "ellipse": 0.6,
    "zero-shot": 0.4,
}


@pytest.mark.parametrize(
    ("instance", "area"),
    [
        (boxed((4, 2, 24, 22)), math.pi * 10 * 10),
        (boxed((0, 0, 30, 8)), math.pi * 15 * 4),
        (point(3, 3), None),
    ],
)
def test_an_ellipse_fills_its_box(instance: Instance, area: float | None) -> None:
    mask = ellipse(record(), instance)
    assert (mask is None) == (area is None)
    if mask is not None and area is not None:
        assert mask.shape == SIZE
        assert mask.sum() == pytest.approx(area, rel=0.06)


@pytest.mark.parametrize(("class_id", "area"), [(3, 64), (9, 40)])
def test_a_disc_has_the_mean_area_of_its_class(class_id: int, area: float) -> None:
    areas = mean_areas(
        [record(1, Role.HUMAN_MASKED, instances=(human(box_rle(0, 0, 8, 8)), human(box_rle(0, 0, 4, 4), 7)))]
    )
    mask = disc(areas)(record(), point(16, 12, class_id))
    assert mask is not None
    assert mask.sum() == pytest.approx(area, rel=0.15)
    assert mask[12, 16]
    assert disc(areas)(record(), boxed((0, 0, 4, 4))) is None


def test_grabcut_stays_in_the_box(tmp_path: Path) -> None:
    write_images(tmp_path, [record(1)])
    mask = grabcut(tmp_path)(record(1), boxed((4.5, 2, 12, 9.5)))
    assert mask is not None
    outside = np.ones(SIZE, bool)
    outside[2:10, 4:12] = False
    assert not mask[outside].any()


def test_a_finished_run_is_scored_against_its_hidden_truth(tmp_path: Path) -> None:
    """Of three images with an object that fills its box, two were simulated weakly."""
    rle = box_rle(2, 2, 14, 10)
    images: list[dict[str, object]] = [{"id": n, "file_name": f"{n}.png"} for n in (1, 2, 3)]
    write_coco(tmp_path, "truth", images, [annotation(n, n, rle) for n in (1, 2, 3)])
    config = {
        "name": "small",
        "data": {"source": "coco", "json": "truth.json", "images": "images"},
        "weak": "box+class",
        "shots": 1,
        "device": "cpu",
        "stages": [{"filter": {}}],
    }
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump(config))
    plan = load_plan(Request(tmp_path / "stages.yaml", data_root=tmp_path))
    drive(plan, Options(tmp_path / "run", tmp_path / "store", workers=0), Silent())
    found = baselines(Run.open(tmp_path / "run"))
    assert set(found) == {"ellipse", "grabcut"}
    assert found["ellipse"] == pytest.approx(math.pi / 4, abs=0.06)


def test_a_disc_needs_masks() -> None:
    with pytest.raises(ValueError, match="needs human masks"):
        mean_areas([record(instances=(point(1, 1),))])


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, 0),
        ({"none": 0.2}, 0),
        ({"none": 0.3}, 1),
        ({"disc": 0.5}, 1),
        ({"ellipse": 0.8}, 1),
        ({"zero-shot": 0.6}, 1),
        ({"box+class": 0.4}, 2),
    ],
)
def test_the_order_of_kinds(change: dict[str, float], broken: int) -> None:
    assert sum(not passed for passed in checks(GOOD | change).values()) == broken
