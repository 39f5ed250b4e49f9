"""A listed photo, read and decoded once at ingest, so that no later stage stumbles over a broken file."""

import hashlib
from dataclasses import dataclass

from pipeline.data.coco import ImageEntry
from pipeline.data.errors import BadInput
from pipeline.data.images import Header, annotation_orientation, decode_upright, read_bytes
from pipeline.stages.sources import Split, inside


@dataclass(frozen=True)
class Photo:
    """What was found when an image file was read whole: digest of its bytes, header."""

    sha256: str
    header: Header


def look_at(split: Split, image: ImageEntry) -> Photo | str:
    """The photo, read and decoded in full, or why it cannot be used."""
    try:
        data = read_bytes(inside(split.images, image.file_name))
        header = decode_upright(data, image.file_name).header
        annotation_orientation(header, image.height, image.width, where=f"image {image.file_name}")
    except BadInput as error:
        return str(error)
    return Photo(hashlib.sha256(data).hexdigest(), header)
