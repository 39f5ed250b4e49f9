"""A listed photo, read and decoded once at ingest, so that no later stage stumbles over a broken file."""

import hashlib
from dataclasses import dataclass

from pipeline.data.coco import Finding, ImageEntry
from pipeline.data.errors import BadInput
from pipeline.data.images import Header, annotation_orientation, decode_upright, read_bytes
from pipeline.stages.sources import Split, inside

_NAME = 200  # characters of a file name in a message


@dataclass(frozen=True)
class Photo:
    """What was found when an image file was read whole: digest of its bytes, header."""

    sha256: str
    header: Header


def look_at(split: Split, image: ImageEntry) -> Photo | Finding:
    """The photo, read and decoded in full, or why it cannot be used."""
    field, name = "file_name", image.file_name
    where = [f"image {name}: "]
    try:
        path = inside(split.images, name)
        where.append(f"image {path}: ")
        data = read_bytes(path)
        header = decode_upright(data, name).header
        field = "width"
        annotation_orientation(header, image.height, image.width, where=f"image {name}")
    except BadInput as error:
        problem = str(error)
        for prefix in where:
            problem = problem.removeprefix(prefix)
        short = name if len(name) <= _NAME else f"{name[:_NAME]}..."
        return Finding("images", image.index, image.id, field, f"{problem} ({short})")
    return Photo(hashlib.sha256(data).hexdigest(), header)
