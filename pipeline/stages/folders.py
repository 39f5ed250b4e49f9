"""A folder of photos of which nothing is known: which of its files they are, and its listing as a COCO file."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pipeline.data.errors import BadInput, printable
from pipeline.data.image_kinds import HEAD, is_picture
from pipeline.data.images import read_header, read_listed
from pipeline.data.paths import Place, check_folder, open_file, reading
from pipeline.data.urls import names_below
from pipeline.stages.identity import Asked, add_images
from pipeline.stages.looking import Looking, Poison
from pipeline.stages.photos import entry_of
from pipeline.stages.sources import FolderData, Split

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
NO_SIZE = (1, 1)
TRAIN = "train"


def find_photos(folder: Place, told: Callable[[], None] = lambda: None) -> list[str]:
    """The names, relative to it, of all that seems to be a photo in a folder and its subfolders, sorted.

    That is what is named like one or is a picture by its first bytes, and every link to a folder, as links are not
    followed: what cannot be read is to be told, not passed over. BadInput if there is none, or for a folder that cannot
    be listed. `told` is called after each, and may end the work by an exception.
    """
    check_folder(folder)
    # By folders, then names: nothing sorts before NUL, and a path has none. Texts take a tenth of the memory of paths.
    found = sorted(_candidates(folder, told), key=lambda name: name.replace("/", "\0"))
    if not found:
        raise BadInput(
            f"{printable(str(folder))}: expected images ({', '.join(sorted(SUFFIXES))}), found none"
        )
    return found


def _candidates(folder: Place, told: Callable[[], None]) -> Iterator[str]:
    if isinstance(folder, Path):
        yield from _local_candidates(folder, told)
        return
    for name in names_below(folder):
        told()
        if _is_named_so(name) or _is_picture(folder / name):
            yield name


def _local_candidates(folder: Path, told: Callable[[], None]) -> Iterator[str]:
    for where, folders, files in os.walk(folder, onerror=_refuse):
        below = Path(where).relative_to(folder).as_posix()
        start = "" if below == "." else f"{below}/"
        for name in files:
            told()
            if _is_named_so(name) or _is_picture(Path(where, name)):
                yield start + name
        for name in folders:
            if _is_named_so(name) or Path(where, name).is_symlink():
                yield start + name


def _is_named_so(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _refuse(error: OSError) -> None:
    raise BadInput(f"{printable(str(error.filename))}: cannot be listed: {error.strerror or error}")


def _is_picture(path: Place) -> bool:
    try:
        with reading(path), open_file(path) as file:
            return is_picture(file.read(HEAD))
    except BadInput:
        return False  # nothing says that it is one


def list_folder(
    data: FolderData, folder: Place, *, scratch: Path, looking: Looking, told: Callable[[], None]
) -> Split:
    """The folder's images, numbered from 1 by name, as a COCO file in `scratch` that says nothing else of them.

    `told`: as for `find_photos`.
    """
    listed = list(enumerate(find_photos(folder, told), start=1))
    refused = {name: why for _, name in listed if (why := _unlistable(name)) is not None}
    images = []
    for _, (number, name), size in looking.over(partial(_upright_size, folder), listed, _entry):
        height, width = NO_SIZE if isinstance(size, Poison) else size
        if name not in refused:
            images.append({"id": number, "file_name": name, "height": height, "width": width})
    if not images:
        raise BadInput("\n".join(refused.values()))
    categories = [{"id": number, "name": name} for name, number in data.classes.items()]
    content = {"images": images, "categories": categories, "annotations": []}
    path = scratch / "folder.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return Split(TRAIN, path, folder, refused=refused)


def _unlistable(name: str) -> str | None:
    """Why JSON cannot hold a file's name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"image {printable(name)}: expected a name in UTF-8, found other bytes; rename it"
    return None


def _entry(listed: tuple[int, str]) -> str:
    return entry_of(TRAIN, *listed)


def _upright_size(folder: Place, listed: tuple[int, str]) -> tuple[int, int]:
    """(height, width); NO_SIZE for a file that is no image, whose own reason is told when it is decoded."""
    _, name = listed
    try:
        return read_header(read_listed(folder, name), name).upright_size
    except BadInput:
        return NO_SIZE


def folder_digest(folder: Place, asked: Asked) -> str:
    """sha256 over the names of a folder's images and what `asked` says of them."""
    total = hashlib.sha256()
    add_images(total, folder, find_photos(folder, asked.told), asked)
    return total.hexdigest()
