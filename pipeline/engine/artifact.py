"""A job's result: a folder whose `artifact.json` lists every file with its digest and tells how it was made."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from pipeline.engine import files
from pipeline.engine.context import Metrics
from pipeline.engine.keys import digest_of
from pipeline.engine.plan import TRUTH

MANIFEST = "artifact.json"


@dataclass(frozen=True)
class Artifact:
    """A committed artifact, or a part of one.

    `digest` is that of its files (paths and bytes), not of how they came about; `files` maps each path inside
    `folder` to the sha256 of its bytes. `seconds`: of the work that made it, by all processes together. `truth`: its
    part of that name, which lies elsewhere, so that no path leads from the other parts to it; None if it has none.
    """

    key: str
    folder: Path
    digest: str
    files: Mapping[str, str]
    metrics: Metrics
    seconds: float
    truth: "Artifact | None" = None

    def part(self, name: str) -> "Artifact":
        """The artifact that is the subfolder `name` of this one; FileNotFoundError if it is not there."""
        if name == TRUTH and self.truth is not None:
            return self.truth
        inside = _below(f"{name}/", self.files)
        if not inside:
            raise FileNotFoundError(
                f"{self.folder}: expected a part {name!r}, found {sorted(self.files)[:10]}"
            )
        return Artifact(
            self.key, self.folder / name, content_digest(inside), inside, self.metrics, self.seconds
        )


def _below(prefix: str, digests: Mapping[str, str]) -> dict[str, str]:
    return {path.removeprefix(prefix): d for path, d in digests.items() if path.startswith(prefix)}


def content_digest(digests: Mapping[str, str]) -> str:
    """Digest of a folder's content from the digests of its files."""
    return digest_of(dict(digests))


def _listing(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in found if path != folder / MANIFEST)


def digests_of(folder: Path) -> dict[str, str]:
    """sha256 of every file in a folder but its manifest, by path; empty if there is no such folder."""
    return {name: files.file_digest(folder / name) for name in _listing(folder)}


def lend(folder: Path) -> Artifact:
    """An artifact from anywhere on disk, as it is now: its digest is that of the files found in it."""
    digests = digests_of(folder)
    return Artifact("", folder, content_digest(digests), digests, {}, 0.0)


def write_manifest(
    folder: Path, key: str, *, stage: str, metrics: Metrics, seconds: float, about: dict[str, JsonValue]
) -> None:
    """Write `artifact.json` for all that lies in `folder`; `about`: device, versions, digests of the part `truth`."""
    digests = digests_of(folder)
    body: dict[str, JsonValue] = {
        "key": key,
        "stage": stage,
        "content": content_digest(digests),
        "files": dict(digests),
        "metrics": dict(metrics),
        "seconds": seconds,
        **about,
    }
    text = json.dumps({**body, "digest": digest_of(body)}, indent=1, sort_keys=True)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Manifest:
    """What an `artifact.json` says; `truth`: digests of the part of that name. `attempt`: whose files they are, where
    attempts lie side by side.
    """

    content: str
    files: Mapping[str, str]
    truth: Mapping[str, str]
    metrics: Metrics
    seconds: float
    attempt: str


def parse_manifest(content: bytes, key: str | None) -> Manifest | None:
    """An artifact's manifest; None if it is damaged or another artifact's than that of the key."""
    try:
        body = json.loads(content)
    except ValueError:
        return None
    if not isinstance(body, dict) or body.pop("digest", None) != digest_of(body):
        return None
    if key is not None and body["key"] != key:
        return None
    return Manifest(
        body["content"],
        body["files"],
        body.get(TRUTH, {}),
        body["metrics"],
        body["seconds"],
        body.get("attempt", ""),
    )


def read_artifact(folder: Path, key: str, *, truth: Path) -> Artifact | None:
    """The artifact in `folder`, every byte checked; None if anything is missing, changed or too much.

    `truth`: where its part of that name lies, if it has one.
    """
    try:
        made = parse_manifest((folder / MANIFEST).read_bytes(), key)
    except OSError:
        return None
    if made is None or not holds(folder, made.files) or (made.truth and not holds(truth, made.truth)):
        return None
    hidden = made.truth
    part = (
        Artifact(key, truth, content_digest(hidden), hidden, made.metrics, made.seconds) if hidden else None
    )
    return Artifact(key, folder, made.content, made.files, made.metrics, made.seconds, part)


def is_replaced(folder: Path, digest: str) -> bool:
    """Whether in a folder, that of an artifact or of a part of one, there lies another one by now.

    A folder without a manifest (lent, or hidden truth) tells nothing.
    """
    for root, prefix in ((folder, ""), (folder.parent, f"{folder.name}/")):
        try:
            made = parse_manifest((root / MANIFEST).read_bytes(), None)
        except OSError:
            continue
        return made is None or content_digest(_below(prefix, made.files)) != digest
    return False


def holds(folder: Path, digests: Mapping[str, str]) -> bool:
    """Whether a folder holds files of these digests and no others but a manifest."""
    if _listing(folder) != sorted(digests):  # before any byte is read
        return False
    return all(files.is_whole(folder / name, digest) for name, digest in digests.items())
