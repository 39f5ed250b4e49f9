"""A store on an object store: results under the same keys, committed by a conditional put, read through a local folder.

units/<aa>/<key>                  a line of JSON (the note), then the unit's Parquet file
artifacts/<key>/artifact.json     the commit record; it names the attempt whose files these are:
artifacts/<key>/<attempt>/...     a job's files; truth/<key>/<attempt>/... its part `truth`
work/<key>/, locks/<key>          checkpoints (snapshot.py) and who works on it now (lease.py)
tmp/<attempt>                     the folders that an attempt is filling; what a dead one left goes by that

The local folder is a store as in store.py, on every machine its own; what lies in it is compared with the object store
once a process, and fetched anew if it is damaged or another. What is damaged over there counts as missing; what is made
instead replaces it.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from pydantic import JsonValue

from pipeline.data.urls import is_url
from pipeline.engine import attempts, files, parquet
from pipeline.engine.artifact import (
    MANIFEST,
    Artifact,
    digests_of,
    parse_manifest,
    read_artifact,
    write_manifest,
)
from pipeline.engine.context import Metrics
from pipeline.engine.copies import Copies, Note, pack, unit_name, unpack
from pipeline.engine.lease import Lease
from pipeline.engine.objects import THREADS, Objects
from pipeline.engine.plan import TRUTH
from pipeline.engine.snapshot import Snapshots
from pipeline.engine.store import Store
from pipeline.engine.units import Timing, note_of

LISTED_SECONDS = 60.0  # a listing of units holds: planning asks for thousands of them in a row


def open_store(where: str | Path, *, look_only: bool = False, known: bool = False) -> Store:
    """The store in a folder or at a URL. BadPlan if nothing can be kept there; not asked if it is `known`."""
    where = str(where)
    if where.startswith("file://"):
        return Store(Path(where.removeprefix("file://")), look_only=look_only)
    if not is_url(where):
        return Store(Path(where), look_only=look_only)
    objects = Objects(where)
    folder = files.cache_folder() / "stores" / _short(objects.url)
    store = RemoteStore(folder, look_only=look_only, objects=objects)
    if not look_only and not known:
        objects.prove()
        attempts.sweep(objects)
        store.forget_unused()
    return store


def _short(url: str) -> str:
    endpoints = [os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")]
    return hashlib.sha256("\n".join([url, *endpoints]).encode()).hexdigest()[:24]


@dataclass
class RemoteStore(Store):
    """`root` is the local folder. `_checked`: the units, `_fetched`: the parts of artifacts that this process has found
    there as they are over there. `_listed`: by folder, when its units were listed last, and their versions.
    """

    objects: Objects = field(kw_only=True)
    _checked: set[str] = field(default_factory=set)
    _fetched: set[tuple[str, str]] = field(default_factory=set)
    _listed: dict[str, tuple[float, dict[str, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        folder = Store(
            self.root, look_only=True
        )  # its folders are made already, or as soon as they are needed
        self._copies = Copies(self.objects, folder)
        self._snapshots = Snapshots(self.objects, folder)
        self._leases: dict[str, Lease] = {}

    @property
    def shared(self) -> bool:
        """Whether other processes see it."""
        return not self.objects.in_memory

    @property
    def where(self) -> str:
        """The URL."""
        return self.objects.url

    def here(self, names: Sequence[Path]) -> list[Path]:
        """The paths of names, fetched; OSError for one that is gone or damaged."""
        wanted = [name for name in dict.fromkeys(names) if not name.is_absolute()]
        if wanted:
            with ThreadPoolExecutor(THREADS) as threads:
                list(threads.map(self._fetch, wanted))
        return super().here(names)

    def leave_sign(self) -> str:
        """Leave an object by which others can tell that they see this very store."""
        sign = files.owner_name()
        self.renew_sign(sign)
        return sign

    def renew_sign(self, sign: str) -> None:
        """Leave it anew, so that it does not grow old."""
        self.objects.write(f"{attempts.TMP}/{sign}", b"[]")

    def sees(self, sign: str) -> bool:
        """Whether it is seen here."""
        return self.objects.read(f"{attempts.TMP}/{sign}") is not None

    def take_back(self, sign: str) -> None:
        """Remove it."""
        self.objects.remove(f"{attempts.TMP}/{sign}")

    def forget_unused(self) -> None:
        """Remove local copies that nobody has used for long."""
        self._copies.clean()

    # Units

    def unit_path(self, key: str) -> Path:
        """A local copy of a unit that is there; OSError if it is not, or damaged."""
        path = self.unit_place(key)
        if key in self._checked and path.exists():
            return path
        if not self._copies.has_unit(key) and not self._copies.bring_unit(key):
            raise OSError(
                f"{self.objects.url_of(unit_name(key))}: gone or damaged; the next run makes it again"
            )
        self._checked.add(key)
        return path

    def has_unit(self, key: str) -> bool:
        """Whether the unit is over there, undamaged; it is here too then."""
        version = self._versions(key).get(unit_name(key))
        if version is None:
            return False
        if not self._copies.has_unit(key, version) and not self._copies.bring_unit(key, version):
            self.damaged.append(self.objects.url_of(unit_name(key)))
            return False
        self._checked.add(key)
        return True

    def _versions(self, key: str) -> dict[str, str]:
        """The units that lie beside that of a key. A unit that is made while the listing holds is made twice."""
        folder = unit_name(key).rpartition("/")[0]
        at, listed = self._listed.get(folder, (-math.inf, {}))
        if time.monotonic() - at > LISTED_SECONDS:
            at, listed = time.monotonic(), self.objects.versions(folder)
            self._listed[folder] = at, listed
        return listed

    def commit_unit(self, key: str, table: pa.Table, timing: Timing, *, redo: bool = False) -> None:
        """Put a unit over there unless a sound one is; that one is taken then."""
        body = parquet.to_bytes(table, key=key)
        content = pack(key, body, note_of(body, table, timing))
        held = self.objects.commit(
            unit_name(key), content, stays=lambda there: not redo and unpack(there, key) is not None
        )
        self._copies.keep_unit(key, held, self.objects.version(unit_name(key)))
        self._listed.pop(unit_name(key).rpartition("/")[0], None)

    def _note(self, key: str) -> Note:
        return super()._note(key) or self._copies.bring_note(key)

    # Artifacts

    def find_artifact(self, key: str) -> Artifact | None:
        """The committed artifact of a recipe key, fetched; None if it is missing or damaged over there."""
        record = attempts.read_record(self.objects, key)
        if record is None:
            return None
        if not self._copies.bring_artifact(key, record, attempts.PARTS):
            self.damaged.append(self.objects.url_of(f"{attempts.ARTIFACTS}/{key}"))
            return None
        return read_artifact(self.artifact_folder(key), key, truth=self.truth_folder(key))

    def received(self, artifact: Artifact) -> Artifact:
        """A worker's artifact, fetched."""
        return self._committed(artifact.key)

    def commit_artifact(
        self,
        key: str,
        folder: Path,
        *,
        stage: str,
        metrics: Metrics,
        seconds: float,
        about: dict[str, JsonValue],
        redo: bool = False,
    ) -> Artifact:
        """Put a filled scratch folder over there unless a sound artifact is; that one is taken then."""
        with self.scratch_folder() as truth:
            if (folder / TRUTH).is_dir():
                (folder / TRUTH).replace(truth)
            hidden = digests_of(truth)
            about = {**about, TRUTH: dict(hidden), "attempt": files.owner_name()}
            write_manifest(folder, key, stage=stage, metrics=metrics, seconds=seconds, about=about)
            manifest = (folder / MANIFEST).read_bytes()
            held = attempts.publish(
                self.objects,
                key,
                manifest=manifest,
                folders={
                    attempts.ARTIFACTS: (folder, list(digests_of(folder))),
                    TRUTH: (truth, list(hidden)),
                },
                redo=redo,
                is_sound=lambda there: self._copies.bring_artifact(
                    key, (there, parse_manifest(there, key)), attempts.PARTS
                ),
            )
            if held == manifest:  # as good as fetched
                self._copies.keep_artifact(key, folder, truth)
        return self._committed(key)

    def _committed(self, key: str) -> Artifact:
        found = self.find_artifact(key)
        if found is None:
            raise OSError(f"{self.objects.url_of(attempts.record_name(key))}: gone or damaged already")
        return found

    def _fetch(self, name: Path) -> None:
        part, key = name.parts[:2]
        if part == "units":
            self.unit_path(name.stem)
        elif (part, key) not in self._fetched:
            record = attempts.read_record(self.objects, key)
            if record is None or not self._copies.bring_artifact(key, record, (part,)):
                url = self.objects.url_of(f"{part}/{key}")
                raise OSError(f"{url}: gone or damaged; the next run makes it again")
            self._fetched.add((part, key))

    # Jobs at work

    def workdir(self, key: str) -> Path:
        """The local folder of an unfinished job's checkpoints, as far as any machine has got."""
        self._snapshots.restore(key)
        return super().workdir(key)

    def keep_work(self, key: str, *, now: bool = False) -> str:
        """Copy the checkpoints now and then, if it is this process that has the job's lock, and has not lost it."""
        lease = self._leases.get(key)
        if lease is not None and self._snapshots.is_due(key, now=now):
            self._snapshots.keep(key, lease.is_ours)
        return self._snapshots.trouble(key)

    def forget_work(self, key: str) -> None:
        """Remove a job's checkpoints, here and there."""
        self._snapshots.forget(key)

    def has_work(self, key: str) -> bool:
        """Whether there are any, here or there."""
        return super().has_work(key) or bool(self.objects.names(f"work/{key}"))

    @contextmanager
    def job_lock(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the right to work on a job, by a lease."""
        lease = Lease(self.objects, f"locks/{key}")
        with lease.held(waiting):
            self._leases[key] = lease
            try:
                yield
            finally:
                del self._leases[key]
                self._snapshots.release(key)
