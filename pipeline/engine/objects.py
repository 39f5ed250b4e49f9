"""An object store through fsspec: whole objects below one URL, and the conditional put that a commit there is.

There is no rename on such a store. Two writers of one name are told apart by a put that fails if the name is taken, or
if another object has it by now; a file system that has none is refused, as both would believe to have won.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

from pipeline.data.errors import BadInput
from pipeline.data.urls import BEYOND, UrlPath, codes, file_system, in_words, lacks_bucket, version_of
from pipeline.engine import files
from pipeline.engine.faults import BadPlan

MEMORY = "memory"
EXCLUSIVE = ("s3", "s3a", MEMORY)  # whose put of a name that is taken fails, whatever else happens meanwhile
THREADS = 8
LINE_BYTES = 1 << 14  # asked for at first where a line is wanted
TAKEN = frozenset(
    {"PreconditionFailed", "NoSuchKey"}
)  # S3: another object has the name by now, or none any more
CONFLICT = "ConditionalRequestConflict"  # S3: another put of the name is under way, try again
CONFLICTS = 5  # of these, before that is an error
CONFLICT_SECONDS = 0.2
TRIES = 5  # to put a commit record in place of another, against others who do the same
_IN_MEMORY = threading.Lock()  # fsspec's look and write are two steps there
Done = TypeVar("Done")


class Objects:
    """Objects by name below a URL. Trouble is an OSError that names the URL; what is not there is None."""

    def __init__(self, url: str) -> None:
        """BadPlan if nothing can be kept at such a URL."""
        self.url = url.rstrip("/")
        try:
            place = UrlPath(self.url)
            if place.protocol not in EXCLUSIVE:
                known = ", ".join(f"{name}://" for name in EXCLUSIVE)
                raise BadInput(
                    f"{url}: expected a store on {known} or in a folder, found {place.protocol}://, of which it is "
                    "not known that only one of two writers wins"
                )
            self._fs, self._root = file_system(place)
        except (BadInput, ValueError) as error:
            raise BadPlan((str(error),)) from error
        self.in_memory = place.protocol == MEMORY
        self._at_once = {} if self.in_memory else {"max_concurrency": 1}  # else s3fs asks for the size first
        self._guard: AbstractContextManager[object] = _IN_MEMORY if self.in_memory else nullcontext()

    def prove(self) -> None:
        """BadPlan unless objects can be made, read and removed here, and a put fails if the name is taken."""
        name = f"tmp/{files.owner_name()}"
        try:
            first = self._put_new(name, b"1")
            second = self._put_new(name, b"2")
            third = not self.in_memory and self._put(name, b"3", IfMatch='"2"')
            self.read(name)
            self.remove(name)
        except OSError as error:
            if lacks_bucket(error):
                raise BadPlan((f"{self.url}: nothing can be kept here: {error}",)) from error
            if isinstance(error, PermissionError):
                raise BadPlan((str(error),)) from error
            raise
        if not first or second or third:
            header = "If-None-Match: *" if second else "If-Match"
            raise BadPlan(
                (
                    f"{self.url}: expected a server that refuses to put an object twice ({header}), found one "
                    "that does; two runs could overwrite each other's results",
                )
            )

    def read(self, name: str) -> bytes | None:
        """An object's bytes."""
        try:
            with in_words(self.url_of(name)):
                return bytes(self._fs.cat_file(self._path(name), **self._at_once))
        except FileNotFoundError:
            return None

    def read_line(self, name: str) -> bytes | None:
        """An object's first line, without what follows."""
        size = LINE_BYTES
        try:
            while True:
                with in_words(self.url_of(name)):
                    start = bytes(self._fs.cat_file(self._path(name), start=0, end=size))
                if b"\n" in start or len(start) < size:
                    return start.partition(b"\n")[0]
                size *= 8
        except FileNotFoundError:
            return None
        except OSError as error:
            if BEYOND in codes(error):  # an empty one
                return b""
            raise

    def version(self, name: str) -> str | None:
        """A text that is another one when the object has been written again."""
        return version_of(self._info(name))

    def versions(self, below: str) -> dict[str, str]:
        """The `version` of each object below a name, a thousand a request."""
        start = self._path("")
        folder, _, last = below.rpartition("/")
        with in_words(self.url_of(below)):  # by prefix, as s3fs asks once more for a folder that is not there
            found = self._fs.find(self._path(folder), prefix=f"{last}/", detail=True)
        listed = ((path.removeprefix(start), version_of(info)) for path, info in found.items())
        return {name: version for name, version in listed if version and name.startswith(f"{below}/")}

    def age(self, name: str) -> float:
        """Seconds since the object was written, by the server's clock and ours; 0 if it is gone."""
        try:
            with in_words(self.url_of(name)):
                return time.time() - float(self._fs.modified(self._path(name)).timestamp())
        except FileNotFoundError:
            return 0.0

    def create(self, name: str, data: bytes) -> bool:
        """Put an object unless there is one; whether it is ours now."""
        # A put whose answer was lost is repeated by the client, and finds what it has put itself.
        return self._put_new(name, data) or self.read(name) == data

    def write(self, name: str, data: bytes) -> None:
        """Put an object, whatever is there."""
        with in_words(self.url_of(name)), self._guard:
            self._fs.pipe_file(self._path(name), data)

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        """Put an object in place of one of these bytes, in one step; whether it is ours now."""
        if self.in_memory:
            return self._replace_in_memory(name, old, new)
        tag = self._info(name).get("ETag")  # before the bytes: what is written in between has another one
        if tag is None or self.read(name) != old:
            return False
        return self._put(name, new, IfMatch=str(tag)) or self.read(name) == new

    def commit(self, name: str, data: bytes, *, stays: Callable[[bytes], bool]) -> bytes:
        """Put an object unless one is there of which `stays` says so; the bytes that hold from now on."""
        for _ in range(TRIES):
            if self.create(name, data):
                return data
            there = self.read(name)
            if there is None:
                continue
            if stays(there):
                return there
            if self.replace(name, there, data):
                return data
        raise OSError(f"{self.url_of(name)}: others replaced it {TRIES} times while this run did")

    def write_file(self, name: str, source: Path) -> None:
        """Put a file's bytes, whatever is there."""
        with in_words(self.url_of(name)), self._guard:
            self._fs.put_file(str(source), self._path(name))

    def read_file(self, name: str, target: Path) -> bool:
        """Copy an object into a file; whether it was there."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with in_words(self.url_of(name)):
                self._fs.get_file(self._path(name), str(target))
        except FileNotFoundError:
            return False
        return True

    def send(self, folder: Path, names: Sequence[str], to: str) -> None:
        """Put files of a folder below a name."""
        self._all(lambda name: self.write_file(f"{to}/{name}", folder / name), names)

    def fetch(self, folder: Path, names: Sequence[str], source: str) -> bool:
        """Copy objects below a name into a folder; whether all were there."""
        return all(self._all(lambda name: self.read_file(f"{source}/{name}", folder / name), names))

    def names(self, below: str) -> list[str]:
        """The names of all objects below a name."""
        start = self._path(below) + "/"
        with in_words(self.url_of(below)):
            found = self._fs.find(self._path(below))
        return sorted(f"{below}/{path.removeprefix(start)}" for path in found if path.startswith(start))

    def remove(self, *names: str) -> None:
        """Remove objects; those that are gone already are none the worse."""
        for name in names:
            try:
                with in_words(self.url_of(name)), self._guard:
                    self._fs.rm_file(self._path(name))
            except (FileNotFoundError, KeyError):
                continue

    def url_of(self, name: str) -> str:
        """The URL of an object."""
        return f"{self.url}/{name}"

    def _put_new(self, name: str, data: bytes) -> bool:
        return self._put(name, data, mode="create")

    def _put(self, name: str, data: bytes, **condition: str | int) -> bool:
        """Put an object; whether its condition held."""
        if not self.in_memory:
            condition |= {
                "chunksize": len(data) + 1
            }  # in one piece: of several s3fs forgets what it does not know
        for last in range(CONFLICTS):
            try:
                with in_words(self.url_of(name)), self._guard:
                    self._fs.pipe_file(self._path(name), data, **condition)
                return True
            except FileExistsError:
                return False
            except OSError as error:
                if TAKEN & codes(error):
                    return False
                if CONFLICT not in codes(error) or last == CONFLICTS - 1:
                    raise
                time.sleep(CONFLICT_SECONDS)
        return False

    def _replace_in_memory(self, name: str, old: bytes, new: bytes) -> bool:
        path = self._path(name)
        with self._guard:
            there = self._fs.exists(path) and self._fs.cat_file(path) == old
            if there:
                self._fs.pipe_file(path, new)
        return bool(there)

    def _info(self, name: str) -> dict[str, object]:
        """What the server says of an object; nothing if it is gone."""
        try:
            with in_words(self.url_of(name)):
                return dict(self._fs.info(self._path(name)))
        except FileNotFoundError:
            return {}

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _all(self, one: Callable[[str], Done], names: Sequence[str]) -> list[Done]:
        with ThreadPoolExecutor(THREADS) as threads:
            return list(threads.map(one, names))
