"""Every detector by name: one explicit table. Imports no torch until one is built.

detector = find("fcos_r50").build(80, focal=True)      # of 80 classes, randomly initialised
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import AfterValidator

from pipeline.data.errors import BadInput
from teachers import yolo_package
from teachers.identity import embedded_digest, weights_digest
from teachers.tiny import listing

if TYPE_CHECKING:
    from torch import Tensor

    from teachers.detector import DetectorNetwork

FOUND_CONFIDENCE, FOUND_OVERLAP = (
    0.001,
    0.6,
)  # of what a detector finds in the end (Liao et al. 2026, their code)
FOUND_MOST = 100  # an image, as COCO counts them; the code has 300

FCOS_URL = "https://download.pytorch.org/models/fcos_resnet50_fpn_coco-99b0c9b7.pth"
FCOS_SHA256 = "99b0c9b7cfb1527d782db86b91d207f00547c792fb4103fc612b651d0a07b9e7"
# Of the `.pt` files that ultralytics released for COCO (assets v8.3.0, of YOLO26 v8.4.0).
YOLO_SHA256 = {
    "yolov8n": "f59b3d833e2ff32e194b5bb8e08d211dc7c5bdf144b90d2c8412c47ccfc83b36",
    "yolov8s": "1f47a78bf100391c2a140b7ac73a1caae18c32779be7d310658112f7ac9aa78a",
    "yolov8m": "5d4a90cdc7a21786cc59cd19778e9eafff836df9e2da32524737c7ee6efe4fe5",
    "yolov8l": "64c9115303f6a25575f82200d1b22ec409fa6bd7d08d0313884fc20d919478cd",
    "yolov8x": "3df4ada6b4dad6d657868f2fdf7faecfb34dcfccf3a25c4b82079064718524c8",
    "yolo11n": "0ebbc80d4a7680d14987a577cd21342b65ecfd94632bd9a8da63ae6417644ee1",
    "yolo11s": "85a76fe86dd8afe384648546b56a7a78580c7cb7b404fc595f97969322d502d5",
    "yolo11m": "d5ffc1a674953a08e11a8d21e022781b1b23a19b730afc309290bd9fb5305b95",
    "yolo11l": "9ebd0e09d59811db4b1d61e2bc6730649608b1ac47f8dd01e2da6bca7c20023f",
    "yolo11x": "7bc158aa95c0ebfdd87f70f01653c1131b93e92522dbe15c228bcd742e773a24",
    "yolo26n": "9b09cc8bf347f0fc8a5f7657480587f25db09b34bf33b0652110fb03a8ad4fef",
    "yolo26s": "646f8bc3fe0a656803d95c294f7852321748cb29d13466a1af8862e2db384a1b",
    "yolo26m": "401cea9ab23ad19246ff7744859816bc599f350e93c9dd30367b6f0a0745d0b7",
    "yolo26l": "9fe3c544f2b19bebad7ea41e76d7ad3d88b7c2f10d11d24430c5311f6b32db26",
    "yolo26x": "9fdd44a31c504547ffb81d2c6d9e6dac3493c8eaa8b0398d3f43bae6c7003e92",
}


class Build(Protocol):
    """Makes a network of so many classes, randomly initialised; `focal`: the loss of its classes is."""

    def __call__(self, num_classes: int, *, focal: bool) -> "DetectorNetwork": ...


@dataclass(frozen=True)
class Entry:
    """One detector; `what` says so in a line, `licence` is its code's.

    `focal`: whether its own class loss is. `pickle`: how the name of its published checkpoint ends, which is read by
    `read`, with a known `sha256` only; safetensors are read without. `objectness`: whether it says of a place that
    something is there, apart from what, which the loss `obj` teaches. `embedded`: the weights in the package that it
    begins with. `anew`: whether it can be trained from random ones. `extra`: what must be installed besides.
    """

    what: str
    build: Build
    focal: bool
    pickle: str
    read: "Callable[[Path], Mapping[str, Tensor]]"
    objectness: bool = True
    sha256: str | None = None
    embedded: str | None = None
    anew: bool = True
    licence: str = "Apache-2.0"
    extra: str | None = None

    def digest(self, path: Path, sha256: str | None) -> str:
        """sha256 of a file of its weights; BadInput unless it is there and, of a pickle, as given or as published."""
        expected = sha256 or (self.sha256 if path.suffix == self.pickle else None)
        return weights_digest(path, pickles=(self.pickle,), expected=expected, key="detector_weights")


def find(name: str) -> Entry:
    """An entry by name; BadInput with the nearest names otherwise."""
    if name not in DETECTORS:
        near = get_close_matches(name, DETECTORS, n=3) or DETECTORS
        raise BadInput(f"no detector {name!r}; nearest: {', '.join(near)}")
    return DETECTORS[name]


def _checked(name: str) -> str:
    find(name)
    return name


DetectorName = Annotated[str, AfterValidator(_checked)]  # of a setting: one in the table


def require(name: str) -> None:
    """BadInput if the package that a detector needs besides ours is missing; it is not imported."""
    if find(name).extra is not None:
        yolo_package.require(f"detector: {name}")


def first_weights(name: str, path: Path | None, sha256: str | None) -> str | None:
    """Digest of what a detector begins with, a file's or embedded weights; None for random ones.

    BadInput if these are not as they should be or are needed and missing, or if the detector's package is missing.
    """
    entry = find(name)
    require(name)
    if path is not None:
        return entry.digest(path, sha256)
    if not entry.anew:
        raise BadInput(
            f"detector_weights: {name} cannot begin with random weights; expected a file of weights"
        )
    return None if entry.embedded is None else embedded_digest("detector", entry.embedded)


def _fcos_tiny(num_classes: int, *, focal: bool) -> "DetectorNetwork":
    from teachers.fcos import build_fcos_tiny

    return build_fcos_tiny(num_classes, focal=focal)


def _fcos_r50(num_classes: int, *, focal: bool) -> "DetectorNetwork":
    from teachers.fcos import build_fcos_r50

    return build_fcos_r50(num_classes, focal=focal)


def _yolo(name: str, num_classes: int, *, focal: bool) -> "DetectorNetwork":
    from teachers.yolo import build_yolo

    return build_yolo(name, num_classes, focal=focal)


def _read_fcos(path: Path) -> "Mapping[str, Tensor]":
    from teachers.detector_weights import read_state_dict

    return read_state_dict(path)


def _read_yolo(path: Path) -> "Mapping[str, Tensor]":
    from teachers.yolo_file import read_checkpoint

    return read_checkpoint(path)


def _yolo_entry(name: str) -> Entry:
    return Entry(
        f"ultralytics' YO{name[2:]}",
        partial(_yolo, name),
        focal=False,
        pickle=".pt",
        read=_read_yolo,
        objectness=False,
        sha256=YOLO_SHA256[name],
        licence="AGPL-3.0",
        extra="yolo",
    )


DETECTORS: Mapping[str, Entry] = {
    "fcos_tiny": Entry(
        "FCOS of 0.8 M parameters, for CPUs",
        _fcos_tiny,
        focal=True,
        pickle=".pth",
        read=_read_fcos,
        embedded=listing.DETECTOR,
    ),
    "fcos_r50": Entry(
        "torchvision's FCOS with a ResNet-50",
        _fcos_r50,
        focal=True,
        anew=False,  # its norms are frozen
        pickle=".pth",
        read=_read_fcos,
        sha256=FCOS_SHA256,
        licence="BSD-3-Clause",
    ),
    **{name: _yolo_entry(name) for name in YOLO_SHA256},
}
