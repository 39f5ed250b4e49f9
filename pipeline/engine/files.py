"""Files that are either whole or not there: temp name, fsync, rename, fsync of the folder."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.engine.machine import machine, process_start

TEMP = ".tmp-"
OURS = re.compile(r"(?P<machine>[\w.]+)-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{8}")
FOREIGN_TEMP_SECONDS = 24 * 3600.0
UNUSED_SECONDS = 30 * 24 * 3600.0  # after which a copy of what lies elsewhere goes
BLOCK = 1 << 20
CACHE = "OMNIMASK_CACHE"


def temp_name(folder: Path) -> Path:
    """A new name in `folder` that tells who owns it, so that what a killed process left can be recognised."""
    return folder / f"{TEMP}{owner_name()}"


def owner_name() -> str:
    """A new name that tells which process it belongs to."""
    pid = os.getpid()
    return f"{machine()}-{pid}-{process_start(pid)}-{uuid.uuid4().hex[:8]}"


def is_leftover(path: Path) -> bool:
    """Whether a temp name belongs to a process that is gone (or, on another machine, is a day old)."""
    try:
        return is_left(path.name.removeprefix(TEMP), lambda: time.time() - path.stat().st_mtime)
    except FileNotFoundError:  # its owner has just put it in place
        return False


def is_left(name: str, age: Callable[[], float]) -> bool:
    """The same of an owner's name, whatever bears it; `age` in seconds is asked for where it matters."""
    owner = OURS.fullmatch(name)
    if owner is None:
        return False
    if owner["machine"] == machine():
        # An id is given anew some day; with the time of its start it is one process's alone.
        return process_start(int(owner["pid"])) != int(owner["start"])
    return age() > FOREIGN_TEMP_SECONDS


def clean_leftovers(folder: Path) -> int:
    """Remove what lies in `folder` under the temp name of a process that is gone; how many."""
    found = [path for path in folder.glob(TEMP + "*") if is_leftover(path)]
    for path in found:
        remove(path)
    return len(found)


def cache_folder() -> Path:
    """Where this machine keeps copies of what lies elsewhere: $OMNIMASK_CACHE, or a folder in the user's cache."""
    own = os.environ.get(CACHE)
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(shared) / "omnimask"


def is_unused(path: Path) -> bool:
    """Whether a copy in it was not used for long: neither it, nor anything in it, was touched."""
    try:
        return max(part.stat().st_mtime for part in (path, *path.rglob("*"))) < time.time() - UNUSED_SECONDS
    except FileNotFoundError:  # somebody is at it
        return False


def own_folder(name: str, base: Path | None = None) -> Path:
    """A new folder of this process in `base`, by default the machine's place for temp files; what processes that are
    gone left there under that name is removed. Its path is short, as those of sockets must be.
    """
    base = base or Path(tempfile.gettempdir())
    for path in base.glob(f"{name}-*-*"):
        pid, start = path.name.removeprefix(f"{name}-").split("-", 1)
        if pid.isdecimal() and start.isdecimal() and process_start(int(pid)) != int(start):
            remove(path)
    own = base / f"{name}-{os.getpid()}-{process_start(os.getpid())}"
    own.mkdir(mode=0o700)
    return own


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder in the machine's place for temp files; it goes at the end, after a kill with the next one."""
    base = Path(tempfile.gettempdir())
    clean_leftovers(base)
    folder = temp_name(base)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        remove(folder)


def remove(path: Path) -> None:
    """Remove a file or a folder with all in it; another process may have been faster."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors of reading and writing, which name no file, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with named(path):
            os.fsync(handle)
    finally:
        os.close(handle)


def commit_file(target: Path, write: Callable[[Path], None], *, scratch: Path | None = None) -> None:
    """Let `write` fill a temp file (in `scratch`, which must be on the target's file system), then move it
    in.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temp = temp_name(scratch or target.parent)
    try:
        with named(target):
            write(temp)
        sync(temp)
        temp.replace(target)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    sync(target.parent)


def commit_bytes(target: Path, content: bytes, *, scratch: Path | None = None) -> None:
    """Write a file of these bytes atomically."""
    commit_file(target, lambda temp: _write(temp, content), scratch=scratch)


def commit_text(target: Path, text: str) -> None:
    """Write a small text file atomically."""
    commit_bytes(target, text.encode())


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below `folder`, and itself."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, hex."""
    digest = hashlib.sha256()
    with named(path), path.open("rb") as handle:
        while block := handle.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def is_whole(path: Path, digest: str) -> bool:
    """Whether a file has that digest; a disk that does not give its bytes back (EIO) has damaged it."""
    try:
        return file_digest(path) == digest
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return False


def place(source: Path, target: Path) -> bool:
    """Make `target` a copy of `source`; whether anything had to be done.

    Never a link: whoever edits the copy in place must not change the source.
    """
    if target.is_file() and not target.samefile(source) and _same_bytes(source, target):
        return False
    commit_file(target, lambda temp: _copy(source, temp))
    return True


def _same_bytes(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and file_digest(one) == file_digest(other)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
