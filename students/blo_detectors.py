"""The detectors that BLO-Inst can have, by name, new or with weights."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import get_args

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pipeline.data.errors import BadInput
from students.blo_settings import BloInstSettings, YoloName
from teachers.fcos import FcosDetector, build_fcos_r50, build_fcos_tiny
from teachers.tiny.listing import DETECTOR
from teachers.tiny.weights import load_weights
from teachers.yolo import YoloDetector, build_yolo
from teachers.yolo_file import read_checkpoint

DetectorNetwork = FcosDetector | YoloDetector

BUILDERS: Mapping[str, Callable[..., DetectorNetwork]] = {
    "fcos_tiny": build_fcos_tiny,
    "fcos_r50": build_fcos_r50,
    **{name: partial(build_yolo, name) for name in get_args(YoloName)},
}


def bare_detector(settings: BloInstSettings, classes: int) -> DetectorNetwork:
    """Of the settings' kind, randomly initialised; BadInput if a YOLO is wanted and its package is missing."""
    return BUILDERS[settings.detector](classes, focal=settings.focal)


def new_detector(settings: BloInstSettings, classes: int) -> DetectorNetwork:
    """Of the settings' kind, with the weights they name or the embedded ones, if any.

    BadInput if these do not fit, or if a YOLO is wanted and its package is missing.
    """
    detector = bare_detector(settings, classes)
    if settings.embedded:
        return _filled(detector, load_weights(DETECTOR), DETECTOR)
    if settings.detector_weights is not None:
        return load_detector(detector, settings.detector_weights)
    return detector


def load_detector(detector: DetectorNetwork, path: Path) -> DetectorNetwork:
    """The detector with a file's weights, under its package's names; of other classes, its class layers stay new.

    A safetensors file or, of a YOLO, an official `.pt`. BadInput if the file is missing, is neither, or lacks a weight
    or has it in another shape.
    """
    if path.suffix == ".pt" and isinstance(detector, YoloDetector):
        return _filled(detector, read_checkpoint(path), str(path))
    try:
        given = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"detector_weights: {path}: not readable as safetensors: {error}") from error
    return _filled(detector, given, str(path))


def _filled(detector: DetectorNetwork, given: Mapping[str, Tensor], where: str) -> DetectorNetwork:
    own = detector.model.state_dict()
    wanted = {name: value.shape for name, value in own.items() if not name.startswith(detector.class_part)}
    wrong = [name for name, shape in wanted.items() if name not in given or given[name].shape != shape]
    if wrong:
        raise BadInput(
            f"detector_weights: {where}: {wrong[0]} and {len(wrong) - 1} more missing or of another shape"
        )
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    detector.model.load_state_dict(fitting, strict=False)
    return detector
