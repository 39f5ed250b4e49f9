"""Checks a COCO file as a run would take it in: what a run leaves out or stops at is an error, a doubt is a warning.

Nothing is read but the file and, in the given folder, the photos it lists.
"""

import os
import re
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import NamedTuple, Protocol

from pipeline.data.coco import CocoFile, Finding, ImageEntry
from pipeline.data.coco_check import Checker
from pipeline.data.coco_json import Entry
from pipeline.data.errors import BadInput
from pipeline.data.paths import check_folder
from pipeline.data.records import Role
from pipeline.stages.photos import Photo, listed_twice, look_at, with_name
from pipeline.stages.sources import THREADS, Split

_NOUNS = {"images": "image", "annotations": "annotation", "categories": "class"}
VALID, WARNED, INVALID, OWN_FAULT = 0, 1, 2, 70
SHOWN = 20  # findings of a kind; the rest are counted
MAX_KINDS = 500  # of them that are told apart, for a file that is made to have many
AHEAD = 4 * THREADS  # photos read before their annotations' turn comes

_INDEX = re.compile(r"\[\d+\]")
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")


class Screen(Protocol):
    """Where findings and the state of the work are shown."""

    def line(self, text: str) -> None:
        """A line of the result."""
        ...

    def state(self, text: str) -> None:
        """What is being done, for a person who waits."""
        ...

    def trouble(self, text: str) -> None:
        """What a person needs who mends this program."""
        ...


class Kind(NamedTuple):
    """Findings that are told together: the same rule broken in the same field."""

    severity: str
    section: str
    field: str
    rule: str


class Tally:
    """Shows findings as they come, SHOWN of a kind, and counts all."""

    def __init__(self, line: Callable[[str], None]) -> None:
        self._line = line
        self._kinds: Counter[Kind] = Counter()
        self._totals: Counter[str] = Counter()

    def error(self, finding: Finding) -> None:
        """Count what a run would leave out or stop at."""
        self._tell("error", finding)

    def warn(self, finding: Finding) -> None:
        """Count what a run takes as it is."""
        self._tell("warning", finding)

    def stop(self, problem: str) -> None:
        """Count what makes the file unusable as a whole."""
        self._totals["error"] += 1
        self._line(f"error {problem}")

    def close(self) -> None:
        """Show how many of each kind were not shown."""
        for kind, count in self._kinds.items():
            if count > SHOWN:
                what = " ".join(part for part in kind if part)
                self._line(f"{what} ... and {count - SHOWN} more like this")

    @property
    def code(self) -> int:
        """The exit code."""
        return INVALID if self._totals["error"] else WARNED if self._totals["warning"] else VALID

    @property
    def counts(self) -> str:
        """How much was found, in words."""
        return ", ".join(_count(self._totals[name], name) for name in ("error", "warning"))

    def _tell(self, severity: str, finding: Finding) -> None:
        kind = _kind(severity, finding)
        if len(self._kinds) >= MAX_KINDS and kind not in self._kinds:
            kind = Kind(severity, "", "", "of other kinds")
        self._totals[severity] += 1
        self._kinds[kind] += 1
        if self._kinds[kind] <= SHOWN:
            self._line(f"{severity} {finding.place} {finding.field}: {finding.problem}")


def _kind(severity: str, finding: Finding) -> Kind:
    """What a finding is like: its problem before what was found, without numbers."""
    rule = finding.problem.partition(", found ")[0].partition(": ")[0]
    field = _INDEX.sub("[]", finding.field)
    return Kind(severity, finding.section, f"{field}:", _NUMBER.sub("N", rule))


class _Watched(Checker):
    """A checker that says how far the first pass is."""

    def __init__(self, tally: Tally, screen: Screen) -> None:
        super().__init__(tally.error, tally.warn)
        self.screen, self.size = screen, 0

    def entry(self, entry: Entry) -> None:
        super().entry(entry)
        self.screen.state(f"reading, {entry.offset / max(self.size, 1):.0%}")


def validate(path: Path, images: Path | None, screen: Screen) -> int:
    """Check a file, and its photos if their folder is given; the exit code."""
    tally = Tally(screen.line)
    checker = _Watched(tally, screen)
    try:
        photos = _check(path, images, checker, tally)
    except BadInput as error:
        tally.stop(str(error))
        verdict = f"{path}: cannot be used, {tally.counts}"
    except Exception as error:  # noqa: BLE001 - our own fault must not look like the file's
        screen.trouble(traceback.format_exc())
        screen.line(
            f"internal error: {type(error).__name__}: {error}; please report it, no file may cause one"
        )
        return OWN_FAULT
    else:
        listed = ", ".join(_count(checker.listed[section], noun) for section, noun in _NOUNS.items())
        verdict = f"{path}: {tally.counts} in {listed}" + ("" if photos else "; photos were not looked at")
    tally.close()
    screen.line(verdict)
    return tally.code


def _check(path: Path, images: Path | None, checker: _Watched, tally: Tally) -> bool:
    """Tell all findings; whether photos were looked at. BadInput for a file that cannot be used."""
    checker.size = os.path.getsize(path) if os.path.isfile(path) else 0
    if images is not None:
        try:
            check_folder(images)
        except BadInput as error:
            tally.stop(str(error))
            images = None
    with CocoFile(path, watcher=checker) as file:
        checker.whole(file)
        photos = repeat(None) if images is None else _photos(Split("", path, images), file)
        twice = listed_twice(file.images)
        usable = 0
        for done, (image, photo) in enumerate(zip(file.images, photos, strict=False)):
            checker.screen.state(f"checking, {done / len(file.images):.0%}")
            known = photo if isinstance(photo, Finding) else twice.get(image.id, photo)
            usable += not isinstance(known, Finding)
            for finding in _image(file, image, known, checker):
                tally.error(finding)
        if not usable:
            tally.stop("images: expected at least one usable image, found none")
    return images is not None


def _image(
    file: CocoFile, image: ImageEntry, photo: Photo | Finding | None, checker: Checker
) -> Iterator[Finding]:
    """What is wrong with one image and its annotations; of its doubts `checker` is told."""
    if isinstance(photo, Finding):
        yield with_name(photo, image)
    header = photo.header if isinstance(photo, Photo) else None
    if isinstance(photo, Photo):
        checker.photo(image, photo.sha256, photo.header, photo.remarks)
    # A run does not come to the annotations of a photo that it cannot use: here they are checked as listed.
    yield from file.record(image, sha256="", split="", role=Role.VAL, header=header)[1]


def _photos(split: Split, file: CocoFile) -> Iterator[Photo | Finding]:
    """Each image's photo, read in threads ahead of its turn."""
    waiting: deque[Future[Photo | Finding]] = deque()
    look = partial(look_at, split, annotated=file.annotations > 0)
    with ThreadPoolExecutor(THREADS) as threads:
        for image in file.images:
            waiting.append(threads.submit(look, image))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        yield from (future.result() for future in waiting)


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
