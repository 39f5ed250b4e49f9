"""COCO files by URL, copied to this machine: they are read again and again, and from many places."""

import json
import os
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from pydantic import JsonValue

from pipeline.data.errors import BadInput
from pipeline.data.paths import Place
from pipeline.data.urls import Unreachable, UrlPath, file_system, in_words, info_of, lacks_bucket, version_of
from pipeline.engine import files

FILES, NOTE = "files", ".note"


def fetched(place: Place) -> Path:
    """A path as it is; of a URL the path of a copy, made anew if the file there has changed or the copy is damaged.

    And each time, if the server does not tell whether the file has changed.
    """
    if isinstance(place, Path):
        return place
    try:
        version = version_of(info_of(place))
    except BadInput as error:
        raise BadInput(f"{place}: {error}") from None
    except Unreachable as error:
        if lacks_bucket(error):
            raise BadInput(str(error)) from error
        raise
    copy = _copy_of(place)
    note = copy.with_name(copy.name + NOTE)
    if version is None or _noted(note) != {"version": version, "sha256": _digest_of(copy)}:
        fs, remote = file_system(place)
        digests: list[str] = []  # of what this process got, whatever another puts there meanwhile

        def get(temp: Path) -> None:
            fs.get_file(remote, str(temp))
            digests.append(files.file_digest(temp))

        files.clean_leftovers(copy.parent)
        with in_words(place.url):
            files.commit_file(copy, get)
        files.commit_text(note, json.dumps({"version": version, "sha256": digests[0]}))
    os.utime(note)
    _clean()
    return copy


def _clean() -> None:
    """Remove the copies that were not used for long."""
    for note in (files.cache_folder() / FILES).rglob(f"*{NOTE}"):
        if files.is_unused(note):
            note.with_name(note.name.removesuffix(NOTE)).unlink(missing_ok=True)
            note.unlink(missing_ok=True)


def _noted(note: Path) -> JsonValue:
    """The version of the file that was copied, and the digest of the copy."""
    try:
        found: JsonValue = json.loads(note.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found


def _digest_of(copy: Path) -> str | None:
    """None if it is not there."""
    try:
        stat = copy.stat()
    except FileNotFoundError:
        return None
    return _cached_digest(copy, stat.st_mtime_ns, stat.st_ino, stat.st_size)


@lru_cache(maxsize=16)
def _cached_digest(path: Path, mtime_ns: int, inode: int, size: int) -> str:  # noqa: ARG001 (part of the identity)
    return files.file_digest(path)


def _copy_of(place: UrlPath) -> Path:
    """Where the copy lies: named as the URL is, so that messages tell which file they are about."""
    parts = [quote(part, safe=" ") for part in place.parts]
    return files.cache_folder().joinpath(FILES, place.protocol, *parts)
