"""The package ultralytics (AGPL-3.0): imported where a YOLO is built and nowhere else, without what its import leaves.

Its import writes settings into a folder, asks the network whether it is there, replaces `torch.save` and sets variables
for all processes to come, of them `OMP_NUM_THREADS`. Here the folder is a temporary one, the network is not asked,
nothing is ever installed, and function and variables are put back.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from pipeline.data.errors import BadInput

# They stay set, as ultralytics asks for the first one later too.
_QUIET = {"YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "0", "YOLO_VERBOSE": "0"}
_FOLDER = "YOLO_CONFIG_DIR"
INSTALL = "pip install '.[yolo]'"


def require(wanted_by: str) -> None:
    """BadInput, which names `wanted_by` and how to install it, if the package is missing; it is not imported."""
    if find_spec("ultralytics") is None:
        raise _missing(wanted_by, "which is not installed")


def part(name: str, *, wanted_by: str) -> ModuleType:
    """The module `ultralytics.<name>`; BadInput as of `require`, or if it cannot be imported."""
    require(wanted_by)
    try:
        with _leaving_nothing():
            return import_module(f"ultralytics.{name}")
    except ImportError as error:
        raise _missing(wanted_by, f"which cannot be imported ({error})") from error


def _missing(wanted_by: str, why: str) -> BadInput:
    return BadInput(f"{wanted_by} needs the package ultralytics (AGPL-3.0), {why}: {INSTALL}")


def folder() -> Path:
    """Where the package's own files lie; after `part`."""
    return Path(str(import_module("ultralytics").__file__)).parent


@contextmanager
def _leaving_nothing() -> Iterator[None]:
    import torch

    os.environ.update(_QUIET)
    save, before = torch.save, dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="omnimask-yolo-") as own:
        os.environ[_FOLDER] = own
        try:
            yield
        finally:
            torch.save = save
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)
