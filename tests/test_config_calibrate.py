"""`calibrate` in a config: it must label as the run's other stages do, and before the filter that needs it."""

import copy
from pathlib import Path

import pytest
import yaml

from pipeline.config import Request, load_plan
from pipeline.engine.faults import BadPlan
from pipeline.engine.plan import RunPlan
from pipeline.stages.calibrate import CalibrateConfig
from pipeline.stages.gate import GateConfig
from teachers import catalog

MODELS = {
    "teacher": {"use": "class_aware_sam", "sam": "tiny", "text": "tiny"},
    "other": {"use": "class_aware_sam", "sam": "tiny", "text": "tiny"},
    "proposer": {"use": "tiny_grounder"},
}
TUNE = {"finetune_teacher": {"model": "teacher", "steps": 3}}
GATE = {"gate": {"model": "teacher"}}
PROPOSE = {"propose": {"model": "proposer"}}
LABEL = {"pseudo_label": {"model": "teacher", "alpha": 5}}
CALIBRATE = {"calibrate": {"model": "teacher", "proposer": "proposer"}}
PRECISE = {"filter": {"precision": 0.9}}
EXPORT: dict[str, object] = {"export": {}}


@pytest.fixture(autouse=True)
def _weights_of_another_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "identity", lambda spec: {"weights": f"digest of {spec.use}"})


def load(folder: Path, stages: tuple[dict[str, object], ...], **top: object) -> RunPlan:
    data = {"source": "toyworld", "train": 8, "val": 2}
    config = {"name": "c", "data": data, "masks": "10%", "models": MODELS, "stages": list(stages), **top}
    file = folder / "stages.yaml"
    file.write_text(yaml.safe_dump(copy.deepcopy(config)))
    return load_plan(Request(file, device="cpu", data_root=folder))


def changed(stage: dict[str, object], **settings: object) -> dict[str, object]:
    ((name, before),) = stage.items()
    assert isinstance(before, dict)
    return {name: {k: v for k, v in {**before, **settings}.items() if v is not None}}


@pytest.mark.parametrize(
    "stages",
    [
        (TUNE, GATE, PROPOSE, LABEL, CALIBRATE, PRECISE, EXPORT),
        (TUNE, GATE, CALIBRATE, PROPOSE, LABEL, PRECISE, EXPORT),
        (LABEL, changed(CALIBRATE, proposer=None), {"filter": {}}, EXPORT),
        (changed(PROPOSE, score=0.05), LABEL, changed(CALIBRATE, score=0.05), PRECISE),
    ],
)
def test_orders_that_make_sense(tmp_path: Path, stages: tuple[dict[str, object], ...]) -> None:
    planned = load(tmp_path, stages).stages
    assert [one.stage.name for one in planned[1:]] == [next(iter(stage)) for stage in stages]
    (calibrate,) = (one for one in planned if one.stage.name == "calibrate")
    assert calibrate.weights["model.weights"] == "digest of class_aware_sam"


@pytest.mark.parametrize(
    ("propose", "expected"),
    [
        ((), (None, 0.1)),
        ((PROPOSE,), ("proposer", 0.1)),
        ((changed(PROPOSE, score=0.05),), ("proposer", 0.05)),
        ((changed(PROPOSE, score=0.05, resources={"cpus": 2}),), ("proposer", 0.05)),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_what_labels_as_the_run_does_proposes_as_it_does(
    tmp_path: Path, propose: tuple[dict[str, object], ...], expected: tuple[str | None, float], named: bool
) -> None:
    own = "proposer" if named and propose else None
    gate, calibrate = (changed(stage, proposer=own) for stage in (GATE, CALIBRATE))
    planned = load(tmp_path, (TUNE, gate, *propose, LABEL, calibrate, PRECISE)).stages
    for one in planned:
        if isinstance(one.config, GateConfig | CalibrateConfig):
            found = one.config.proposer
            assert (found and found.name, one.config.score) == expected
            assert ("proposer.weights" in one.weights) is bool(propose)


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ((LABEL, PRECISE), "filter.precision: expected a stage `calibrate` before it, found none"),
        (
            (LABEL, {"filter": {"preset": "custom", "min_quality": 0.5}}),
            "filter.min_quality: expected a stage `calibrate` before it, found none",
        ),
        ((PROPOSE, LABEL, {"filter": {}}, CALIBRATE), "calibrate: expected before `filter`, which works"),
        ((LABEL, CALIBRATE, PRECISE), "calibrate.proposer: expected none, as in propose, found 'proposer'"),
        (
            (PROPOSE, LABEL, {"calibrate": {"model": "teacher", "proposer": None}}, PRECISE),
            "calibrate.proposer: expected 'proposer', as in propose, found none",
        ),
        (
            (TUNE, {"gate": {"model": "teacher", "proposer": None}}, PROPOSE, LABEL, EXPORT),
            "gate.proposer: expected 'proposer', as in propose, found none",
        ),
        (
            (TUNE, GATE, changed(PROPOSE, sore=0.2), LABEL, CALIBRATE, EXPORT),
            "stages.2.propose.sore: unknown key, did you mean 'score'?",
        ),
        (
            (TUNE, GATE, changed(PROPOSE, score=7), LABEL, CALIBRATE, PRECISE),
            "stages.2.propose.score: Input should be less than or equal to 1",
        ),
        (
            (TUNE, changed(GATE, proposer="proposer"), changed(PROPOSE, resources={"cpu": 2}), LABEL, EXPORT),
            "stages.2.propose.resources.cpu: unknown key, did you mean 'cpus'?",
        ),
        (
            (TUNE, GATE, PROPOSE, changed(LABEL, alpha=4), EXPORT),
            "gate.model: pseudo_label sets alpha to 4.0 for itself, the model has 5.0; set it in models.teacher",
        ),
        (
            (TUNE, changed(GATE, proposer="proposer"), LABEL, EXPORT),
            "gate.proposer: expected none, as in propose, found 'proposer'",
        ),
        (
            (TUNE, changed(GATE, proposer="proposer", score=0.2), PROPOSE, LABEL, EXPORT),
            "gate.score: expected 0.1, as in propose, found 0.2",
        ),
        (
            (PROPOSE, LABEL, changed(CALIBRATE, score=0.2), PRECISE),
            "calibrate.score: expected 0.1, as in propose, found 0.2",
        ),
        (
            (PROPOSE, LABEL, changed(CALIBRATE, model="other"), PRECISE),
            "calibrate.model: expected 'teacher', as in pseudo_label, found 'other'",
        ),
        (
            (PROPOSE, changed(LABEL, alpha=4), CALIBRATE, PRECISE),
            "calibrate.model: pseudo_label sets alpha to 4.0 for itself, the model has 5.0; set it in models.teacher",
        ),
        (
            (PROPOSE, LABEL, changed(CALIBRATE, proposer="teacher"), PRECISE),
            "stages.2.calibrate.proposer: expected a proposer, found 'teacher', a teacher",
        ),
        (
            (PROPOSE, LABEL, TUNE, CALIBRATE, PRECISE),
            "finetune_teacher: expected before `pseudo_label`, which works",
        ),
    ],
)
def test_what_makes_no_sense(tmp_path: Path, stages: tuple[dict[str, object], ...], expected: str) -> None:
    with pytest.raises(BadPlan) as caught:
        load(tmp_path, stages)
    (found,) = caught.value.problems
    assert found.startswith(expected)


WHOLE = (PROPOSE, LABEL, CALIBRATE, PRECISE)
LEAST = {"filter": {"min_quality": 0.5}}


@pytest.mark.parametrize(
    ("stages", "top", "expected"),
    [
        (WHOLE, {"weak": "none"}, "filter.precision: cannot be promised with weak: none"),
        (WHOLE, {"masks": "0%"}, "filter.precision: expected human masks to calibrate on, found none"),
        ((*WHOLE[:3], LEAST), {"masks": None, "shots": 0}, "filter.min_quality: expected human masks"),
        (
            (LABEL, {"calibrate": {"model": "teacher", "score": 0.3}}, LEAST),
            {},
            "calibrate.score: is of proposals, found no proposer",
        ),
    ],
)
def test_limits_without_ground(
    tmp_path: Path, stages: tuple[dict[str, object], ...], top: dict[str, object], expected: str
) -> None:
    with pytest.raises(BadPlan) as caught:
        load(tmp_path, stages, **top)
    (found,) = caught.value.problems
    assert found.startswith(expected)


@pytest.mark.parametrize("stages", [(TUNE, GATE, PROPOSE, LABEL), (TUNE, PROPOSE, LABEL, CALIBRATE)])
def test_what_tries_a_teacher_needs_folds(tmp_path: Path, stages: tuple[dict[str, object], ...]) -> None:
    models = {**MODELS, "teacher": {**MODELS["teacher"], "cross_fit": False}}
    with pytest.raises(BadPlan) as caught:
        load(tmp_path, stages, models=models)
    (found,) = caught.value.problems
    assert found.startswith("models.teacher.cross_fit: expected true, found false")
    assert load(tmp_path, (TUNE, PROPOSE, LABEL), models=models).stages


def test_without_a_label_quality_is_limited_all_the_same(tmp_path: Path) -> None:
    assert load(tmp_path, (*WHOLE[:3], LEAST), weak="none").stages[-1].config.min_quality == 0.5  # type: ignore[attr-defined]


def test_a_resolved_config_can_be_run(tmp_path: Path) -> None:
    plan = load(tmp_path, (LABEL, {"calibrate": {"model": "teacher"}}, LEAST))
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(plan.resolved))
    again = load_plan(Request(file, device="cpu", data_root=tmp_path))
    assert again.resolved == plan.resolved
