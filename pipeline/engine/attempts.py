"""A job's files on an object store: put side by side by every attempt, under its own name, and one of them committed.

artifacts/<key>/artifact.json names the attempt whose files count. While an attempt puts files, tmp/<attempt> lists the
folders that are to be removed if it dies, or once it has committed others in their place.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline.engine import files
from pipeline.engine.artifact import MANIFEST, Manifest, parse_manifest
from pipeline.engine.objects import Objects
from pipeline.engine.plan import TRUTH

ARTIFACTS, TMP = "artifacts", "tmp"
PARTS = (ARTIFACTS, TRUTH)
Record = tuple[bytes, Manifest | None]  # a commit record, and what it says if that can be read
_FOLDER = re.compile(rf"({ARTIFACTS}|{TRUTH})/(?P<key>[0-9a-f]+)/(?P<attempt>[^/]+)")


def record_name(key: str) -> str:
    """The object that is the commit record of an artifact."""
    return f"{ARTIFACTS}/{key}/{MANIFEST}"


def folder_of(key: str, attempt: str, part: str = ARTIFACTS) -> str:
    """Where an attempt's files are, or those of its part `truth`."""
    return f"{part}/{key}/{attempt}"


def read_record(objects: Objects, key: str) -> Record | None:
    """The commit record of an artifact; None if there is none."""
    content = objects.read(record_name(key))
    return None if content is None else (content, parse_manifest(content, key))


def publish(
    objects: Objects,
    key: str,
    *,
    manifest: bytes,
    folders: Mapping[str, tuple[Path, Sequence[str]]],
    redo: bool,
    is_sound: Callable[[bytes], bool],
) -> bytes:
    """Put an attempt's files and then its commit record; the record that holds, this one's or an earlier one's.

    `folders`: by part, where the files are and their names.
    """
    made = parse_manifest(manifest, key)
    assert made is not None
    mark = f"{TMP}/{made.attempt}"
    own = [folder_of(key, made.attempt, part) for part in folders]
    replaced: list[str] = []

    def stays(there: bytes) -> bool:
        if not redo and is_sound(there):
            return True
        replaced.extend(folder for folder in _named_by(objects, key, there) if folder not in own)
        objects.write(mark, _listing([*own, *replaced]))  # before it is too late to find them
        return False

    objects.write(mark, _listing(own))
    for part, (folder, names) in folders.items():
        objects.send(folder, names, folder_of(key, made.attempt, part))
    held = objects.commit(record_name(key), manifest, stays=stays)
    _remove(objects, replaced if held == manifest else own)
    objects.remove(mark)
    return held


def _named_by(objects: Objects, key: str, record: bytes) -> list[str]:
    """The folders that nobody needs once there is a commit record in place of this one."""
    made = parse_manifest(record, key)
    attempts = {made.attempt} if made is not None else _attempts(objects, key)
    return [folder_of(key, attempt, part) for attempt in sorted(attempts) for part in PARTS]


def sweep(objects: Objects) -> int:
    """Remove what attempts have left that are dead, or a day old on another machine; how many attempts."""
    found = [name for name in objects.names(TMP) if _is_left(objects, name)]
    for mark in found:
        for folder in _listed(objects.read(mark) or b""):
            where = _FOLDER.fullmatch(folder)
            if where is not None and not _is_committed(objects, where["key"], where["attempt"]):
                _remove(objects, [folder])
        objects.remove(mark)
    return len(found)


def _is_committed(objects: Objects, key: str, attempt: str) -> bool:
    record = read_record(objects, key)
    return record is not None and record[1] is not None and record[1].attempt == attempt


def _is_left(objects: Objects, mark: str) -> bool:
    return files.is_left(mark.removeprefix(f"{TMP}/"), lambda: objects.age(mark))


def _attempts(objects: Objects, key: str) -> set[str]:
    names = objects.names(f"{ARTIFACTS}/{key}")
    return {name.split("/")[2] for name in names} - {MANIFEST}


def _listing(folders: Sequence[str]) -> bytes:
    return json.dumps(list(folders)).encode()


def _listed(content: bytes) -> list[str]:
    try:
        found = json.loads(content)
    except ValueError:
        return []
    return [folder for folder in found if isinstance(folder, str)] if isinstance(found, list) else []


def _remove(objects: Objects, folders: Sequence[str]) -> None:
    for folder in folders:
        objects.remove(*objects.names(folder))
