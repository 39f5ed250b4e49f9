"""YOLO as a detector that a mask loss can go through; needs ultralytics, so its own environment: `make yolo`."""

import os
import subprocess
import sys
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from official import sha256
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.data.errors import BadInput
from teachers import yolo_package
from teachers.detector import Assignment, Raw, Targets, keep
from teachers.detector_weights import new_detector
from teachers.detectors import DETECTORS
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


@pytest.mark.parametrize("name", [name for name, entry in DETECTORS.items() if entry.extra == "yolo"])
def test_every_name_of_the_table_is_a_plan_of_the_package(name: str) -> None:
    detector = DETECTORS[name].build(3, focal=False)
    assert isinstance(detector, YoloDetector)
    assert any(key.startswith(detector.class_part) for key in detector.model.state_dict())
    assert not any(key.startswith("one2one") or ".one2one" in key for key in detector.model.state_dict())


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


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, nn.Module]:
    """As ultralytics saves: its whole network in halves, the averaged one under `ema`."""
    torch.manual_seed(3)
    tasks = yolo_package.part("nn.tasks", wanted_by="a test")
    folder = yolo_package.folder() / "cfg" / "models" / "11"
    network = tasks.DetectionModel(str(folder / "yolo11n.yaml"), nc=80, verbose=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.8, 1.2)
            module.num_batches_tracked += 5
    network.names = {i: f"class {i}" for i in range(80)}
    network.args = {"task": "detect"}
    saved = {"epoch": -1, "ema": deepcopy(network).half(), "model": None, "train_args": {}, "version": "8.4"}
    torch.save(saved, tmp_path / "yolo11n.pt")
    return tmp_path / "yolo11n.pt", saved["ema"].float()


def test_an_official_checkpoint(checkpoint: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path, network = checkpoint
    digest = sha256(path)
    same = new_detector("yolo11n", 80, focal=False, weights=path, sha256=digest)
    expected = network.state_dict()
    own = same.model.state_dict()
    assert own
    for name, value in own.items():
        assert torch.equal(value, expected[name]), name
    few = new_detector("yolo11n", 2, focal=False, weights=path, sha256=digest)
    for name, value in few.model.state_dict().items():
        if not name.startswith(few.class_part):
            assert torch.equal(value, expected[name]), name
    with pytest.raises(BadInput, match=r"yolo11n\.pt: its sha256 is .*, expected 0ebbc80d"):
        new_detector("yolo11n", 2, focal=False, weights=path)
    with pytest.raises(BadInput, match=r"and \d+ more missing or of another shape"):
        new_detector("yolov8n", 2, focal=False, weights=path, sha256=digest)
    save_file({name: value.contiguous() for name, value in expected.items()}, tmp_path / "a.safetensors")
    again = new_detector("yolo11n", 80, focal=False, weights=tmp_path / "a.safetensors")
    assert all(torch.equal(value, own[name]) for name, value in again.model.state_dict().items())


ALONE = """
import os, socket, sys
import torch
from pathlib import Path

asked = []
def refuse(*given, **_):
    asked.append(given[1:])
    raise OSError("no network here")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
save, before = torch.save, dict(os.environ)
from teachers.yolo import build_yolo
assert "ultralytics" not in sys.modules
build_yolo("yolo11n", 2)
assert torch.save is save
changed = {k for k in os.environ.keys() | before.keys() if os.environ.get(k) != before.get(k)}
assert changed == {"YOLO_OFFLINE", "YOLO_AUTOINSTALL", "YOLO_VERBOSE"}, changed
assert not asked, asked
left = [str(p) for p in Path.home().rglob("*") if "ltralytics" in str(p)]
assert not left, left
"""


def test_the_import_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "yolo11.yaml").write_text("nc: a trap\n")  # a file of the working folder is not the package's
    environment = {k: v for k, v in os.environ.items() if not k.startswith("YOLO_")} | {"HOME": str(tmp_path)}
    path = ":".join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
