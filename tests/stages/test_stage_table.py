"""The table itself: names, and the promise that hidden truth is evaluate's alone."""

from pathlib import Path

import pytest
import yaml

from benchmarks.demo_seeds import STUDENTS
from pipeline.config import Request, load_plan
from pipeline.engine.plan import READS_TRUTH, TRUTH, made_by, matching
from pipeline.engine.stage import JobStage, MapStage, Stage
from pipeline.stages.table import STAGES
from teachers.catalog import ModelSpec

SPEC = {"model": ModelSpec(name="m", use="fake", settings={})}
INGEST = {"data": {"source": "toyworld"}, "masks": "10%"}
ROOT = Path(__file__).parents[2]
CONFIGS = ("stages.yaml", *sorted(f"configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")))
PHOTOS = ("configs/car-parts.yaml", "configs/coco-tiny.yaml", "configs/penn-fudan.yaml")


def build(stage: type[Stage]) -> Stage:
    fields = stage.Config.model_fields
    config = INGEST if stage.name == "ingest" else SPEC if "model" in fields else {}
    return stage(stage.Config.model_validate(config))


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_is_built_from_its_config_and_is_a_map_or_a_job(name: str) -> None:
    stage = build(STAGES[name])
    assert stage.name == name
    assert isinstance(stage, MapStage | JobStage)
    assert stage.version >= 1
    config = stage.Config.model_validate_json(stage.config.model_dump_json(by_alias=True))
    assert config == stage.config


@pytest.mark.parametrize("name", STAGES)
def test_only_evaluate_asks_for_hidden_truth(name: str) -> None:
    stage = build(STAGES[name])
    asked = [p for p in (*stage.uses, *stage.may_use) if matching(p, (TRUTH, "ingest"))]
    assert bool(asked) == (name == READS_TRUTH)


def test_truth_is_a_part_of_its_own() -> None:
    assert made_by(build(STAGES["ingest"])) == ("dataset", "truth")


@pytest.mark.parametrize("path", CONFIGS)
def test_committed_configs_name_stages_that_exist(path: str) -> None:
    content = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    named = [name for entry in content["stages"] for name in entry]
    assert set(named) <= set(STAGES)


@pytest.mark.parametrize(
    "path", ["stages.yaml", "configs/kinds.yaml", "configs/kinds-zero-shot.yaml", "configs/study.yaml"]
)
def test_committed_configs_of_the_toy_world_pass_the_check(path: str) -> None:
    assert load_plan(Request(ROOT / path, device="cpu")).stages


def test_the_demo_trains_and_scores_both_students() -> None:
    stages = load_plan(Request(ROOT / "stages.yaml", device="cpu")).stages
    trained = [planned.label.partition(":")[2] for planned in stages if planned.stage.name == "train_student"]
    assert trained == list(STUDENTS)
    names = [planned.stage.name for planned in stages]
    assert names.index("evaluate") > max(i for i, name in enumerate(names) if name == "train_student")


@pytest.mark.parametrize("path", PHOTOS)
def test_committed_configs_of_photos_pass_the_check(path: str, real_data: Path) -> None:
    assert load_plan(Request(ROOT / path, device="cpu", data_root=real_data)).torch_threads == 1
