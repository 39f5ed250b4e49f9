"""Listed photos, read and decoded once at ingest, so that no later stage stumbles over a broken file."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.data.coco import ImageEntry
from pipeline.data.errors import BadInput
from pipeline.data.images import Header, Upright, annotation_orientation, decode_upright, read_listed
from pipeline.data.orient import UPRIGHT
from pipeline.data.paths import shown
from pipeline.stages.sources import Split

EITHER_WAY = "are turned by EXIF in a way that no size tells; their annotations were taken as made on the upright photo"
NAMED = 5  # files that a note names; the rest is counted


@dataclass(frozen=True)
class Photo:
    """What was found when an image file was read whole: digest of its bytes, header, what a person should know."""

    sha256: str
    header: Header
    remarks: tuple[str, ...] = ()


def look_at(split: Split, image: ImageEntry, *, annotated: bool) -> Photo | str:
    """The photo, read and decoded in full, or why it cannot be used; `annotated`: its file holds annotations."""
    name = image.file_name
    try:
        data = read_listed(split.images, name)
        photo = decode_upright(data, name)
        annotation_orientation(photo.header, image.height, image.width, where=f"image {shown(name)}")
    except BadInput as error:
        return str(error)
    header, remarks = photo.header, remarks_on(photo)
    if annotated and header.exif_orientation != UPRIGHT and header.stored_size == header.upright_size:
        remarks += (EITHER_WAY,)
    return Photo(hashlib.sha256(data).hexdigest(), header, remarks)


def remarks_on(photo: Upright) -> tuple[str, ...]:
    """What is odd with a photo that can be used, worded for many."""
    remarks = []
    if photo.header.frames > 1:
        remarks.append("hold several frames or pages, of which the first was read")
    if photo.faint:
        remarks.append("hold 16-bit gray in the lowest sixteenth of its range alone, and look as dark")
    return tuple(remarks)


def notes_on(remarks: Mapping[str, Sequence[str]], *, what: str = "images") -> list[str]:
    """Remarks by file name as a line for each remark, with its number of files and the first of them."""
    files: dict[str, list[str]] = defaultdict(list)
    for name, found in remarks.items():
        for remark in found:
            files[remark].append(shown(name))
    return [
        f"{len(names)} {what} {remark}: {', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}"
        for remark, names in sorted(files.items())
    ]


def listed_twice(images: Sequence[ImageEntry]) -> dict[int, str]:
    """Ids of the images whose file another entry lists too, and why none of them can be used.

    What one of them says is not all that is known of the photo.
    """
    entries: dict[PurePosixPath, list[int]] = defaultdict(list)
    for image in images:
        entries[PurePosixPath(image.file_name)].append(image.id)
    return {
        number: f"image {shown(str(path))}: expected one entry, found {len(ids)}: ids {_some(ids)}"
        for path, ids in entries.items()
        if len(ids) > 1
        for number in ids
    }


def _some(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:NAMED])) + (", ..." if len(ids) > NAMED else "")
