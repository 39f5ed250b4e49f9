"""YOLO as a detector that a mask loss can go through; needs ultralytics, so its own environment: `make yolo`."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from teachers import yolo_package
from teachers.detector import Assignment, Raw, Targets, keep
from teachers.yolo import YoloDetector, build_yolo

pytestmark = pytest.mark.skipif(
    find_spec("ultralytics") is None, reason="ultralytics (AGPL-3.0) is not installed: `make yolo`"
)


NAMES = ("yolov8n", "yolo11n", "yolo26n")


SIDE = 96


STRIDES = (8, 16, 32)


def yolo(name: str, classes: int = 2, seed: int = 0) -> YoloDetector:
    """At random, but for its norms, which have met a few images."""
    torch.manual_seed(seed)
    detector = build_yolo(name, classes)
    detector.meet(pixels(4))
    return detector


def pixels(count: int, side: int = SIDE) -> Tensor:
    coarse = torch.rand(count, 3, side // 8, side // 8, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, side, mode="bilinear") * 255


@pytest.mark.parametrize("name", NAMES)
def test_what_it_says_is_what_the_package_decodes(name: str) -> None:
    """Boxes in pixels and scores of all locations, beside those of the package's own network in eval mode."""
    detector = yolo(name)
    # Taken before the detector is asked otherwise: with its own distribution layer, and told to decode.
    tasks = yolo_package.part("nn.tasks", wanted_by="a test")
    official = tasks.DetectionModel(deepcopy(detector.model.yaml), nc=2, verbose=False)
    official.load_state_dict(detector.model.state_dict(), strict=False)
    official.eval()
    with torch.inference_mode():
        raw = detector.predict(pixels(2))
        decoded = official(pixels(2) / 255)
    decoded = decoded[0] if isinstance(decoded, tuple | list) else decoded
    centres, sizes = decoded[:, :2].transpose(1, 2), decoded[:, 2:4].transpose(1, 2)
    boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], -1)
    torch.testing.assert_close(raw.boxes, boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(raw.scores(), decoded[:, 4:].transpose(1, 2), rtol=1e-4, atol=1e-5)
    assert raw.object_logits is None
    assert raw.side == SIDE
    counts = [(SIDE // stride) ** 2 for stride in STRIDES]
    assert [int((raw.strides == stride).sum()) for stride in STRIDES] == counts
    assert raw.centres[0].tolist() == [4, 4]
    assert raw.centres[1].tolist() == [12, 4]


def objects(raw: Raw, classes: int = 2) -> list[Targets]:
    """Two objects of the first image, where its detector is looking already; none of the second."""
    kept = keep(raw, confidence=0.0, overlap=0.3, most=40)
    boxes = kept.boxes(raw)[kept.image == 0].detach().clamp(0, SIDE)
    sides = (boxes[:, 2:] - boxes[:, :2]).amin(1)
    boxes = boxes[sides.argsort(descending=True)[:2]] + torch.tensor([1.0, -1.0, 2.0, 1.0])
    labels = torch.tensor([0, classes - 1])
    none = torch.zeros(0)
    return [
        Targets(boxes, labels, torch.tensor([1.0, 0.5])),
        Targets(none.reshape(0, 4), none.long(), none),
    ]


def total(detector: YoloDetector, seen: Tensor, own: Sequence[Targets], assignment: Assignment) -> Tensor:
    losses = detector.losses(detector.predict(seen), own, assignment)
    return losses["box"] + losses["cls"]


@pytest.mark.parametrize("name", NAMES)
def test_objects_are_learned_where_they_are(name: str) -> None:
    detector = yolo(name)
    raw = detector.predict(pixels(2))
    own = objects(raw)
    assignment = detector.assign(raw, own)
    assert set(assignment.target.tolist()) == {0, 1}
    assert set(assignment.image.tolist()) == {0}
    assert assignment.quality is not None
    assert ((assignment.quality > 0) & (assignment.quality <= 1)).all()
    centres, boxes = raw.centres[assignment.location], own[0].boxes[assignment.target]
    assert ((centres > boxes[:, :2]) & (centres < boxes[:, 2:])).all()
    losses = detector.losses(raw, own, assignment)
    assert set(losses) == {"box", "obj", "cls"}
    assert float(losses["obj"]) == 0
    assert losses["box"] > 0
    # No object at all is a loss too, and a number.
    nothing = [own[1], own[1]]
    assert torch.isfinite(total(detector, pixels(2), nothing, detector.assign(raw, nothing)))


def test_a_loss_counts_as_much_as_its_object() -> None:
    detector = yolo("yolo11n")
    raw = detector.predict(pixels(2))
    own = objects(raw)
    assignment = detector.assign(raw, own)

    def box(*weights: float) -> float:
        given = [replace(own[0], weights=torch.tensor(weights)), own[1]]
        return float(detector.losses(raw, given, assignment)["box"].detach())

    assert box(0, 0) == 0
    assert box(2, 0) == pytest.approx(2 * box(1, 0))
    assert box(1, 1) == pytest.approx(box(1, 0) + box(0, 1))
    hidden = replace(own[0], ignored=torch.ones(SIDE, SIDE, dtype=torch.bool))
    some = detector.assign(raw, [hidden, own[1]])
    assert some.unsaid[0].all()


@pytest.mark.parametrize("name", NAMES)
def test_training_goes_down(name: str) -> None:
    detector = yolo(name)
    seen = pixels(2)
    raw = detector.predict(seen)
    own = objects(raw)
    assignment = detector.assign(raw, own)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-5)
    losses = []
    for _ in range(12):
        loss = total(detector, seen, own, assignment)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def head_parameters(detector: YoloDetector, word: str) -> list[nn.Parameter]:
    last = max(int(name.split(".")[2]) for name, _ in detector.named_parameters())
    return [p for name, p in detector.named_parameters() if name.startswith(f"model.model.{last}.{word}.")]


@torch.no_grad()
def move(parameters: Sequence[nn.Parameter], by: Sequence[Tensor], share: float) -> None:
    for parameter, value in zip(parameters, by, strict=True):
        parameter.add_(share * value)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_a_gradient(name: str) -> None:
    """Along a direction, in float64: what autograd says beside a central difference of gradients.

    Of the classes' loss: in that of the boxes CIoU's own weight is no function to autograd.
    """
    detector = yolo(name).double()
    seen = pixels(1, 64).double()
    own = [Targets(torch.tensor([[8.0, 8, 40, 48]]).double(), torch.tensor([1]), torch.ones(1).double())]
    assignment = detector.assign(detector.predict(seen), own)
    assert len(assignment.image)
    parameters = head_parameters(detector, "cv3")
    random = torch.Generator().manual_seed(2)
    along = [torch.randn(p.shape, generator=random, dtype=p.dtype) for p in parameters]

    def gradient(create: bool = False) -> tuple[Tensor, ...]:
        losses = detector.losses(detector.predict(seen), own, assignment)
        return torch.autograd.grad(losses["cls"], parameters, create_graph=create)

    products = [(g * v).sum() for g, v in zip(gradient(create=True), along, strict=True)]
    exact = torch.autograd.grad(torch.stack(products).sum(), parameters, allow_unused=True)
    sides, step = [], 1e-6
    for sign in (1, -1):
        move(parameters, along, sign * step)
        sides.append(gradient())
        move(parameters, along, -sign * step)
    for value, up, down in zip(exact, *sides, strict=True):
        assert value is not None
        difference = (up - down) / (2 * step)
        assert (value - difference).norm() <= 1e-5 * max(float(difference.norm()), 1e-3)
    assert max(float(value.norm()) for value in exact if value is not None) > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_of_boxes_reaches_what_makes_them(name: str) -> None:
    """By finite differences in float64: the corners of kept boxes depend on the head as autograd says."""
    detector = yolo(name).double()
    seen = pixels(1, 64).double()
    kept = keep(detector.predict(seen), confidence=0.0, overlap=0.5, most=5)
    parameters = head_parameters(detector, "cv2")

    def loss() -> Tensor:
        return (kept.boxes(detector.predict(seen)) / 64).square().sum()

    exact = torch.autograd.grad(loss(), parameters)
    # Along the gradient itself a step changes the loss by the square of its length.
    length = float(torch.stack([g.square().sum() for g in exact]).sum())
    assert length > 0
    values, step = [], 1e-6 / length**0.5
    for sign in (1, -1):
        move(parameters, exact, sign * step)
        values.append(float(loss().detach()))
        move(parameters, exact, -sign * step)
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(length, rel=1e-4)


def test_norms_keep_their_statistics_in_any_mode() -> None:
    detector = yolo("yolo11n")
    before = {name: value.clone() for name, value in detector.named_buffers()}
    detector.train()
    detector.predict(pixels(2))
    assert not any(m.training for m in detector.modules() if isinstance(m, nn.BatchNorm2d))
    for name, value in detector.named_buffers():
        assert torch.equal(value, before[name]), name


def test_new_norms_take_the_statistics_of_what_they_meet() -> None:
    torch.manual_seed(0)
    detector = build_yolo("yolo11n", 2)
    seen = torch.cat([pixels(1), pixels(1).flip(-1) * 0.2])
    blind = detector.predict(seen).class_logits
    assert (blind[0] - blind[1]).abs().max() < 1e-4
    detector.meet(seen)
    raw = detector.predict(seen).class_logits
    assert (raw[0] - raw[1]).abs().max() > 1e-3
    momenta = {m.momentum for m in detector.modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.03}
    # Norms that have some already are left alone.
    before = {name: value.clone() for name, value in detector.named_buffers()}
    detector.meet(pixels(3) * 0.5)
    assert all(torch.equal(value, before[name]) for name, value in detector.named_buffers())
