"""A detector of the table with its first weights: embedded ones, or a file's under the names of the detector's package.

A file is safetensors, or the published pickle, which the table says how to read: of neither is anything run, and no
class is built.
"""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.data.errors import BadInput
from teachers.detector import DetectorNetwork
from teachers.detectors import Entry, find
from teachers.tiny.weights import load_weights

_DAMAGED = (
    *(UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError, AttributeError),
    SafetensorError,
)


def new_detector(
    name: str, num_classes: int, *, focal: bool, weights: Path | None = None, sha256: str | None = None
) -> DetectorNetwork:
    """The detector with a file's weights, else the embedded ones if it has such, else random ones.

    Of a file for another number of classes all is taken but the class layers, which stay new; of embedded weights
    always, as theirs are of other names. BadInput if the file is missing or
    damaged, is a pickle of another than the given or published sha256, or lacks a weight or has it in another shape;
    and if the detector's package is missing.
    """
    entry = find(name)
    detector = entry.build(num_classes, focal=focal)
    if weights is not None:
        entry.digest(weights, sha256)
        return fill(detector, _read(entry, weights), str(weights))
    if entry.embedded is not None:
        known = load_weights(entry.embedded).items()
        told = {name: value for name, value in known if not name.startswith(detector.class_part)}
        return fill(detector, told, entry.embedded)
    return detector


def _read(entry: Entry, path: Path) -> Mapping[str, Tensor]:
    if path.suffix == entry.pickle:
        return entry.read(path)
    try:
        return load_file(path)
    except _DAMAGED as error:
        raise _unreadable(path, error) from error


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """Tensors by name from a pickle of nothing else, as torchvision publishes; BadInput for anything else."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        raise _unreadable(path, error) from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise BadInput(f"detector_weights {path}: expected tensors by name, found {type(found).__name__}")
    return found


def _unreadable(path: Path, error: Exception) -> BadInput:
    why = str(error).partition("\n")[0] or type(error).__name__
    return BadInput(f"detector_weights {path}: not readable as weights: {why}")


def fill(detector: DetectorNetwork, given: Mapping[str, Tensor], where: str) -> DetectorNetwork:
    """Put weights into a detector; BadInput if one is missing or of another shape, unless it is of the classes."""
    own = detector.model.state_dict()
    wanted = {name: value.shape for name, value in own.items() if not name.startswith(detector.class_part)}
    wrong = [name for name, shape in wanted.items() if name not in given or given[name].shape != shape]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise BadInput(f"detector_weights {where}: {wrong[0]}{more} missing or of another shape")
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    detector.model.load_state_dict(fitting, strict=False)
    return detector
