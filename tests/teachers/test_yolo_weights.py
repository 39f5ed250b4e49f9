"""What YOLO is built from: the package's plans and released files, and an import that leaves nothing (`make yolo`)."""

import os
import subprocess
import sys
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from official import sha256
from safetensors.torch import save_file
from torch import nn

from pipeline.data.errors import BadInput
from teachers import yolo_package
from teachers.detector_weights import new_detector
from teachers.detectors import DETECTORS
from teachers.yolo import YoloDetector

pytestmark = pytest.mark.skipif(
    find_spec("ultralytics") is None, reason="ultralytics (AGPL-3.0) is not installed: `make yolo`"
)


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


@pytest.mark.parametrize("name", [name for name, entry in DETECTORS.items() if entry.extra == "yolo"])
def test_every_name_of_the_table_is_a_plan_of_the_package(name: str) -> None:
    detector = DETECTORS[name].build(3, focal=False)
    assert isinstance(detector, YoloDetector)
    assert any(key.startswith(detector.class_part) for key in detector.model.state_dict())
    assert not any(key.startswith("one2one") or ".one2one" in key for key in detector.model.state_dict())
