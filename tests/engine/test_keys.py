from dataclasses import replace

import pytest
from engine_fakes import FakeMapConfig, FakePropose

from pipeline.engine.keys import Setting, canonical, job_key, stage_digest, unit_key
from pipeline.engine.plan import PlannedStage
from pipeline.engine.stage import Resources

SETTING = Setting("cpu", 2, "classes")
PLANNED = PlannedStage("propose", FakePropose, FakeMapConfig(), Resources.model_validate({}))


class Newer(FakePropose):
    version = 2


class Other(FakePropose):
    name = "other"


def digest(planned=PLANNED, artifacts=None, setting=SETTING):
    return stage_digest(planned, artifacts=artifacts or {}, setting=setting)


@pytest.mark.parametrize(
    "changed",
    [
        {"planned": replace(PLANNED, stage=Newer)},
        {"planned": replace(PLANNED, stage=Other)},
        {"planned": replace(PLANNED, config=FakeMapConfig(batch_size=5))},
        {"planned": replace(PLANNED, weights={"model": "digest"})},
        {"artifacts": {"teacher": "digest"}},
        {"setting": replace(SETTING, device_type="cuda")},
        {"setting": replace(SETTING, torch_threads=3)},
        {"setting": replace(SETTING, ontology_digest="other classes")},
    ],
)
def test_what_a_result_depends_on_is_in_its_key(changed):
    assert digest(**changed) != digest()


def test_resources_and_labels_are_not():
    planned = replace(
        PLANNED, label="another", resources=Resources.model_validate({"cpus": 9, "workers": (1, 8)})
    )
    assert digest(planned) == digest()


class Nested(FakeMapConfig):
    model: dict[str, str | dict[str, int]]


def nested(name="a", path=1, rank=2):
    settings = {"name": name, "settings": {"path": path, "rank": rank}}
    unkeyed = frozenset({"model.name", "model.settings.path"})
    return replace(PLANNED, config=Nested(model=settings), not_in_key=unkeyed)


def test_what_changes_no_result_is_not():
    assert digest(nested(name="b", path=3)) == digest(nested())
    assert digest(nested(rank=3)) != digest(nested())


@pytest.mark.parametrize("key", ["stage", "bucket", "inputs"])
def test_unit_keys_differ(key):
    parts = {"stage": "s", "bucket": "b", "inputs": "i"}
    assert unit_key(**parts) != unit_key(**{**parts, key: "x"})


@pytest.mark.parametrize(
    ("key", "value"), [("inputs", "x"), ("seed", 1), ("identity", "x"), ("timed", {"propose": "x"})]
)
def test_job_keys_differ(key, value):
    parts = {"inputs": "i", "seed": 0, "identity": "", "timed": {"propose": "t"}}
    assert job_key("s", **parts) != job_key("s", **{**parts, key: value})


def test_canonical_json():
    assert canonical({"b": [1.5, None], "a": "é"}) == '{"a":"é","b":[1.5,null]}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(float("nan"))
