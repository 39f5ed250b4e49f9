"""The local copies of what lies on an object store: compared by digest, made by one process of a machine at a time."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue

from pipeline.engine import attempts, files
from pipeline.engine.artifact import MANIFEST, holds
from pipeline.engine.objects import Objects
from pipeline.engine.plan import TRUTH
from pipeline.engine.store import Store

Note = dict[str, str | float]
VERSION = "version"  # in the note of a unit's copy: which object it was made of


def unit_name(key: str) -> str:
    """The object that is a unit."""
    return f"units/{key[:2]}/{key}"


def pack(key: str, body: bytes, note: Mapping[str, JsonValue]) -> bytes:
    """A unit's object: its note and its file in one, so that both are committed at once."""
    return json.dumps({"key": key, **note}).encode() + b"\n" + body


def unpack(content: bytes, key: str) -> tuple[Note, bytes] | None:
    """A unit's note and file; None if it is damaged."""
    line, _, body = content.partition(b"\n")
    note = _parse(line)
    fits = note.get("key") == key and note.get("sha256") == hashlib.sha256(body).hexdigest()
    return (note, body) if fits else None


class Copies:
    """Copies in a folder that is laid out as a store is."""

    def __init__(self, objects: Objects, folder: Store) -> None:
        self._objects, self._folder = objects, folder

    def has_unit(self, key: str, version: str | None = None) -> bool:
        """Whether there is a whole copy, of that version of the object."""
        path = self._folder.unit_place(key)
        note = _note(path)
        if not path.exists() or (version is not None and note.get(VERSION) != version):
            return False
        if not files.is_whole(path, str(note.get("sha256"))):
            return False
        os.utime(path.with_suffix(".json"))
        return True

    def bring_unit(self, key: str, version: str | None = None) -> bool:
        """Copy a unit, of that version if it is known; whether it is there and undamaged."""
        version = version or self._objects.version(unit_name(key))
        content = self._objects.read(unit_name(key))
        return content is not None and self.keep_unit(key, content, version)

    def keep_unit(self, key: str, content: bytes, version: str | None) -> bool:
        """Make a copy of a unit's object that was read; whether it is undamaged."""
        found = unpack(content, key)
        if found is None:
            return False
        self._folder.make_folders()
        note, body = found
        self._folder.keep_note(key, {**note, VERSION: version})
        files.commit_bytes(self._folder.unit_place(key), body, scratch=self._folder.root / "tmp")
        return True

    def bring_note(self, key: str) -> Note:
        """Copy a unit's note alone; nothing if there is none, or a damaged one."""
        note = _parse(self._objects.read_line(unit_name(key)) or b"")
        if note.get("key") != key:
            return {}
        self._folder.make_folders()
        self._folder.keep_note(key, {**note})
        return note

    def bring_artifact(self, key: str, record: attempts.Record, parts: Sequence[str]) -> bool:
        """Copy parts of an artifact, as far as they are not here; whether all is there and undamaged."""
        content, made = record
        if made is None:
            return False
        self._folder.make_folders()
        with self._folder.job_lock(key, _no_matter):  # of several processes here one fetches
            for part in parts:
                digests = made.truth if part == TRUTH else made.files
                target = self._folder.root / part / key
                same = part == TRUTH or _content(target / MANIFEST) == content
                if part == TRUTH and not digests:
                    continue
                if same and holds(target, digests):
                    os.utime(target)
                    continue
                with self._folder.scratch_folder() as folder:
                    source = attempts.folder_of(key, made.attempt, part)
                    if not self._objects.fetch(folder, list(digests), source) or not holds(folder, digests):
                        return False
                    if part != TRUTH:
                        (folder / MANIFEST).write_bytes(content)
                    self._folder.move_in(folder, target)
        return True

    def keep_artifact(self, key: str, folder: Path, truth: Path) -> None:
        """Take the folders of an artifact that was put over there for its copies."""
        with self._folder.job_lock(key, _no_matter):
            if any(truth.iterdir()):
                self._folder.move_in(truth, self._folder.truth_folder(key))
            self._folder.move_in(folder, self._folder.artifact_folder(key))

    def clean(self) -> None:
        """Remove the copies that were not used for long, and checkpoints of jobs that nobody here went on with."""
        root = self._folder.root
        for note in root.glob("units/*/*.json"):
            if files.is_unused(note):
                note.with_suffix(".parquet").unlink(missing_ok=True)
                note.unlink(missing_ok=True)
        for part in (*attempts.PARTS, "work"):
            for path in (root / part).iterdir():
                if files.is_unused(path):
                    files.remove(path)


def _note(unit: Path) -> Note:
    return _parse(_content(unit.with_suffix(".json")) or b"")


def _parse(content: bytes) -> Note:
    try:
        note = json.loads(content)
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _no_matter() -> None:
    """Another process of this machine is about to copy the same."""
