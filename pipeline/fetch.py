"""`pipeline models fetch`: the only place that downloads. Files are checked by sha256 and what came is written down.

SAM's checkpoints have published digests. Hub models are pinned by the commit that the first fetch found: its id and the
digests of its files are recorded in `fetched.json`, and a later fetch takes that commit and compares.
"""

import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from pathlib import Path

from pipeline.data.errors import BadInput
from pipeline.engine.faults import RunFault
from pipeline.engine.files import commit_file, commit_text, file_digest
from pipeline.weights import RECORD, SAFE_FILES, Download, Fetched, Repository, find_weights

BLOCK = 1 << 20
SILENCE = 60.0  # seconds without a byte after which a server is given up
LINE_SECONDS = 5.0


class NotFetched(RunFault):
    """A server did not give all of a file; the message says why. Nothing half-written has the file's name."""


def fetch(name: str, folder: Path) -> Path:
    """Download weights into `folder`, unless they are there; the file or folder to name in a config.

    BadInput for an unknown name, and for bytes with another digest than the published or recorded one; NotFetched when
    the network or the server fails.
    """
    weights = find_weights(name)
    place = weights.place(name, folder)
    if place is None or weights.source is None:
        raise BadInput(f"weights {name!r}: embedded in the package, nothing to fetch")
    if isinstance(weights.source, Repository):
        _fetch_repository(weights.source, folder / name)
    elif place.exists():
        _compare(str(place), file_digest(place), weights.source.sha256)
    else:
        commit_file(place, partial(_download, weights.source))
    return place


def _download(source: Download, temp: Path) -> None:
    with _network(source.url):
        answer = urllib.request.urlopen(source.url, timeout=SILENCE)
    with answer, temp.open("wb") as file:
        total = int(answer.headers.get("Content-Length") or 0)
        told = _Told(source.url.rsplit("/", 1)[-1], total)
        done = 0
        while True:
            with _network(source.url):
                block = answer.read(BLOCK)
            done += len(block)
            told(done, last=not block)
            if not block:
                break
            file.write(block)
    if done < total:
        raise NotFetched(f"{source.url}: the connection ended after {done} of {total} bytes; try again")
    _compare(source.url, file_digest(temp), source.sha256)


@contextmanager
def _network(what: str, *more: type[Exception]) -> Iterator[None]:
    """Turn what a network fails with into NotFetched; `more` are errors that are no OSError."""
    failures: tuple[type[Exception], ...] = (OSError, HTTPException, *more)
    try:
        yield
    except failures as error:
        reason = str(getattr(error, "reason", None) or error or type(error).__name__).splitlines()[0]
        raise NotFetched(
            f"{what}: cannot be fetched: {reason}; without network, copy the folder from a machine that has it"
        ) from error


class _Told:
    """Bytes so far on standard error, every few seconds and at the end."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._of = name, f" of {total / 1e6:.1f}" if total else ""
        self._last = time.monotonic()

    def __call__(self, done: int, *, last: bool) -> None:
        now = time.monotonic()
        if last or now - self._last >= LINE_SECONDS:
            self._last = now
            sys.stderr.write(f"{self._name}: {done / 1e6:.1f}{self._of} MB\n")
            sys.stderr.flush()


def _fetch_repository(source: Repository, target: Path) -> None:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    known = Fetched.read(target)
    # A refused connection is an error of the HTTP library, which is the first base of the hub's own.
    with _network(f"hub model {source.id}", *HfHubHTTPError.__bases__):
        commit = known.commit if known else HfApi().model_info(source.id).sha
        if commit is None:
            raise BadInput(f"hub model {source.id}: expected the id of its latest commit, found none")
        wanted = list(SAFE_FILES) if source.file is None else [source.file]
        snapshot_download(source.id, revision=commit, local_dir=target, allow_patterns=wanted)
    digests = {
        path.relative_to(target).as_posix(): file_digest(path)
        for path in sorted(target.rglob("*"))
        if path.is_file() and path != target / RECORD and ".cache" not in path.parts
    }
    if source.file is not None and source.file not in digests:
        raise BadInput(f"{source.id}: expected a file {source.file}, found {sorted(digests) or 'none'}")
    if known is None:
        record = Fetched(id=source.id, commit=commit, files=digests)
        commit_text(target / RECORD, record.model_dump_json(indent=1) + "\n")
        return
    for path, digest in known.files.items():
        _compare(str(target / path), digests.get(path, "nothing"), digest)


def _compare(what: str, found: str, expected: str) -> None:
    if found != expected:
        raise BadInput(f"{what}: expected sha256 {expected}, found {found}")
