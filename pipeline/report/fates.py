"""What became of people's points and of a detector's boxes (Das et al. 2024, Alg. 1): counted by class, examples kept.

A point takes a detection's box, or keeps the box of SAM's own mask; a detection serves a point (or, where no point is
known, becomes a mask itself) or is not used.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from pipeline.data.records import Instance, Prompt, Record, Source
from pipeline.report.blocks import Bar, Block, Cell, Fold, Legend, Section, Table, Text
from pipeline.report.wording import counted, percent

MANY = 40  # classes that are listed; the others are behind a line that opens them
SURE = 0.5  # confidence from which an unused detection is worth a look

Example = TypeVar("Example")
Namer = Callable[[int | None, str | None], str]  # (class id, phrase) -> words


class Fate(StrEnum):
    """What Algorithm 1 did with a point; the values are words for readers."""

    TAKEN = "took a detection's box"
    UNFIT = "kept SAM's own box: what was left for it is of another class or elsewhere"
    LEFT = "kept SAM's own box: no detection was left for it"
    BARE = "has no box at all: SAM's own mask was empty, and no detection fitted"


SHORT = {
    Fate.TAKEN: "took a detection's box",
    Fate.UNFIT: "no detection fits",
    Fate.LEFT: "no detection left",
    Fate.BARE: "no box",
}


def fate_of(instance: Instance) -> Fate | None:
    """The fate of the point that an instance comes from; None if Algorithm 1 had no say."""
    match = instance.match
    if match is None:
        return None
    if match.proposal is not None:
        return Fate.TAKEN
    if instance.prompt is None or instance.prompt.box_xyxy is None:
        return Fate.BARE
    return Fate.LEFT if match.cost is None else Fate.UNFIT


def unused(record: Record) -> list[Prompt]:
    """The detections of an image that served no point and became no mask."""
    taken = {i.match.proposal for i in record.instances if i.match is not None}
    # A detection that became a mask of its own is that mask's prompt, unchanged.
    asked = {i.prompt for i in record.instances if i.prompt is not None and i.match is None}
    return [p for index, p in enumerate(record.proposals) if index not in taken and p not in asked]


@dataclass(frozen=True)
class LonePoint:
    """A point that took no detection's box, and its image."""

    record: Record
    instance: Instance
    fate: Fate


@dataclass(frozen=True)
class LoneBox:
    """A detection that was not used, and its image."""

    record: Record
    prompt: Prompt


@dataclass
class Fates:
    """Counts by class name, and the examples to draw: doubtful points and sure detections, one an image at most."""

    points: dict[str, Counter[Fate]] = field(default_factory=dict)
    empty: Counter[str] = field(default_factory=Counter)
    detections: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    sure: Counter[str] = field(default_factory=Counter)
    lone_points: list[LonePoint] = field(default_factory=list)
    lone_boxes: list[LoneBox] = field(default_factory=list)


def gather(data: Iterable[Record], name: Namer, *, examples: int) -> Fates:
    """The fates in all records that are not in quarantine; at most `examples` of each kind are kept."""
    found = Fates()
    points: _Best[LonePoint] = _Best(examples)
    boxes: _Best[LoneBox] = _Best(examples)
    for record in data:
        if record.dropped is not None:
            continue
        _count(found, record, name)
        if (point := _lone_point(record)) is not None:
            points.add((_surety(point.instance), record.image_id), point)
        if (box := _lone_box(record)) is not None:
            boxes.add((-(box.prompt.score or 0.0), record.image_id), box)
    found.lone_points, found.lone_boxes = points.items(), boxes.items()
    return found


class _Best(Generic[Example]):
    """The first `limit` of many by their rank; no more than these are held."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[tuple[tuple[float, int], Example]] = []

    def add(self, rank: tuple[float, int], item: Example) -> None:
        self._kept.append((rank, item))
        self._kept.sort(key=lambda kept: kept[0])
        del self._kept[self._limit :]

    def items(self) -> list[Example]:
        return [item for _, item in self._kept]


def _count(found: Fates, record: Record, name: Namer) -> None:
    for instance in record.instances:
        fate = fate_of(instance)
        if fate is not None:
            found.points.setdefault(name(instance.class_id, instance.phrase), Counter())[fate] += 1
        if instance.source is Source.TEACHER and instance.rle is None:
            found.empty[name(instance.class_id, instance.phrase)] += 1
    for prompt in record.proposals:
        found.detections[name(prompt.class_id, prompt.phrase)] += 1
    for prompt in unused(record):
        label = name(prompt.class_id, prompt.phrase)
        found.unused[label] += 1
        found.sure[label] += (prompt.score or 0.0) >= SURE


def _surety(instance: Instance) -> float:
    """The lower, the more doubtful; an empty mask is worse than any."""
    if instance.rle is None:
        return -1.0
    return instance.pred_iou if instance.pred_iou is not None else 1.0


def _lone_point(record: Record) -> LonePoint | None:
    """The image's point without a detection whose mask is empty, or else the one whose mask SAM trusts least."""
    lone = [
        LonePoint(record, i, fate)
        for i in record.instances
        if (fate := fate_of(i)) is not None and fate is not Fate.TAKEN
    ]
    return min(lone, key=lambda p: _surety(p.instance), default=None)


def _lone_box(record: Record) -> LoneBox | None:
    """The image's surest unused detection."""
    boxes = [p for p in unused(record) if p.box_xyxy is not None]
    best = max(boxes, key=lambda p: p.score or 0.0, default=None)
    return None if best is None else LoneBox(record, best)


def section(found: Fates, galleries: Sequence[Block]) -> Section | None:
    """The counts and the examples; None where there was neither a point to match nor a detection."""
    if not found.points and not found.detections:
        return None
    blocks: list[Block] = [Text(tuple(_words(found)))]
    if found.points:
        blocks += [_summary(found)]
    blocks += [*_by_class(found), *galleries]
    heading = (
        "Points and detections that found no partner" if found.points else "Detections that became no mask"
    )
    return Section("unmatched", heading, tuple(blocks), "Unmatched")


def _words(found: Fates) -> list[str]:
    total, idle, sure = found.detections.total(), found.unused.total(), found.sure.total()
    words = []
    if found.points:
        points = sum(counter.total() for counter in found.points.values())
        taken, bare = (sum(c[fate] for c in found.points.values()) for fate in (Fate.TAKEN, Fate.BARE))
        words.append(
            f"{counted(points, 'point')} met {counted(total, 'detection')}: {percent(taken, points)} of the points "
            f"took a detection's box, {percent(points - taken - bare, points)} kept the box of SAM's own mask"
            + (f", {percent(bare, points)} got no box at all: SAM's own mask was empty." if bare else ".")
        )
    why = (
        "an object that nobody marked, a second box on a marked one, or a mistake"
        if found.points
        else "not sure enough for a mask, or beside a surer detection of the same thing"
    )
    words.append(
        f"{idle:,} of the {counted(total, 'detection')} were not used, {sure:,} of these with a confidence of {SURE:g} "
        f"or more: {why}."
    )
    return words


def _summary(found: Fates) -> Table:
    totals = sum(found.points.values(), Counter[Fate]())
    whole = totals.total()
    rows = tuple(
        (fate.value, Bar(totals[fate] / whole), f"{totals[fate]:,}", percent(totals[fate], whole))
        for fate in Fate
        if totals[fate]
    )
    return Table(("what became of a point", "0 to 100%", "points", "share"), rows)


def _by_class(found: Fates) -> list[Block]:
    names = sorted({*found.points, *found.detections}, key=lambda n: (-_lone_share(found, n), n))
    counts = ("detections", "not used", f"of these sure ({SURE:g} or more)", "empty masks")
    rows: tuple[tuple[Cell, ...], ...] = tuple(_class_row(found, name) for name in names)
    header: tuple[str, ...] = ("class", "points without a detection, 0 to 100%", "points", "without", *counts)
    caption = "By class, the largest share of points without a detection first"
    if not found.points:
        header, caption = ("class", *counts), "By class"
        rows = tuple((row[0], *row[4:]) for row in rows)
    shown, rest = rows[:MANY], rows[MANY:]
    table = Table(header, shown, caption)
    return [table, Fold(f"The other {len(rest)} classes", (Table(header, rest),))] if rest else [table]


def _lone_share(found: Fates, name: str) -> float:
    fates = found.points.get(name, Counter())
    return 1 - fates[Fate.TAKEN] / fates.total() if fates else 0.0


def _class_row(found: Fates, name: str) -> tuple[Cell, ...]:
    fates = found.points.get(name, Counter())
    lone = fates.total() - fates[Fate.TAKEN]
    return (
        name,
        Bar(_lone_share(found, name)),
        f"{fates.total():,}",
        f"{lone:,}",
        f"{found.detections[name]:,}",
        f"{found.unused[name]:,}",
        f"{found.sure[name]:,}",
        f"{found.empty[name]:,}",
    )


POINT_LEGEND = Legend(
    (("used", "the box that was used"), ("unused", "detections of its class, not used by it"))
)
BOX_LEGEND = Legend((("unused", "the detection"), ("click", "points of its class; their masks are coloured")))
