"""A detector that finds toyworld's things: the embedded one, which knows both worlds, with the demo's classes alone."""

from pathlib import Path

from safetensors.torch import save_file

from pipeline.toyworld.world import classes
from teachers.fcos import FcosDetector
from teachers.tiny import listing
from teachers.tiny.weights import load_weights


def write_finder(path: Path) -> Path:
    """A tiny FCOS of the demo's classes; theirs are the first names."""
    own = len(classes("demo"))
    weights = load_weights(listing.DETECTOR)
    save_file(
        {
            name: (value[:own] if name.startswith(FcosDetector.class_part) else value).contiguous()
            for name, value in weights.items()
        },
        path,
    )
    return path
