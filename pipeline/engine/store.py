"""The store: results found by key, shared by all runs, each either whole or not there.

units/<aa>/<key>.parquet    one unit's records; <key>.json beside it: digest of the file, time it took
artifacts/<key>/            a job's files and `artifact.json`, which lists their digests
truth/<key>/                the part `truth` of that artifact, out of the sight of whoever is lent the rest
work/<key>/                 a job's checkpoints while it is not finished; locks/<key>: who works on it now
tmp/                        what is being written; named after its owner, cleaned when that is gone

A damaged file counts as missing; `damaged` remembers what was found so. Here the store is a folder; on an object store
it is remote_store.py's, and what is read of it lies in such a folder too. Between processes go names: paths relative
to the store.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from pydantic import JsonValue

from pipeline.engine import files, parquet
from pipeline.engine.artifact import MANIFEST, Artifact, digests_of, read_artifact, write_manifest
from pipeline.engine.context import Metrics
from pipeline.engine.plan import TRUTH
from pipeline.engine.units import SUMMARISED, Summary, Timing, note_of, summarise

LOCK_SECONDS = 0.2  # between two looks at a lock


class Busy(Exception):
    """Another process holds a lock that is not waited for."""


@dataclass
class Store:
    """A folder of results; safe for concurrent runs. Construction makes the folders and clears leftovers.

    `look_only`: construction touches nothing, and nothing may be committed.
    """

    root: Path
    damaged: list[Path | str] = field(default_factory=list)
    look_only: bool = False

    def __post_init__(self) -> None:
        self.root = self.root.resolve()
        if self.look_only:
            return
        self.make_folders()
        files.clean_leftovers(self.root / "tmp")

    def make_folders(self) -> None:
        """Make the folders that every store has, as far as they are not there."""
        for name in ("units", "artifacts", TRUTH, "work", "locks", "tmp"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    @property
    def shared(self) -> bool:
        """Whether other processes see it."""
        return True

    @property
    def where(self) -> str:
        """What other processes open this store by."""
        return str(self.root)

    # Names

    def name_of(self, path: Path) -> Path:
        """The name of a path in the store; any other path made absolute, so that it is none."""
        return path.relative_to(self.root) if path.is_relative_to(self.root) else path.absolute()

    def here(self, names: Sequence[Path]) -> list[Path]:
        """The paths of names on this machine, with what they name; other paths as they are."""
        return [self.root / name for name in names]

    def leave_sign(self) -> str:
        """Leave something by which others can tell that they see this very store."""
        sign = files.temp_name(self.root / "tmp")
        sign.touch()
        return sign.name

    def renew_sign(self, sign: str) -> None:
        """Leave it anew, so that it does not grow old."""
        (self.root / "tmp" / sign).touch()

    def sees(self, sign: str) -> bool:
        """Whether a sign that was left elsewhere is seen here."""
        return (self.root / "tmp" / sign).exists()

    def take_back(self, sign: str) -> None:
        """Remove a sign."""
        (self.root / "tmp" / sign).unlink(missing_ok=True)

    # Units

    def unit_place(self, key: str) -> Path:
        """Where the unit of that key is or will be."""
        return self.root / "units" / key[:2] / f"{key}.parquet"

    def unit_path(self, key: str) -> Path:
        """Where the unit of that key is, on this machine."""
        return self.unit_place(key)

    def has_unit(self, key: str) -> bool:
        """Whether the unit is there and undamaged."""
        path = self.unit_path(key)
        if not path.exists():
            return False
        known = self._note(key).get("sha256")
        # The note may be lost; then the checksums of the file's own pages have to do.
        if files.is_whole(path, str(known)) if known else parquet.is_sound(path, key):
            return True
        self.damaged.append(path)
        return False

    def commit_unit(self, key: str, table: pa.Table, timing: Timing, *, redo: bool = False) -> None:  # noqa: ARG002
        """Put a unit in place, its note first; `redo`: also in place of a sound one, where that is not done anyway."""
        content = parquet.to_bytes(table, key=key)
        self.keep_note(key, note_of(content, table, timing))
        files.commit_bytes(self.unit_place(key), content, scratch=self.root / "tmp")

    def keep_note(self, key: str, note: Mapping[str, JsonValue]) -> None:
        """Put the note beside a unit in place."""
        path = self.unit_place(key).with_suffix(".json")
        path.parent.mkdir(exist_ok=True)
        temp = files.temp_name(self.root / "tmp")
        with files.named(temp):
            temp.write_text(json.dumps(note))
        temp.replace(path)  # not synced: losing it loses a number in the bill and some time

    def unit_timing(self, key: str) -> Timing:
        """What the unit cost when it was made; zeros if a power cut took that note."""
        note = self._note(key)
        return Timing(float(note.get("seconds", 0.0)), int(note.get("images", 0)))

    def unit_summary(self, key: str) -> Summary:
        """The summary of a unit that is there; from the unit itself where its note is lost or damaged."""
        note = self._note(key)
        body = str(note.get("summary"))
        if note.get("summary_sha256") != hashlib.sha256(body.encode()).hexdigest():
            return summarise(parquet.read(self.unit_path(key), SUMMARISED))
        rows, digest, dropped = json.loads(body)
        return Summary(rows, digest, dict(dropped))

    def _note(self, key: str) -> dict[str, str | float]:
        try:
            note = json.loads(self.unit_place(key).with_suffix(".json").read_text())
        except ValueError:
            return {}
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EIO):
                raise
            return {}
        return note if isinstance(note, dict) else {}

    # Artifacts

    def artifact_folder(self, key: str) -> Path:
        """Where the artifact of that recipe key is or will be."""
        return self.root / "artifacts" / key

    def truth_folder(self, key: str) -> Path:
        """Where the part `truth` of that artifact is or will be."""
        return self.root / TRUTH / key

    def find_artifact(self, key: str) -> Artifact | None:
        """The committed artifact of a recipe key; None if it is missing or any of its files is damaged."""
        folder = self.artifact_folder(key)
        if not folder.exists():
            return None
        artifact = read_artifact(folder, key, truth=self.truth_folder(key))
        if artifact is None:
            self.damaged.append(folder)
        return artifact

    @contextmanager
    def scratch_folder(self) -> Iterator[Path]:
        """An empty folder that is removed at the end, unless it was committed."""
        folder = files.temp_name(self.root / "tmp")
        folder.mkdir()
        try:
            yield folder
        finally:
            files.remove(folder)

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
        """Move a filled scratch folder in place of a missing or damaged artifact of that key; with `redo` of any.

        A sound one stays where it is, as others may read it now, and is what comes back.
        """
        if not redo and (sound := self.find_artifact(key)) is not None:
            return sound
        truth = folder / TRUTH
        about = {**about, TRUTH: dict(digests_of(truth))}
        if truth.is_dir():
            self.move_in(truth, self.truth_folder(key))
        write_manifest(folder, key, stage=stage, metrics=metrics, seconds=seconds, about=about)
        target = self.artifact_folder(key)
        self.move_in(folder, target)
        artifact = self.find_artifact(key)
        if artifact is None:
            raise OSError(f"{target / MANIFEST}: just written, yet reads back damaged")
        return artifact

    def received(self, artifact: Artifact) -> Artifact:
        """An artifact that a worker somewhere has committed, as it lies on this machine."""
        return artifact

    def move_in(self, folder: Path, target: Path) -> None:
        """Make a folder with all in it the one at `target`, on the same file system."""
        files.sync_tree(folder)
        old = files.temp_name(self.root / "tmp")
        if target.exists():
            os.rename(target, old)
        os.rename(folder, target)
        files.sync(target.parent)
        files.remove(old)  # only now: whoever reads there finds one or the other

    # Jobs at work

    def workdir(self, key: str) -> Path:
        """The folder of an unfinished job's checkpoints; it survives kills."""
        folder = self.root / "work" / key
        folder.mkdir(exist_ok=True)
        return folder

    def keep_work(self, key: str, *, now: bool = False) -> str:  # noqa: ARG002
        """Called while no checkpoint is being written: where they are not safe yet, make them so now and then.

        `now`: at once, as the job ends. What went wrong with that last, which is no reason to end; else nothing.
        """
        return ""

    def forget_work(self, key: str) -> None:
        """Remove a job's checkpoints."""
        shutil.rmtree(self.root / "work" / key, ignore_errors=True)

    def has_work(self, key: str) -> bool:
        """Whether there are any."""
        return (self.root / "work" / key).exists()

    def tidy_work(self, key: str) -> None:
        """Remove those that a worker left which was killed after its commit, unless a process does the job anew."""
        if self.has_work(key):
            with suppress(Busy), self.job_lock(key, _refuse_to_wait):
                self.forget_work(key)

    @contextmanager
    def job_lock(self, key: str, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the right to work on a job; `waiting` is called again and again while another process holds it."""
        # The kernel frees the lock when its holder dies, however it dies.
        with (self.root / "locks" / key).open("w") as handle:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    waiting()
                    time.sleep(LOCK_SECONDS)
            yield


def _refuse_to_wait() -> None:
    raise Busy
