"""Files by their paths or URLs: opened only if they are plain files, named in messages so that a line stays a line.

A listed file that is not there is looked for under other spellings: names that differ in Unicode's normal form or in
case alone look equal to a person (macOS writes NFD where a JSON file says NFC). It is told, not taken.
"""

import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from errno import EACCES, EILSEQ, EINVAL, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EPERM
from functools import lru_cache
from io import BufferedReader
from pathlib import Path

from pipeline.data.errors import BadInput, printable
from pipeline.data.urls import (
    Unreachable,
    UrlFile,
    UrlPath,
    info_of,
    inside_url,
    is_folder,
    is_url,
    version_of,
)

Place = Path | UrlPath
_URL_BUFFER = 8 << 20  # asked for at a time
# What the file system says of the file itself; all else (EIO, EMFILE, ESTALE ...) may pass, and the file be good.
_OF_THE_FILE = frozenset({ENOENT, ENOTDIR, EISDIR, ELOOP, ENAMETOOLONG, EACCES, EPERM, EILSEQ, EINVAL})
_ABSENT = {
    ENOTDIR: "nothing: a part of its path is no folder",
    ELOOP: "a loop of links",
    ENAMETOOLONG: "a name too long for the file system",
}

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def place_of(root: Path, text: str) -> Place:
    """A URL, or a path that starts at `root`. ValueError for a URL that cannot be used."""
    return UrlPath(text) if is_url(text) else root / text


@contextmanager
def reading(path: Place) -> Iterator[None]:
    """While a file is opened and read: BadInput, without the path, for what is wrong with it.

    An error that says nothing of the file (a broken disk, too few handles) stays an OSError, with its path.
    """
    try:
        yield
    except Unreachable:
        raise
    except OSError as error:
        if error.errno in _OF_THE_FILE:
            raise BadInput(f"cannot be read: {error.strerror}") from error
        if error.errno is None:
            raise OSError(f"{printable(str(path))}: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error


def open_file(path: Place) -> BufferedReader:
    """A plain file opened for reading; BadInput says what is there instead, without naming the path.

    Of one by URL the first reading says so. Pipes, sockets and devices are never opened: that would wait for ever, or
    do something.
    """
    if isinstance(path, UrlPath):
        return BufferedReader(UrlFile(path), _URL_BUFFER)
    with reading(path):
        try:
            mode = path.stat().st_mode
            if not stat.S_ISREG(mode):
                link = "a link to " if path.is_symlink() else ""
                kind = _KINDS.get(stat.S_IFMT(mode), "something else")
                raise BadInput(f"expected a file, found {link}{kind}")
            return path.open("rb")
        except FileNotFoundError:
            raise BadInput(f"expected a file, found {_absence(path)}") from None
        except OSError as error:
            if error.errno in _ABSENT:
                raise BadInput(f"expected a file, found {_ABSENT[error.errno]}") from None
            raise


def stat_of(path: Place) -> str:
    """Size and time of change of a plain file, or what a server says of one: other bytes seldom have the same.

    Of a server that tells neither an ETag nor a time the digest of the bytes. BadInput if there is none.
    """
    if isinstance(path, UrlPath) and (version := version_of(info_of(path))) is not None:
        return version
    with open_file(path) as file:
        if isinstance(path, UrlPath):
            return hashlib.file_digest(file, "sha256").hexdigest()
        return stat_text(os.fstat(file.fileno()))


def stat_text(found: os.stat_result) -> str:
    """Size and time of change: these are the same wherever a folder is mounted, as inodes are not."""
    return f"{found.st_size} {found.st_mtime_ns}"


def is_there(folder: Place, file_name: str) -> bool:
    """Whether a listed file is there."""
    if isinstance(folder, Path):
        return os.path.isfile(folder / file_name)
    try:
        with open_file(inside(folder, file_name)) as file:
            file.peek(1)
    except BadInput:
        return False
    return True


def check_folder(folder: Place) -> None:
    """BadInput unless a folder is there."""
    if isinstance(folder, UrlPath):
        if not is_folder(folder):
            raise BadInput(f"{printable(str(folder))}: expected a folder of images, found none")
        return
    if not os.path.isdir(folder):
        found = "a file" if os.path.isfile(folder) else "none"
        raise BadInput(f"{printable(str(folder))}: expected a folder of images, found {found}")


def inside(folder: Place, file_name: str) -> Place:
    """The path of a listed file; BadInput when it leads out of the folder, through links too."""
    if isinstance(folder, UrlPath):
        return inside_url(folder, file_name)
    path = folder / file_name
    # Not Path.resolve, which raises RuntimeError on a loop of links.
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(folder)):
        raise BadInput(
            f"expected a file inside {printable(str(folder))}, found a way out of it to {printable(str(real))}"
        )
    return path


def _absence(path: Path) -> str:
    """Why nothing is there."""
    if path.is_symlink():
        return f"a link to {printable(os.readlink(path))}, which is not there"
    try:
        near = _spellings(path.parent, path.parent.stat().st_mtime_ns).get(_plain(path.name))
    except OSError:
        return "nothing"
    return "nothing" if near is None else f"nothing; {near!r} ({near!a}) is there, spelled otherwise"


@lru_cache(maxsize=8)
def _spellings(folder: Path, changed: int) -> Mapping[str, str]:  # noqa: ARG001
    """The names in a folder by their plain form; `changed`, its time of change, keeps the memory true."""
    return {_plain(name): name for name in os.listdir(folder)}


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
