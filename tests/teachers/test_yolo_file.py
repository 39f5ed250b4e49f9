"""Official checkpoints of ultralytics: the tensors of what is allowed, nothing of what is not, and nothing is run.

ultralytics is not needed: the classes that a file names are made here, under the names that its own have.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.data.errors import BadInput
from teachers.yolo_file import ALLOWED, read_checkpoint

MakeClass = Callable[..., Any]


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> MakeClass:
    """A function that makes a class of a full name, as a pickle will say it."""
    made: dict[str, ModuleType] = {}

    def make(name: str, base: type = nn.Module, **body: object) -> Any:
        place, _, own = name.rpartition(".")
        words = place.split(".")
        for module in (".".join(words[: i + 1]) for i in range(len(words))):
            if module not in made:
                made[module] = ModuleType(module)
                monkeypatch.setitem(sys.modules, module, made[module])
        found = type(own, (base,), {"__module__": place, **body})
        setattr(made[place], own, found)
        return found

    return make


@pytest.fixture
def network(named: MakeClass) -> Callable[[int], nn.Module]:
    """A network of a convolution block and a head, in halves, as ultralytics pickles its own."""
    conv = named("ultralytics.nn.modules.conv.Conv")
    head = named("ultralytics.nn.modules.head.Detect")
    model = named("ultralytics.nn.tasks.DetectionModel")
    settings = named("ultralytics.utils.IterableSimpleNamespace", object)

    def make(seed: int) -> nn.Module:
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            block, detect, whole = conv(), head(), model()
            block.conv, block.bn, block.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU()
            detect.cv2 = nn.ModuleList([nn.Sequential(nn.Conv2d(4, 8, 1), nn.Identity())])
            detect.register_buffer("stride", torch.tensor([8.0]))
            whole.model = nn.Sequential(block, detect)
        # Beside the tensors: settings, names, and a method of the head by its name.
        whole.args, whole.yaml, whole.names = settings(), {"nc": 2, "activation": "os.system('x')"}, {0: "a"}
        whole.args.path = Path("weights/yolo.pt")
        return whole.half()

    return make


def test_the_tensors_by_their_names(network: Callable[[int], nn.Module], tmp_path: Path) -> None:
    whole = network(0)
    whole.model[0].bn.num_batches_tracked += 7
    torch.save({"epoch": -1, "model": whole, "ema": None, "train_args": {"lr0": 0.01}}, tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt")
    assert found.keys() == whole.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(found[name], value.float() if value.is_floating_point() else value)
        assert found[name].dtype is (torch.float32 if value.is_floating_point() else torch.int64)
        assert not found[name].requires_grad
    assert found["model.0.bn.num_batches_tracked"] == 7


@pytest.mark.parametrize("averaged", [True, False])
def test_averaged_weights_are_preferred(
    network: Callable[[int], nn.Module], tmp_path: Path, averaged: bool
) -> None:
    last, ema = network(0), network(1)
    torch.save({"model": last, "ema": ema if averaged else None}, tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt")
    expected = (ema if averaged else last).state_dict()
    assert torch.equal(found["model.0.conv.weight"], expected["model.0.conv.weight"].float())


class Runs:
    """Calls something when it is read."""

    def __init__(self, call: Callable[..., object], *given: object) -> None:
        self.call, self.given = call, given

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call, self.given


def touched(path: Path) -> str:
    return f"touch {path}"


@pytest.mark.parametrize(
    ("call", "given", "name"),
    [
        (os.system, touched, f"{os.system.__module__}.system"),
        (eval, lambda path: f"open({str(path)!r}, 'w')", "builtins.eval"),
        (exec, lambda path: f"open({str(path)!r}, 'w')", "builtins.exec"),
        (__import__, lambda _: "antigravity", "builtins.__import__"),
        (os.mkdir, str, f"{os.mkdir.__module__}.mkdir"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("beside", [True, False])
def test_a_file_that_names_anything_else_is_refused_by_name(
    network: Callable[[int], nn.Module],
    tmp_path: Path,
    call: Callable[..., object],
    given: Callable[[Path], str],
    name: str,
    beside: bool,
) -> None:
    """In place of the network, or beside it where nobody would look."""
    trace = tmp_path / "trace"
    hostile = Runs(call, given(trace))
    torch.save({"model": network(0), "date": hostile} if beside else {"model": hostile}, tmp_path / "a.pt")
    with pytest.raises(
        BadInput, match=rf"detector_weights .*a\.pt: a YOLO's checkpoint has no use for .*{name}"
    ):
        read_checkpoint(tmp_path / "a.pt")
    assert not trace.exists()


def test_classes_of_the_package_that_are_not_of_a_detector(named: MakeClass, tmp_path: Path) -> None:
    other = named("ultralytics.nn.tasks.SegmentationModel")()
    torch.save({"model": other}, tmp_path / "a.pt")
    with pytest.raises(BadInput, match=r"has no use for ultralytics\.nn\.tasks\.SegmentationModel"):
        read_checkpoint(tmp_path / "a.pt")


def test_what_is_allowed_is_not_what_it_names(named: MakeClass, tmp_path: Path) -> None:
    """Nothing of a class is called, neither its making nor its `__setstate__`, and `getattr` gets nothing."""

    def fail(*_: object) -> None:
        pytest.fail("it ran")

    layers = named("ultralytics.nn.tasks.DetectionModel", object, __setstate__=fail)
    whole = layers()
    whole._parameters, whole._buffers = {"a": torch.ones(2)}, {}
    whole._modules = {"got": Runs(getattr, Path("a"), "unlink"), "path": Path("a")}
    torch.save({"model": whole, "more": Runs(layers, "yaml")}, tmp_path / "a.pt")
    layers.__init__ = fail
    layers.__new__ = fail
    assert {name: value.tolist() for name, value in read_checkpoint(tmp_path / "a.pt").items()} == {
        "a": [1, 1]
    }


def test_nothing_stays_allowed(network: Callable[[int], nn.Module], tmp_path: Path) -> None:
    torch.save({"model": network(0)}, tmp_path / "a.pt")
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(tmp_path / "a.pt")
    assert set(torch.serialization.get_safe_globals()) == before


def test_the_list_holds_nothing_that_could_run() -> None:
    """Layers and settings of the package, layers of torch, paths, numpy's numbers; `getattr` is the one function."""
    roots = {name.split(".")[0] for name in ALLOWED}
    assert roots == {"torch", "ultralytics", "pathlib", "numpy", "builtins"}
    assert {name for name in ALLOWED if name.startswith("builtins")} == {"builtins.getattr"}
    assert {name.split(".")[1] for name in ALLOWED if name.startswith("torch")} == {"nn"}


WRONG: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: path.write_bytes(b""), "not readable as a YOLO's checkpoint"),
    (lambda path: path.write_bytes(b"no zip, no pickle"), "not readable as a YOLO's checkpoint"),
    (lambda path: path.write_bytes(b"PK\x03\x04 cut off"), "not readable as a YOLO's checkpoint"),
    (lambda _: None, "not readable as a YOLO's checkpoint: .*No such file"),
    (lambda path: path.mkdir(), "not readable as a YOLO's checkpoint"),
    (lambda path: torch.save({}, path), "expected a network under `model` or `ema`, found none"),
    (lambda path: torch.save([1], path), "expected a network under `model` or `ema`, found none"),
    (lambda path: torch.save({"model": {"a": torch.ones(1)}}, path), "expected a network under"),
    (lambda path: torch.save({"model": None, "ema": torch.ones(2)}, path), "expected a network|not readable"),
]


@pytest.mark.parametrize(("make", "message"), WRONG)
def test_files_that_are_no_checkpoint(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "a.pt")
    with pytest.raises(BadInput, match=rf"detector_weights .*a\.pt: .*({message})"):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_off(network: Callable[[int], nn.Module], tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.pt"
    torch.save({"model": network(0)}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(BadInput, match="not readable as a YOLO's checkpoint"):
        read_checkpoint(path)


def test_state_that_is_no_modules(named: MakeClass, tmp_path: Path) -> None:
    """Whatever lies where a module has its parts is no reason to fail otherwise."""
    model = named("ultralytics.nn.tasks.DetectionModel", object)
    whole = model()
    whole._parameters, whole._buffers = [1, 2], {"b": "text", "c": torch.ones(1)}
    whole._modules = {"x": 5, "y": {"_parameters": {"d": torch.ones(1)}}}
    torch.save({"model": whole}, tmp_path / "a.pt")
    assert set(read_checkpoint(tmp_path / "a.pt")) == {"c"}
