"""Listed photos, read and decoded once at ingest, so that no later stage stumbles over a broken file."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from pipeline.data.coco import Finding, ImageEntry
from pipeline.data.errors import BadInput, printable
from pipeline.data.images import Checked, Header, Upright, annotation_orientation, check_image, read_listed
from pipeline.data.orient import UPRIGHT
from pipeline.stages.identity import UNUSABLE
from pipeline.stages.sources import Split

SEVERAL = "several frames or pages, of which the first is read"
FAINT = "16-bit gray in the lowest sixteenth of its range alone, which looks as dark"
EITHER_WAY = "an EXIF turn that no size tells, so that annotations are taken as made on the upright photo"
NAMED = 5  # files that a note names; the rest is counted
_NAME = 200  # characters of a file name in a message


@dataclass(frozen=True)
class Photo:
    """What was found when an image file was read whole: digest of its bytes, header, what a person should know."""

    sha256: str
    header: Header
    remarks: tuple[str, ...] = ()


def entry_of(split: str, image_id: int, file_name: str) -> str:
    """How quarantine, and who has it in hand, name a listed image."""
    return f"{split} image {image_id} ({printable(file_name)})"


def look_at(split: Split, image: ImageEntry, *, annotated: bool) -> Photo | Finding:
    """The photo, read and decoded in full, or why it cannot be used; `annotated`: its file holds annotations."""
    return digest_and_look(split, image, annotated=annotated)[1]


def digest_and_look(split: Split, image: ImageEntry, *, annotated: bool) -> tuple[str, Photo | Finding]:
    """The same, and before it the sha256 of the bytes, which are read once; UNUSABLE if they cannot be."""
    try:
        data = read_listed(split.images, image.file_name)
    except BadInput as error:
        return UNUSABLE, _refusal(image, "file_name", error)
    digest = hashlib.sha256(data).hexdigest()
    return digest, _judge(image, data, digest, annotated=annotated)


def _judge(image: ImageEntry, data: bytes, digest: str, *, annotated: bool) -> Photo | Finding:
    field, name = "file_name", image.file_name
    try:
        photo = check_image(data, name)
        field = "width"
        annotation_orientation(photo.header, image.height, image.width, where=f"image {printable(name)}")
    except BadInput as error:
        return _refusal(image, field, error)
    header, remarks = photo.header, remarks_on(photo)
    if annotated and header.exif_orientation != UPRIGHT and header.stored_size == header.upright_size:
        remarks += (EITHER_WAY,)
    return Photo(digest, header, remarks)


def _refusal(image: ImageEntry, field: str, error: BadInput) -> Finding:
    return _finding(image, field, str(error).removeprefix(f"image {printable(image.file_name)}: "))


def _finding(image: ImageEntry, field: str, problem: str) -> Finding:
    return Finding("images", image.index, image.id, field, problem)


def with_name(finding: Finding, image: ImageEntry) -> Finding:
    """The finding with the photo's name, for those who see it alone."""
    name = image.file_name if len(image.file_name) <= _NAME else f"{image.file_name[:_NAME]}..."
    return replace(finding, problem=f"{finding.problem} ({printable(name)})")


def remarks_on(photo: Checked | Upright) -> tuple[str, ...]:
    """What a photo has that a person should know, though it can be used."""
    remarks = []
    # A JPEG with several pictures is a phone's photo with its depth or preview: nobody takes it for pages.
    if photo.header.frames > 1 and photo.header.format != "JPEG":
        remarks.append(SEVERAL)
    if photo.faint:
        remarks.append(FAINT)
    return tuple(remarks)


def notes_on(remarks: Mapping[str, Sequence[str]], *, what: str = "images") -> list[str]:
    """Remarks by file name as a line for each remark, with its number of files and the first of them."""
    files: dict[str, list[str]] = defaultdict(list)
    for name, found in remarks.items():
        for remark in found:
            files[remark].append(printable(name))
    return [
        f"{len(names)} {what} with {remark}: {', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}"
        for remark, names in sorted(files.items())
    ]


def listed_twice(images: Sequence[ImageEntry]) -> dict[int, Finding]:
    """By id: the images whose file another entry lists too, and why none of them can be used.

    What one of them says is not all that is known of the photo.
    """
    entries: dict[PurePosixPath, list[ImageEntry]] = defaultdict(list)
    for image in images:
        entries[PurePosixPath(image.file_name)].append(image)
    return {
        image.id: _finding(
            image, "file_name", f"expected one entry, found {len(same)}: ids {_some([i.id for i in same])}"
        )
        for same in entries.values()
        if len(same) > 1
        for image in same
    }


def _some(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids[:NAMED])) + (", ..." if len(ids) > NAMED else "")
