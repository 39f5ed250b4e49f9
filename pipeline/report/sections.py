"""From the files of a run to the parts of its report: every number printed once, unknown ones as a dash."""

from collections.abc import Mapping, Sequence

from pipeline.report.documents import (
    CostFile,
    CostRow,
    GateFile,
    MetricsFile,
    PseudoQuality,
    Quarantined,
    QuarantineFile,
    StudentScore,
    SummaryFile,
)
from pipeline.report.page import Fact, Section, Table

SHOWN = 50  # rows of a list that may be long; the rest is counted
DASH = "–"
AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
QUALITY = "Pseudo-masks against hidden truth"


def score(value: float | None) -> str:
    """An AP or IoU with three decimals."""
    return DASH if value is None else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Seconds as a person says it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def facts(summary: SummaryFile, metrics: MetricsFile | None, cost: CostFile | None) -> tuple[Fact, ...]:
    """The head line."""
    masked = summary.roles.get("human_masked", 0) + summary.roles.get("reserved", 0)
    found = [Fact(str(summary.images), "images", f"{masked} with human masks, weak labels: {summary.weak}")]
    if metrics is not None and metrics.pseudo is not None:
        found += _pseudo_facts(metrics.pseudo)
    if metrics is not None:
        for name, student in metrics.students.items():
            if metrics.semantic:
                found.append(Fact(score(student.foreground_iou), f"foreground IoU of {name}"))
            else:
                found.append(Fact(score(student.AP), f"AP of {name}", f"AP50 {score(student.AP50)}"))
    if cost is not None and (row := this_run(cost)) is not None and row.saving is not None:
        found.append(Fact(f"{row.saving:.1f}×", "less annotation time", "than full masks"))
    return tuple(found)


def _pseudo_facts(pseudo: PseudoQuality) -> list[Fact]:
    if pseudo.foreground_iou is not None:
        return [Fact(score(pseudo.foreground_iou), "pseudo-mask foreground IoU", "against hidden truth")]
    note = f"against hidden truth; {pseudo.false_positives} false positives"
    return [Fact(score(pseudo.miou), "pseudo-mask mIoU", note)]


def this_run(cost: CostFile) -> CostRow | None:
    """The bill's row of the run itself."""
    return next((row for row in cost.rows if row.this_run), None)


def quality(pseudo: PseudoQuality) -> Section:
    """Pseudo-masks against hidden truth, by class and by who placed the box."""
    counts = f"{pseudo.pseudo_masks} pseudo-masks ({pseudo.dropped} more set aside) on {pseudo.images} images"
    if pseudo.foreground_iou is not None:
        overlap = f"foreground IoU {score(pseudo.foreground_iou)}, Dice {score(pseudo.foreground_dice)}"
        return Section(QUALITY, (f"{counts}: {overlap}, each a mean over images.",))
    notes = (
        f"{counts} for {pseudo.instances} true objects. mIoU {score(pseudo.miou)} over objects, where each of the "
        f"{pseudo.misses} missed ones counts 0; {score(pseudo.miou_images)} over images; "
        f"{pseudo.false_positives} false positives.",
    )
    tables = (
        _quality_table("class", pseudo.by_class, "Objects of each class, missed ones count 0"),
        _quality_table("box from", pseudo.by_origin, "Matched masks by who placed their box"),
    )
    return Section(QUALITY, notes, tuple(t for t in tables if t.rows))


def _quality_table(head: str, groups: Mapping[str, float], caption: str) -> Table:
    ranked = sorted(groups.items(), key=lambda item: (-item[1], item[0]))
    return Table((head, "mIoU"), tuple((name, score(miou)) for name, miou in ranked), caption)


def students(scores: Mapping[str, StudentScore], *, semantic: bool) -> Section:
    """What the students learned, on the val images."""
    names = ("foreground_iou", "foreground_dice") if semantic else AP_NAMES
    rows = tuple((n, *(score(getattr(s, name)) for name in names)) for n, s in scores.items())
    heads = tuple(name.replace("_", " ") for name in names)
    caption = "Mean over the val images" if semantic else "COCO mask AP on the val images"
    return Section("Students", tables=(Table(("student", *heads), rows, caption),))


def gate(decisions: GateFile) -> Section:
    """Whether tuning paid, for each SAM of the teacher."""
    rows = tuple(
        (name, score(v.tuned), score(v.zero_shot), v.use.replace("_", "-"), str(v.instances), v.why)
        for name, v in decisions.root.items()
    )
    header = ("prompt", "tuned mIoU", "zero-shot mIoU", "used", "objects", "why")
    return Section("Teacher gate: tuned against zero-shot", tables=(Table(header, rows, remarks=True),))


def bill(cost: CostFile) -> Section:
    """Annotation time by kind of label."""
    counted = cost.counts_from
    if cost.instances_per_image is not None and cost.classes_per_image is not None:
        means = f"{cost.instances_per_image:.2f} objects and {cost.classes_per_image:.2f} of {cost.classes} classes"
        counted = f"{means} an image ({counted})"
    notes = (f"{cost.images} images, {cost.human_masked_images} of them with human masks; {counted}.",)
    rows = tuple(
        (
            row.kind,
            DASH if row.seconds_per_image is None else f"{row.seconds_per_image:.1f}",
            DASH if row.hours is None else f"{row.hours:.2f}",
            DASH if row.money is None else f"{row.money:.2f}",
            DASH if row.saving is None else f"{row.saving:.2f}×",
            row.note,
        )
        for row in cost.rows
    )
    marked = next((index for index, row in enumerate(cost.rows) if row.this_run), None)
    header = ("labels of the other images", "s/image", "hours in all", "money", "saving", "")
    caption = (
        "Annotation time" if cost.hourly_rate is None else f"Annotation time, at {cost.hourly_rate:g} an hour"
    )
    return Section("The bill", notes, (Table(header, rows, caption, marked, remarks=True),))


def times(seconds: Mapping[str, float]) -> Section:
    """Machine time by stage."""
    rows = tuple((stage, duration(value)) for stage, value in seconds.items())
    total = (("all", duration(sum(seconds.values()))),)
    caption = "Machine time when the results were made; re-used results keep theirs"
    return Section("Stage times", tables=(Table(("stage", "time"), rows + total, caption),))


def quarantine(found: QuarantineFile, later: Sequence[Quarantined] = ()) -> Section:
    """What was left out at ingest and by `later` stages, and why."""
    groups = (
        ("images at ingest", found.images),
        ("annotations at ingest", found.annotations),
        ("images by a later stage", later),
    )
    tables = tuple(_quarantine_table(kind, entries) for kind, entries in groups if entries)
    notes = () if tables else ("Nothing was left out.",)
    return Section("Quarantine", notes, tables)


def _quarantine_table(kind: str, entries: Sequence[Quarantined]) -> Table:
    rows = tuple((entry.entry, entry.reason) for entry in entries[:SHOWN])
    rest = f", the first {SHOWN} shown" if len(entries) > SHOWN else ""
    return Table(("entry", "reason"), rows, f"{len(entries)} {kind}{rest}", remarks=True)
