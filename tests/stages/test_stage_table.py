"""The table itself: names, and the promise that hidden truth is evaluate's alone."""

import pytest
import yaml

from pipeline.engine.plan import READS_TRUTH, TRUTH, made_by, matching
from pipeline.engine.stage import JobStage, MapStage, Stage
from pipeline.stages.table import STAGES
from teachers.catalog import ModelSpec

SPEC = {"model": ModelSpec(name="m", use="fake", settings={})}
INGEST = {"data": {"source": "toyworld"}, "masks": "10%"}


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


@pytest.mark.parametrize(
    "path",
    [
        "stages.yaml",
        "configs/kinds.yaml",
        "configs/kinds-zero-shot.yaml",
        "configs/penn-fudan.yaml",
        "configs/coco-vit-b.yaml",
    ],
)
def test_committed_configs_name_stages_that_exist(path: str) -> None:
    with open(path, encoding="utf-8") as handle:
        content = yaml.safe_load(handle)
    named = [name for entry in content["stages"] for name in entry]
    assert set(named) <= set(STAGES)
