"""Files by URL, through fsspec: what a URL may be, where it leads, and what goes wrong there, in words.

Who may read and write there, and at which endpoint, is the file system's own affair: environment variables and config
files of boto and fsspec. Nothing of it is ever part of a config of ours.
"""

import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from io import RawIOBase
from itertools import takewhile
from typing import TYPE_CHECKING

from pipeline.data.errors import BadInput

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer
    from fsspec import AbstractFileSystem

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
# A name or password before the server; keys of S3 may hold a slash, so what follows a colon and is no port is one too.
_LOGIN = re.compile(r"(?<=://)(?:[^/\s]*@|[^/:\[\s]*:(?!\d+(?:/|$))\S*@)")
# By the names that the file systems of fsspec give it; the first that is told counts.
_VERSIONS = ("ETag", "etag", "LastModified", "Last-Modified", "last_modified", "updated", "mtime", "created")
_EXTRAS = {"s3": "s3", "s3a": "s3"}
DENIED, BEYOND, NO_BUCKET = "AccessDenied", "InvalidRange", "NoSuchBucket"  # as S3 calls them
# Their errors are neither OSErrors nor have they a base of their own.
_CLIENTS = frozenset({"botocore", "aiobotocore", "aiohttp", "asyncio", "concurrent"})


def is_url(text: str) -> bool:
    """Whether a text is a URL and not a path."""
    return _URL.fullmatch(text) is not None


def without_login(text: str) -> str:
    """A text with `...` for the names and passwords in its URLs."""
    return _LOGIN.sub("...@", text)


@dataclass(frozen=True)
class UrlPath:
    """A file or folder by its URL; joined with `/` as paths are. ValueError for one that cannot be used."""

    url: str

    def __post_init__(self) -> None:
        match = _URL.fullmatch(self.url)
        if match is None:
            raise ValueError(f"expected a URL, found {self.url!r}")
        if _LOGIN.search(self.url):
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

    def shared_with(self, other: "UrlPath") -> "UrlPath | None":
        """The lowest folder that holds both; None if they are of different buckets or servers."""
        both = zip(self.parts, other.parts, strict=False)
        parts = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], both)]
        same = self.protocol == other.protocol and parts
        return UrlPath(f"{self.protocol}://{'/'.join(parts)}") if same else None

    def __truediv__(self, name: str) -> "UrlPath":
        return UrlPath(f"{self.url.rstrip('/')}/{posixpath.normpath(name)}" if name else self.url)

    def __str__(self) -> str:
        return self.url


class Unreachable(OSError):
    """A server that does not answer, does not know us or lacks the bucket: no fault of the file that was asked for."""


def codes(error: BaseException | None) -> set[str]:
    """What an S3 server calls the error that led to this one."""
    found = set()
    while error is not None:
        response = getattr(error, "response", None)
        found.add(str(response.get("Error", {}).get("Code"))) if isinstance(response, dict) else None
        error = error.__cause__
    return found


def lacks_bucket(error: BaseException) -> bool:
    """Whether that is why, and not that a file is missing, as S3 says it too."""
    return NO_BUCKET in codes(error)


@contextmanager
def in_words(url: str) -> Iterator[None]:
    """Whatever goes wrong there as an OSError that names the URL, of the same kind if it has one."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, IsADirectoryError) as error:
        kind = Unreachable if lacks_bucket(error) else type(error)
        raise kind(f"{url}: {_plain(error)}") from error
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
    # One for a bucket or server, not for each of a million photos; none that a parent process has opened.
    server = f"{place.protocol}://{place.parts[0] if place.parts else ''}"
    fs = _file_system(server, os.getpid())
    return fs, str(fs._strip_protocol(place.url))


@cache
def _file_system(server: str, process: int) -> "AbstractFileSystem":  # noqa: ARG001
    from fsspec.core import url_to_fs

    protocol = UrlPath(server).protocol
    try:
        return url_to_fs(server, use_listings_cache=False)[0]  # what others write is to be seen at once
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        hint = f"pip install 'omnimask[{extra}]'" if extra else str(error)
        raise BadInput(f"{server}: {protocol}:// needs a package that is not installed: {hint}") from error
    except ValueError as error:
        raise BadInput(f"{server}: expected a URL that fsspec knows, found {protocol}://: {error}") from error


class UrlFile(RawIOBase):
    """A file by URL as a stream; each read is one request, and none follows one that brought less than was asked for.

    BadInput, without naming it, for what is no file or must not be read; Unreachable if the server cannot be asked.
    """

    def __init__(self, place: UrlPath) -> None:
        self._place = place
        self._fs, self._path = file_system(place)
        self._at, self._ended = 0, False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: "Buffer") -> int:
        """Fill a buffer from where the last read ended."""
        view = memoryview(buffer).cast("B")
        found = b"" if self._ended else self._read(self._at + len(view))
        view[: len(found)] = found
        self._at += len(found)
        self._ended = len(found) < len(view)
        return len(found)

    def _read(self, end: int) -> bytes:
        try:
            with in_words(self._place.url):
                return bytes(self._fs.cat_file(self._path, start=self._at, end=end))
        except FileNotFoundError:
            kind = "a folder" if is_folder(self._place) else "nothing"
            raise BadInput(f"expected a file, found {kind}") from None
        except IsADirectoryError:
            raise BadInput("expected a file, found a folder") from None
        except PermissionError as error:
            if DENIED in codes(error):
                raise BadInput("cannot be read: no rights, or it is not there") from error
            raise Unreachable(str(error)) from error
        except OSError as error:
            if BEYOND in codes(error):  # an empty file, or the end of one
                return b""
            raise Unreachable(str(error)) from error


def info_of(place: UrlPath) -> dict[str, object]:
    """What the server says of a file besides its bytes: size, time, ETag; BadInput if there is none."""
    fs, path = file_system(place)
    try:
        with in_words(place.url):
            found = fs.info(path)
    except FileNotFoundError:
        raise BadInput("expected a file, found nothing") from None
    except OSError as error:
        raise Unreachable(str(error)) from error
    if found["type"] != "file":
        raise BadInput(f"expected a file, found a {found['type']}")
    return dict(found)


def version_of(info: Mapping[str, object]) -> str | None:
    """What of a server's words on a file is another text once it was written again; None if it tells nothing such.

    The same of a listing as of the file alone.
    """
    for name in _VERSIONS:
        if (told := info.get(name)) is not None:
            told = told.timestamp() if isinstance(told, datetime) else told
            return f"{name} {told} size {info.get('size')}"
    return None


def is_folder(place: UrlPath) -> bool:
    """Whether anything lies below a URL; OSError if that cannot be told."""
    fs, path = file_system(place)
    try:
        with in_words(place.url):
            return bool(fs.info(path)["type"] == "directory")
    except OSError as error:
        if isinstance(error, FileNotFoundError) or lacks_bucket(error):
            return False
        raise


def names_below(place: UrlPath) -> Iterator[str]:
    """The names, relative to it, of all files below a URL."""
    fs, path = file_system(place)
    root = path.rstrip("/") + "/"
    with in_words(place.url):
        found = fs.find(path)
    yield from (name.removeprefix(root) for name in found if name.startswith(root) and not name.endswith("/"))


def inside_url(folder: UrlPath, file_name: str) -> UrlPath:
    """The URL of a listed file; BadInput when its name leads out of the folder."""
    if file_name.startswith("/") or is_url(file_name) or posixpath.normpath(file_name).split("/")[0] == "..":
        raise BadInput(f"expected a file inside {folder}, found a way out of it")
    return folder / file_name
