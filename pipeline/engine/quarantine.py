"""The count of bad images and annotations, against `max_bad`."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import JsonValue

from pipeline.engine import parquet
from pipeline.engine.context import Metrics
from pipeline.engine.faults import TooManyBad
from pipeline.engine.units import SUMMARISED, RecordSet, summarise

EXAMPLES = 100  # of each kind, kept for `run.json`
TOLD = 5  # of them, in an error message


class Quarantine:
    """Counts what is left out of a run: by ingest before there are records, by stages as `dropped` records."""

    def __init__(self, max_bad: float) -> None:
        self._max_bad = max_bad
        self._ingest: dict[str, int] = {}
        self._rows = 0
        self._counted: set[int] = set()
        self._lines: dict[str, list[str]] = {"images": [], "annotations": []}
        self.examples: list[dict[str, JsonValue]] = []

    def before(self, metrics: Metrics, *, label: str, listing: Path) -> None:
        """Take over ingest's own count: images, bad_images, annotations, bad_annotations; and its list of them.

        `listing`: a JSON file {"images": [{"entry", "reason"}], "annotations": [the same]}; it may be absent.
        """
        names = ("images", "bad_images", "annotations", "bad_annotations")
        self._ingest = {name: int(metrics.get(name) or 0) for name in names}
        found = json.loads(listing.read_text(encoding="utf-8")) if listing.exists() else {}
        for what, lines in self._lines.items():
            for bad in found.get(what, [])[:EXAMPLES]:
                self.examples.append({"stage": label, "entry": bad["entry"], "reason": bad["reason"]})
                lines.append(f"{bad['entry']}: {bad['reason']}")

    def count(self, label: str, rows: int, dropped: Iterable[tuple[int, str]]) -> int:
        """Count the records dropped by now, of so many; how many of them are new at this stage."""
        new = 0
        self._rows = rows
        for image_id, reason in dropped:
            if image_id in self._counted:
                continue
            self._counted.add(image_id)
            new += 1
            if len(self._counted) <= EXAMPLES:
                self.examples.append({"stage": label, "image_id": image_id, "reason": reason})
                self._lines["images"].append(f"image {image_id}: {reason}")
        return new

    def check(self) -> None:
        """TooManyBad if the larger of the bad shares of images and annotations exceeds `max_bad`."""
        shares = (
            ("images", self._ingest.get("bad_images", 0) + len(self._counted), self._images()),
            ("annotations", self._ingest.get("bad_annotations", 0), self._ingest.get("annotations", 0)),
        )
        for what, bad, total in shares:
            if total and bad / total > self._max_bad:
                reasons = "".join(f"\n  {line}" for line in self._lines[what][:TOLD])
                raise TooManyBad(
                    f"{bad} of {total} {what} are bad ({bad / total:.1%}); max_bad allows {self._max_bad:.1%}{reasons}"
                )

    def _images(self) -> int:
        return max(self._ingest.get("images", 0), self._rows)


def dropped_of(records: RecordSet) -> Iterator[tuple[int, str]]:
    """Id and reason of every dropped record, read from the files of a record set."""
    for part in records.parts:
        yield from summarise(parquet.read(part.path, SUMMARISED)).dropped.items()
