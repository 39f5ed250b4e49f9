"""What the key of ingest holds of the user's files: a digest of JSON files and images, a few of them in hand at a time.

A plain file below the folder is asked with as few calls as can be; whatever else it is, `data/paths.py` says.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event

from pipeline.data.coco_entries import parse_image
from pipeline.data.coco_fields import EntryError
from pipeline.data.coco_json import entries
from pipeline.data.errors import BadInput, printable
from pipeline.data.images import MAX_FILE_BYTES
from pipeline.data.paths import Place, inside, open_file, reading, stat_of, stat_text
from pipeline.stages.sources import THREADS, Split, Verify

BLOCK = 1 << 20  # bytes of an image file in hand
CHUNK, CHUNKS = 64, 16  # images that a thread is given at once, and such gifts in its queue
Digests = Mapping[str, str]  # of images' bytes, by `listed_as`
UNUSABLE = "unusable"


@dataclass(frozen=True)
class Asked:
    """What is to be told of each image: `verify`. Those in `known` are not read for it.

    `told` is called now and then, as a sign of life, and may end the work by an exception.
    """

    verify: Verify = "bytes"
    known: Digests = field(default_factory=dict)
    told: Callable[[], None] = lambda: None


def listed_as(folder: Place, file_name: str) -> str:
    """A listed image as text, as it is listed."""
    return f"{folder}/{file_name}"


def source_digest(splits: Sequence[Split], asked: Asked) -> str:
    """sha256 over the JSON files' bytes and what `asked` says of every listed image; a missing one counts as such."""
    total = hashlib.sha256()
    for split in splits:
        total.update(f"{split.name} {split.prefix}\n{_file_digest(split.json_file)}\n".encode())
        add_images(total, split.images, _names(split.json_file), asked)
    return total.hexdigest()


def add_images(total: "hashlib._Hash", folder: Place, names: Iterable[str], asked: Asked) -> None:
    """Add a folder's images to a digest: their names and bytes, or with `stat` what `stat_of` tells of them.

    One that cannot be used counts as such.
    """
    look = _Look(folder, asked)
    waiting, chunks = iter(names), partial(_chunk, size=CHUNK)
    with ThreadPoolExecutor(THREADS) as threads:
        try:
            while window := list(islice(waiting, CHUNK * CHUNKS)):
                for lines in threads.map(look.lines, chunks(window)):
                    total.update(lines)
                    asked.told()
        finally:
            look.ended.set()


def _chunk(items: Sequence[str], *, size: int) -> Iterator[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _names(path: Path) -> Iterator[str]:
    """The file names of all images that a COCO file lists well."""
    for entry in entries(path, frozenset({"images"})):
        try:
            image = parse_image(entry.value, index=entry.index, offset=entry.offset, length=entry.length)
        except EntryError:
            continue
        yield image.file_name


class _Look:
    """Looks at the images of one folder."""

    def __init__(self, folder: Place, asked: Asked) -> None:
        self._folder, self._known = folder, asked.known
        by_bytes = asked.verify == "bytes"
        self._look: Callable[[Place], str] = _image_digest if by_bytes else stat_of
        self._of_plain = _plain_digest if by_bytes else _plain_stat
        self.ended = Event()  # nobody waits for more: the threads leave off after the image in hand
        self._real: dict[str, bool] = {}  # by folder: whether it is below ours when links are followed

    def lines(self, names: Sequence[str]) -> bytes:
        """A line for each image."""
        lines = (f"{name!r} {self._identity(name)}\n" for name in names if not self.ended.is_set())
        return "".join(lines).encode()

    def _identity(self, name: str) -> str:
        text = listed_as(self._folder, name)
        found = self._known.get(text)
        if found is not None:
            return found
        try:
            if isinstance(self._folder, Path) and (plain := self._plain(text)) is not None:
                with reading(Path(text)):
                    return self._of_plain(text, plain)
            return self._look(inside(self._folder, name))
        except BadInput:
            return UNUSABLE

    def _plain(self, path: str) -> os.stat_result | None:
        """What is known of a plain file, which is no link, in our folder; None for anything else."""
        try:
            found = os.lstat(path)
        except (OSError, ValueError):
            return None
        parent = os.path.dirname(path)
        if parent not in self._real:
            root = Path(os.path.realpath(str(self._folder)))
            self._real[parent] = Path(os.path.realpath(parent)).is_relative_to(root)
        return found if self._real[parent] and stat.S_ISREG(found.st_mode) else None


def _plain_stat(path: str, found: os.stat_result) -> str:
    if not os.access(path, os.R_OK):
        raise BadInput("cannot be read")
    return stat_text(found)


def _plain_digest(path: str, found: os.stat_result) -> str:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _digest(partial(os.read, handle, min(found.st_size + 1, BLOCK)))
    finally:
        os.close(handle)


def _image_digest(path: Place) -> str:
    with reading(path), open_file(path) as handle:
        return _digest(partial(handle.read, BLOCK))


def _digest(read: Callable[[], bytes]) -> str:
    total, size = hashlib.sha256(), 0
    while block := read():
        total.update(block)
        size += len(block)
        if size > MAX_FILE_BYTES:
            raise BadInput(f"expected at most {MAX_FILE_BYTES} bytes, found more")
    return total.hexdigest()


def _file_digest(path: Path) -> str:
    try:
        with reading(path), open_file(path) as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except BadInput as error:
        raise BadInput(f"{printable(str(path))}: {error}") from None
