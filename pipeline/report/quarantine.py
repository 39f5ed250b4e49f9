"""What was left out of a run, gathered by reason."""

import re
from collections.abc import Sequence

from pipeline.report.blocks import Block, Fold, Heading, Section, Table, Text
from pipeline.report.documents import Quarantined, QuarantineFile
from pipeline.report.wording import counted

KINDS = 40  # reasons that are listed, the most frequent
SHOWN = 25  # entries of one reason; the rest is counted
_WHERE = re.compile(r"^(?:images|annotations)\[\d+\](?: \(id \d+\))?: |^image .+?: ")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_DIGITS = re.compile(r"\d+(?:\.\d+)?")


def reason_kind(reason: str) -> str:
    """A reason without what differs from entry to entry: where it is, numbers, quoted texts."""
    bare = _WHERE.sub("", reason)
    return _DIGITS.sub("#", _QUOTED.sub("'…'", bare)) or reason


def quarantine(found: QuarantineFile, later: Sequence[Quarantined], notes: Sequence[str]) -> Section:
    """What was left out at ingest and by `later` stages, and why; what ingest noted besides."""
    groups = (
        ("Images at ingest", found.images),
        ("Annotations at ingest", found.annotations),
        ("Images by a later stage", later),
    )
    blocks: list[Block] = []
    for heading, entries in groups:
        if entries:
            blocks += [Heading(f"{heading}: {len(entries):,}"), *_by_reason(entries)]
    if not blocks:
        blocks.append(Text(("Nothing was left out.",)))
    if notes:
        blocks += [Heading("Notes of ingest"), Text(tuple(notes), items=True)]
    return Section("quarantine", "Quarantine", tuple(blocks), "Quarantine")


def _by_reason(entries: Sequence[Quarantined]) -> list[Block]:
    kinds: dict[str, list[Quarantined]] = {}
    for entry in entries:
        kinds.setdefault(reason_kind(entry.reason), []).append(entry)
    ranked = sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0]))
    folds: list[Block] = [
        Fold(f"{len(group):,} × {kind}", (_listed(group),)) for kind, group in ranked[:KINDS]
    ]
    if rest := ranked[KINDS:]:
        entries_left = sum(len(group) for _, group in rest)
        folds.append(
            Text(
                (
                    f"{counted(entries_left, 'more entry', 'more entries')} for {counted(len(rest), 'other reason')}.",
                )
            )
        )
    return folds


def _listed(group: Sequence[Quarantined]) -> Table:
    rows = tuple((entry.entry, entry.reason) for entry in group[:SHOWN])
    caption = f"{counted(len(group), 'entry', 'entries')}"
    rest = f", the first {SHOWN} shown" if len(group) > SHOWN else ""
    return Table(("entry", "reason"), rows, caption + rest, words=frozenset({1}))
