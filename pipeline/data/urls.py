"""Files by URL, through fsspec: what a URL may be, where it leads, and what goes wrong there, in words.

Who may read and write there, and at which endpoint, is the file system's own affair: environment variables and config
files of boto and fsspec. Nothing of it is ever part of a config of ours.
"""

import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from pipeline.data.errors import BadInput

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_EXTRAS = {"s3": "s3", "s3a": "s3"}
# Their errors are neither OSErrors nor have they a base of their own.
_CLIENTS = frozenset({"botocore", "aiobotocore", "aiohttp", "asyncio", "concurrent"})


def is_url(text: str) -> bool:
    """Whether a text is a URL and not a path."""
    return _URL.fullmatch(text) is not None


@dataclass(frozen=True)
class UrlPath:
    """A file or folder by its URL; joined with `/` as paths are. ValueError for one that cannot be used."""

    url: str

    def __post_init__(self) -> None:
        match = _URL.fullmatch(self.url)
        if match is None:
            raise ValueError(f"expected a URL, found {self.url!r}")
        if "@" in match[2].partition("/")[0]:
            raise ValueError("expected a URL without a name or password: those come from the environment")
        if {".", ".."} & set(self.parts):
            raise ValueError(f"expected a URL without . or .. in it, found {self.url!r}")

    @property
    def protocol(self) -> str:
        """What stands before `://`."""
        return self.url.partition("://")[0].lower()

    @property
    def parts(self) -> tuple[str, ...]:
        """Bucket or server, folders, name."""
        return tuple(part for part in self.url.partition("://")[2].split("/") if part)

    @property
    def name(self) -> str:
        """The last part."""
        return self.parts[-1] if self.parts else ""

    def __truediv__(self, name: str) -> "UrlPath":
        return UrlPath(f"{self.url.rstrip('/')}/{name}" if name else self.url)

    def __str__(self) -> str:
        return self.url


@contextmanager
def in_words(url: str) -> Iterator[None]:
    """Whatever goes wrong there as an OSError that names the URL, of the same kind if it has one."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except PermissionError as error:
        raise PermissionError(f"{url}: no rights to do this, or none were given: {_plain(error)}") from error
    except OSError as error:
        raise OSError(f"{url}: {_plain(error)}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _CLIENTS:
            raise
        raise OSError(f"{url}: {_plain(error)}") from error


def _plain(error: BaseException) -> str:
    return str(error) or type(error).__name__


def file_system(place: UrlPath) -> "tuple[AbstractFileSystem, str]":
    """The file system of a URL, and the path in it; BadInput if there is no such, or its package is missing."""
    return _file_system(place.url, os.getpid())


@cache
def _file_system(url: str, process: int) -> "tuple[AbstractFileSystem, str]":  # noqa: ARG001 (not for a child of ours)
    from fsspec import get_filesystem_class
    from fsspec.core import url_to_fs

    protocol = UrlPath(url).protocol
    try:
        get_filesystem_class(protocol)
        # What others write is to be seen at once.
        fs, path = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        hint = f"pip install 'omnimask[{extra}]'" if extra else str(error)
        raise BadInput(f"{url}: {protocol}:// needs a package that is not installed: {hint}") from error
    except ValueError as error:
        raise BadInput(f"{url}: expected a URL that fsspec knows, found {protocol}://: {error}") from error
    return fs, str(path)


def size_at(place: UrlPath) -> int:
    """Bytes of a file; BadInput, without naming it, for a folder or nothing."""
    fs, path = file_system(place)
    try:
        with in_words(place.url):
            found = fs.info(path)
    except FileNotFoundError:
        raise BadInput("expected a file, found nothing") from None
    except PermissionError as error:
        raise BadInput("cannot be read: no rights, or it is not there") from error
    if found["type"] != "file":
        raise BadInput("expected a file, found a folder")
    return int(found["size"])


def read_at(place: UrlPath, most: int) -> bytes:
    """The first `most` bytes of a file; BadInput as in `size_at`, OSError if the server cannot be reached."""
    size = min(size_at(place), most)
    fs, path = file_system(place)
    if not size:
        return b""  # of which no range can be asked
    try:
        with in_words(place.url):
            return bytes(fs.cat_file(path, start=0, end=size))
    except FileNotFoundError:
        raise BadInput("expected a file, found nothing") from None


def is_folder(place: UrlPath) -> bool:
    """Whether anything lies below a URL; OSError if that cannot be told."""
    fs, path = file_system(place)
    try:
        with in_words(place.url):
            return bool(fs.info(path)["type"] == "directory")
    except FileNotFoundError:
        return False


def names_below(place: UrlPath) -> Iterator[str]:
    """The names, relative to it, of all files below a URL."""
    fs, path = file_system(place)
    root = path.rstrip("/") + "/"
    with in_words(place.url):
        found = fs.find(path)
    yield from (name.removeprefix(root) for name in found if name.startswith(root) and not name.endswith("/"))


def inside_url(folder: UrlPath, file_name: str) -> UrlPath:
    """The URL of a listed file; BadInput when its name leads out of the folder."""
    way = posixpath.normpath(file_name)
    if way.startswith("/") or way.split("/")[0] == ".." or is_url(file_name):
        raise BadInput(f"expected a file inside {folder}, found a way out of it")
    return folder / way
