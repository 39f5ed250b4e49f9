"""The weights in an official checkpoint of ultralytics (`.pt`), without running anything that is in it.

Such a file is a pickle of a whole network. It is read by `torch.load(weights_only=True)`, with the names below allowed
and every other refused; and none of them is what it names. To allow ultralytics' DetectionModel itself would be to
allow a file to call it, and it runs the text under `activation` of what it is called with. So all of them stand for one
class that does nothing, and the tensors are taken from what the modules held. ultralytics need not be installed.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

from pipeline.data.errors import BadInput

_LAYERS = {
    "torch.nn.modules": (
        "activation.SiLU batchnorm.BatchNorm2d container.ModuleList container.Sequential conv.Conv2d linear.Identity "
        "loss.BCEWithLogitsLoss pooling.MaxPool2d upsampling.Upsample"
    ),
    "ultralytics.nn.modules": (
        "block.Attention block.Bottleneck block.C2PSA block.C2f block.C3k block.C3k2 block.DFL block.PSABlock "
        "block.SPPF conv.Concat conv.Conv conv.DWConv head.Detect"
    ),
    "ultralytics": (
        "nn.tasks.DetectionModel utils.IterableSimpleNamespace yolo.utils.IterableSimpleNamespace utils.loss.BboxLoss "
        "utils.loss.DFLoss utils.loss.E2ELoss utils.loss.v8DetectionLoss utils.tal.TaskAlignedAssigner"
    ),
    # Beside the network: paths and numbers of its training, and a method of its head by name.
    "pathlib": "PosixPath WindowsPath _local.PosixPath _local.WindowsPath",
    "numpy": "dtype core.multiarray.scalar _core.multiarray.scalar",
    "builtins": "getattr",
}
ALLOWED = frozenset(f"{module}.{name}" for module, names in _LAYERS.items() for name in names.split())
_DAMAGED = (
    UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
)


class _Inert:
    """Stands for whatever is allowed: made of anything, it does nothing with it, and holds what a module holds."""

    def __init__(self, *_: object) -> None:
        self.state: Mapping[str, object] = {}

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}

    def held(self, kind: str) -> Mapping[str, object]:
        """Parameters, buffers or modules by name; empty if it is no module."""
        found = getattr(self, "state", {}).get(kind)
        return found if isinstance(found, dict) else {}


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors by their names in the network, in float32; of the averaged weights if there are such.

    BadInput if the file is missing or damaged, names what is not allowed, or holds no network.
    """
    with torch.serialization.safe_globals([(_Inert, name) for name in ALLOWED]):
        try:
            refused = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
            found = None if refused else torch.load(path, map_location="cpu", weights_only=True)
            weights = dict(_tensors(_network(found)))
        except _DAMAGED as error:
            why = str(error).partition("\n")[0] or type(error).__name__
            raise BadInput(f"detector_weights {path}: not readable as a YOLO's checkpoint: {why}") from error
    if refused:
        raise BadInput(
            f"detector_weights {path}: a YOLO's checkpoint has no use for {', '.join(refused[:5])}"
        )
    if not weights:
        raise BadInput(f"detector_weights {path}: expected a network under `model` or `ema`, found none")
    return weights


def _network(checkpoint: object) -> object:
    return (checkpoint.get("ema") or checkpoint.get("model")) if isinstance(checkpoint, dict) else None


def _tensors(module: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if not isinstance(module, _Inert):
        return
    for name, value in (*module.held("_parameters").items(), *module.held("_buffers").items()):
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value.detach().float() if value.is_floating_point() else value.detach()
    for name, child in module.held("_modules").items():
        yield from _tensors(child, f"{prefix}{name}.")
