"""A job's checkpoints on an object store: copied there now and then, complete or not at all, and fetched elsewhere.

work/<key>/snapshot.json lists the files by digest, work/<key>/<digest> are their bytes. The local folder is ahead of
what was copied from it; it is given up only for a snapshot that somebody else has made.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from pipeline.engine import files
from pipeline.engine.context import SCRATCH
from pipeline.engine.objects import Objects
from pipeline.engine.store import Store

EVERY_SECONDS = 60.0
SHARE = 20  # copying takes at most one part in so many of a job's time
LISTING = "snapshot.json"

State = Mapping[str, tuple[int, int]]  # size and time of change by path


@dataclass
class _Copied:
    """What was last copied of a job: when, how long that took, in what state its files were, with which digests; or
    what went wrong.
    """

    at: float
    took: float = 0.0
    state: State | None = None
    digests: Mapping[str, str] | None = None
    trouble: str = ""


class Snapshots:
    """The checkpoints of jobs in a local folder that is laid out as a store is."""

    def __init__(self, objects: Objects, folder: Store) -> None:
        self._objects, self._folder, self._root = objects, folder, folder.root / "work"
        self._copied: dict[str, _Copied] = {}

    def restore(self, key: str) -> None:
        """Before we work on a job: bring the local folder up to the snapshot, if that is another machine's."""
        if key in self._copied:
            return
        self._copied[key] = _Copied(time.monotonic())
        with self._alone(key):
            self._restore(key)

    def _restore(self, key: str) -> None:
        content = self._objects.read(f"{_name(key)}/{LISTING}")
        known = self._known(key)
        if content is None or (known.exists() and known.read_bytes() == content):
            return
        listing = _parse(content)
        fresh = files.temp_name(self._root)
        fresh.mkdir()
        try:
            if listing is not None and self._fetch(key, listing, fresh):
                files.remove(self._root / key)
                fresh.rename(self._root / key)
                files.commit_bytes(known, content)
        finally:
            files.remove(fresh)

    def release(self, key: str) -> None:
        """Others may work on the job from now on."""
        self._copied.pop(key, None)

    def is_due(self, key: str, *, now: bool) -> bool:
        """Whether it is time to copy."""
        copied = self._copied.setdefault(key, _Copied(time.monotonic()))
        return now or time.monotonic() - copied.at >= max(EVERY_SECONDS, SHARE * copied.took)

    def keep(self, key: str, is_ours: Callable[[], bool]) -> None:
        """Copy the folder, if it has changed and is still ours to copy.

        What goes wrong is noted, not raised: the job has its own files here, and the next copy is due soon.
        """
        copied = self._copied[key]
        began = time.monotonic()
        try:
            state = _state(self._root / key)
            if is_ours() and state and state != copied.state:
                copied.digests = self._copy(key, state, copied.digests)
                copied.state = state
            copied.trouble = ""
        except OSError as error:
            copied.trouble = f"the checkpoints were not copied: {error}"
        copied.at = time.monotonic()
        copied.took = copied.at - began

    def trouble(self, key: str) -> str:
        """Why the last copy is not there; nothing if it is."""
        copied = self._copied.get(key)
        return copied.trouble if copied else ""

    def forget(self, key: str) -> None:
        """Remove a job's checkpoints here and there."""
        self._copied.pop(key, None)
        listing = f"{_name(key)}/{LISTING}"
        self._objects.remove(listing)  # first, so that there is never a part of one
        self._objects.remove(*self._objects.names(_name(key)))
        self._known(key).unlink(missing_ok=True)
        shutil.rmtree(self._root / key, ignore_errors=True)

    def _copy(self, key: str, state: State, before: Mapping[str, str] | None) -> Mapping[str, str]:
        folder = self._root / key
        digests = {name: files.file_digest(folder / name) for name in state}
        there = set((before or {}).values())
        for name, digest in digests.items():
            if digest not in there:
                self._objects.write_file(f"{_name(key)}/{digest}", folder / name)
        content = json.dumps(digests, sort_keys=True).encode()
        with self._alone(key):
            self._objects.write(f"{_name(key)}/{LISTING}", content)
            files.commit_bytes(self._known(key), content)
        kept = {f"{_name(key)}/{name}" for name in (LISTING, *digests.values())}
        self._objects.remove(*(name for name in self._objects.names(_name(key)) if name not in kept))
        return digests

    def _fetch(self, key: str, listing: Mapping[str, str], folder: Path) -> bool:
        for name, digest in listing.items():
            target = folder / name
            if not target.resolve().is_relative_to(folder.resolve()):
                return False
            if (
                not self._objects.read_file(f"{_name(key)}/{digest}", target)
                or files.file_digest(target) != digest
            ):
                return False
        return True

    def _alone(self, key: str) -> AbstractContextManager[None]:
        """Several processes of this machine may work on one job: none takes another's own copy for a newer one."""
        return self._folder.job_lock(f"{key}.work", lambda: None)

    def _known(self, key: str) -> Path:
        """The listing that the local folder comes from or was copied to."""
        return self._root / f"{key}.{LISTING}"


def _name(key: str) -> str:
    return f"work/{key}"


def _state(folder: Path) -> State:
    found = {}
    for path in sorted(folder.rglob("*")):
        way = path.relative_to(folder)
        if way.parts[0] != SCRATCH and path.is_file():
            stat = path.stat()
            found[way.as_posix()] = (stat.st_size, stat.st_mtime_ns)
    return found


def _parse(content: bytes) -> Mapping[str, str] | None:
    try:
        found = json.loads(content)
    except ValueError:
        return None
    fits = isinstance(found, dict) and all(isinstance(digest, str) for digest in found.values())
    return found if fits else None
