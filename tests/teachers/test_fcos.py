"""FCOS as a detector that losses can be asked through twice: what it says, assigns and loses, against torchvision's."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from small_fcos import CLASSES, SOME, objects, pixels, tiny
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from teachers.detector import Assignment, Raw, Targets
from teachers.fcos import FcosDetector, build_fcos_r50

CELLS = {64: 64 + 16 + 4, 96: 144 + 36 + 9}  # of the strides 8, 16 and 32


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("side", CELLS)
def test_raw_predictions_of_squares_of_any_size(side: int) -> None:
    detector = tiny()
    images = pixels(2, side)
    raw = detector.predict(images)
    assert raw.boxes.shape == (2, CELLS[side], 4)
    assert raw.class_logits.shape == (2, CELLS[side], CLASSES)
    assert raw.object_logits is not None
    assert raw.object_logits.shape == (2, CELLS[side])
    assert raw.side == side
    assert raw.strides.unique().tolist() == [8, 16, 32]
    assert ((raw.centres >= 0) & (raw.centres < side)).all()
    # Each image as if it were alone.
    torch.testing.assert_close(detector.predict(images[1:]).boxes[0], raw.boxes[1])


def test_boxes_are_distances_in_strides_decoded_out_of_place() -> None:
    detector, said = tiny(), []
    detector.model.head.register_forward_hook(lambda *found: said.append(found[2]["bbox_regression"]))
    raw = detector.predict(pixels())
    (apart,) = said
    low, high = apart[..., :2] * raw.strides[:, None], apart[..., 2:] * raw.strides[:, None]
    torch.testing.assert_close(raw.boxes, torch.cat([raw.centres - low, raw.centres + high], -1))
    assert apart._version == 0
    (gradient,) = torch.autograd.grad(raw.boxes.square().sum(), apart)
    assert (gradient != 0).all()


def torchvisions(
    detector: FcosDetector, raw: Raw, targets: list[Targets]
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Its own losses of the same predictions, and which object each location learns, -1 for none."""
    model, matched = detector.model, []
    sides = raw.strides[:, None] / 2
    anchors = torch.cat([raw.centres - sides, raw.centres + sides], 1)
    said = {
        "cls_logits": raw.class_logits,
        "bbox_regression": torch.cat([raw.centres - raw.boxes[..., :2], raw.boxes[..., 2:] - raw.centres], -1)
        / raw.strides[:, None],
        "bbox_ctrness": raw.object_logits[..., None],
    }
    compute = model.head.compute_loss

    def watched(*given: object) -> dict[str, Tensor]:
        matched.extend(given[3])
        return compute(*given)

    model.head.compute_loss = watched
    own = [{"boxes": t.boxes, "labels": t.labels} for t in targets]
    levels = [int((raw.strides == stride).sum()) for stride in raw.strides.unique()]
    return model.compute_loss(own, said, [anchors] * len(targets), levels), matched


def drawn(count: int, side: int, seed: int) -> Targets:
    draw = torch.Generator().manual_seed(seed)
    corners = side * torch.rand(count, 2, generator=draw, dtype=torch.float64)
    sizes = side * torch.rand(count, 2, generator=draw, dtype=torch.float64)
    boxes = torch.cat([corners, corners + sizes + 2], 1).clamp(max=side - 0.3)
    return Targets(boxes, torch.arange(count) % CLASSES, torch.ones(count))


@pytest.mark.parametrize("side", [64, 256])
def test_assignment_and_centreness_are_torchvisions(side: int) -> None:
    detector = tiny()
    raw = detector.predict(pixels(2, side))
    every = [drawn(9, side, seed) for seed in range(20)]
    levels = set()
    for first, second in zip(every[::2], every[1::2], strict=True):
        targets = [first, second]
        found = detector.assign(raw, targets)
        theirs, matched = torchvisions(detector, raw, targets)
        own = torch.full(raw.boxes.shape[:2], -1)
        own[found.image, found.location] = found.target
        assert torch.equal(own, torch.stack(matched))
        losses = detector.losses(raw, targets, found)
        torch.testing.assert_close(losses["obj"], theirs["bbox_ctrness"])
        levels |= set(raw.strides[found.location].tolist())
    assert levels == ({8, 16, 32} if side == 256 else {8})


def test_losses_of_the_classes_are_torchvisions_where_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("teachers.fcos.lost", lambda raw, *_: torch.zeros_like(raw.strides, dtype=torch.bool))
    monkeypatch.setattr("teachers.box_losses.focal_loss.__kwdefaults__", {"alpha": 0.25, "gamma": 2.0})
    detector = tiny()
    raw = detector.predict(pixels())
    targets = [drawn(4, 64, 1), drawn(3, 64, 2)]
    theirs, _ = torchvisions(detector, raw, targets)
    ours = detector.losses(raw, targets, detector.assign(raw, targets))
    torch.testing.assert_close(ours["cls"], theirs["classification"])


def test_no_location_is_between_two_levels() -> None:
    """A distance that two levels end at is the finer one's; torchvision's own rule gives it to neither."""
    detector = tiny()
    raw = detector.predict(pixels(1, 256))
    found = detector.assign(raw, [objects([64.0, 70.0, 192.0, 190.0])])
    assert [128.0, 128.0] in raw.centres[found.location].tolist()  # 64 to either side


def test_the_coarsest_level_learns_the_largest_objects() -> None:
    detector = tiny()
    small = detector.predict(pixels(1, 256))
    raw = replace(small, centres=4 * small.centres, side=1024)
    found = detector.assign(raw, [objects([10.0, 10.0, 1000.0, 1000.0])])
    assert raw.centres[found.location].tolist() == [[512.0, 512.0]]
    assert raw.strides[found.location].tolist() == [32.0]


def test_the_assignment_depends_on_true_boxes_alone() -> None:
    every = [tiny(seed) for seed in range(2)]
    raws = [detector.predict(pixels(seed + 2)[:2]) for seed, detector in enumerate(every)]
    assert not torch.equal(raws[0].boxes, raws[1].boxes)
    one, other = (detector.assign(raw, SOME) for detector, raw in zip(every, raws, strict=True))
    for name in ("image", "location", "target", "unsaid"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_objects_that_no_location_learns_are_not_background() -> None:
    """The first one lies between centres; of the second, one is told; nothing is known in the lower half."""
    region = torch.zeros(64, 64, dtype=torch.bool)
    region[32:] = True
    detector = tiny()
    raw = detector.predict(pixels(1))
    found = detector.assign(raw, [objects([1.0, 1.0, 6.0, 6.0], [20.0, 4.0, 30.0, 14.0], region=region)])
    assert set(found.target.tolist()) == {1}
    unsaid = found.unsaid[0]
    apart = torch.maximum(1.0 - raw.centres, raw.centres - 6.0).amax(-1)
    assert torch.equal(unsaid, (apart <= raw.strides / 2) | (raw.centres[:, 1] >= 32))
    assert not unsaid[found.location].any()
    (gradient,) = torch.autograd.grad(
        detector.losses(raw, [objects([1.0, 1.0, 6.0, 6.0], [20.0, 4.0, 30.0, 14.0])], found)["cls"],
        raw.class_logits,
    )
    assert torch.equal((gradient[0] != 0).all(-1), ~unsaid)


@pytest.mark.parametrize("focal", [True, False])
def test_no_objects_teach_that_nothing_is_there(focal: bool) -> None:
    detector = tiny(focal=focal)
    raw = detector.predict(pixels())
    losses = detector.losses(raw, [objects()] * 2, detector.assign(raw, [objects()] * 2))
    assert losses["box"] == losses["obj"] == 0
    chance = raw.class_logits.sigmoid()
    entropy = -(1 - chance).log()
    expected = 0.75 * chance**1.5 * entropy if focal else entropy
    torch.testing.assert_close(losses["cls"], expected.sum())
    assert all(value.isfinite() for value in losses.values())


def test_an_image_without_objects_beside_one_with_some() -> None:
    detector = tiny()
    raw = detector.predict(pixels())
    found = detector.assign(raw, [objects(), SOME[0]])
    assert set(found.image.tolist()) == {1}
    whole = detector.losses(raw, [objects(), SOME[0]], found)
    (gradient,) = torch.autograd.grad(whole["box"], raw.boxes)
    assert not gradient[0].any()
    assert gradient[1].any()


def test_losses_count_as_much_as_their_object() -> None:
    """On one location each: of weight 0 it is told nothing, of weight 1/2 half as much."""
    detector = tiny()
    raw = detector.predict(pixels(1))
    boxes = [10.0, 10.0, 30.0, 30.0], [40.0, 40.0, 60.0, 60.0]
    found = detector.assign(raw, [objects(*boxes)])
    gradients = {}
    for weight in (1.0, 0.5, 0.0):
        losses = detector.losses(raw, [objects(*boxes, weights=[1.0, weight])], found)
        for name, given in (("box", raw.boxes), ("obj", raw.object_logits), ("cls", raw.class_logits)):
            (gradient,) = torch.autograd.grad(losses[name], given, retain_graph=True)
            gradients[name, weight] = gradient[0, found.location]
    first, second = found.target == 0, found.target == 1
    for name in ("box", "obj", "cls"):
        full = gradients[name, 1.0]
        assert full[first].any()
        assert full[second].any()
        for weight in (0.5, 0.0):
            torch.testing.assert_close(gradients[name, weight][first], full[first])
            torch.testing.assert_close(gradients[name, weight][second], weight * full[second])


def test_an_assignment_that_is_given_is_not_made_anew() -> None:
    detector = tiny()
    raw = detector.predict(pixels(1))
    fixed = Assignment(*(torch.tensor([place]) for place in (0, 7, 0)), torch.zeros(1, 84, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(detector.losses(raw, SOME[:1], fixed)["box"], raw.boxes)
    assert gradient[0].any(-1).nonzero().flatten().tolist() == [7]


def test_a_resnet_50_has_frozen_norms_and_torchvisions_strides() -> None:
    with torch.device("meta"):
        detector = build_fcos_r50(CLASSES)
    modules = list(detector.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in modules)
    assert sum(isinstance(module, FrozenBatchNorm2d) for module in modules) == 53
    assert [size for (size,) in detector.model.anchor_generator.sizes] == [8, 16, 32, 64, 128]
    assert sum(p.numel() for p in detector.parameters()) == pytest.approx(32e6, rel=0.02)
