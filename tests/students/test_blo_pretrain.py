"""What the tiny FCOS learns before it is anyone's detector, and how its start is scored."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.data.errors import BadInput
from pipeline.toyworld.scene import Scene, render
from pipeline.toyworld.world import classes
from students import pretrain_fcos
from students.pretrain_fcos import Learner, Steps, begin
from students.pretrain_scenes import FIRST, NAMES
from teachers.detector_weights import new_detector
from teachers.fcos import build_fcos_tiny
from teachers.tiny import listing
from teachers.tiny.proposer import Detections
from teachers.tiny.scenes import cached
from teachers.tiny.weights import load_weights


def steps(batch: int = 3) -> Steps:
    worlds = [
        ([cached(render(world, 7, index)) for index in range(3)], first) for world, first in FIRST.items()
    ]
    return Steps(worlds, seed=3, batch=batch)


def learner() -> Learner:
    torch.manual_seed(0)
    return Learner(begin(build_fcos_tiny(NAMES)))


def test_a_step_sees_boxes_of_both_worlds_and_tells_their_names_apart() -> None:
    drawn = steps()
    pixels, targets = drawn[5]
    again, _ = drawn[5]
    assert torch.equal(pixels, again)
    assert not torch.equal(pixels, drawn[6][0])
    assert pixels.shape == (3, 3, 256, 256)
    assert pixels.max() > 1
    names = torch.cat([own.labels for step in range(6) for own in drawn[step][1]])
    border = len(classes("demo"))
    assert (names < border).any()
    assert (names >= border).any()
    assert names.max() < NAMES
    for own in targets:
        assert ((own.boxes[:, 2:] - own.boxes[:, :2]) > 0).all()
        assert len(own.boxes) == len(own.labels) == len(own.weights)


def test_it_begins_with_the_grounders_pyramid_and_keeps_its_statistics() -> None:
    made = learner().train()
    grounder = load_weights(listing.GROUNDER)
    pyramid = made.detector.model.backbone.pyramid
    before = {name: value.clone() for name, value in pyramid.state_dict().items()}
    assert all(torch.equal(value, grounder[name]) for name, value in before.items())
    optimizer = torch.optim.SGD(made.parameters(), lr=0.01)
    torch.stack(list(made.losses(steps()[0]).values())).sum().backward()
    optimizer.step()
    after = pyramid.state_dict()
    statistics = {name for name in before if "running" in name or "tracked" in name}
    assert {name for name in before if torch.equal(before[name], after[name])} == statistics


def perfect(_: object, scene: Scene) -> Detections:
    things = [thing for thing in scene.objects if thing.class_id is not None]
    return Detections(
        np.array([thing.box_xyxy for thing in things], np.float64).reshape(-1, 4),
        np.full(len(things), 0.9),
        np.array([thing.class_id - 1 for thing in things], np.int64),
    )


def test_the_score_is_that_of_the_demos_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretrain_fcos.evaluate(learner().detector, scenes=2)["AP50"] < 0.2
    monkeypatch.setattr(pretrain_fcos, "_found", perfect)
    found = pretrain_fcos.evaluate(learner().detector, scenes=2)
    assert (found["AP50"], found["AP"]) == (1.0, 1.0)


def test_a_student_of_as_many_classes_has_a_class_layer_of_its_own() -> None:
    """The embedded ones are of other names, however many the student has."""
    found, known = new_detector("fcos_tiny", NAMES, focal=True), load_weights(listing.DETECTOR)
    own = found.model.state_dict()
    same = {name for name in own if torch.equal(own[name], known[name])}
    new = {name for name in own if name.startswith(found.class_part)}
    assert not same & {name for name in new if name.endswith("weight")}
    assert set(own) - same <= new


def test_what_would_do_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["pretrain_fcos", "--workdir", str(tmp_path), "--muon", "3"])
    with pytest.raises(BadInput, match="--muon 3: an FCOS has no linear layer for it to move; expected 0"):
        pretrain_fcos.main()
    assert not any(isinstance(module, nn.Linear) for module in build_fcos_tiny(NAMES).modules())


def test_training_leaves_the_detector_that_a_student_begins_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under torchvision's own names, so that the file is a student's `detector_weights` too."""
    monkeypatch.setattr(pretrain_fcos, "worlds_seen", lambda _: steps().worlds)
    monkeypatch.setattr(
        "sys.argv", ["pretrain_fcos", "--workdir", str(tmp_path), "--batch", "1", "--steps", "2"]
    )
    assert pretrain_fcos.main() == 0
    kept = tmp_path / "weights.safetensors"
    assert load_file(kept).keys() == build_fcos_tiny(NAMES).model.state_dict().keys()
    found = new_detector("fcos_tiny", 2, focal=True, weights=kept).model.state_dict()
    pyramid = "backbone.pyramid.stem.0.0.weight"
    assert torch.equal(found[pyramid], load_file(kept)[pyramid])
