"""The top and the end of the report: head line numbers, what they are worth in plain words, what the run was."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.report.blocks import Code, Fold, Heading, Section, Table, Text
from pipeline.report.calibration import calibration_words
from pipeline.report.documents import (
    CalibrationFile,
    CostFile,
    GateFile,
    MetricsFile,
    PseudoQuality,
    StudentScore,
    SummaryFile,
)
from pipeline.report.page import Fact
from pipeline.report.quality import reaching, said_of
from pipeline.report.sections import full_masks, gate_words, this_run
from pipeline.report.wording import amount, counted, duration, percent, placed_by, score

BEST_ESTIMATES = ("quality", "predicted IoU", "stability", "score")  # the first that is known is told
DETECTOR = "dino"  # the origin of a detector's boxes
CLASS_OF = 10  # objects a class needs to be called the best or the worst


@dataclass(frozen=True)
class Known:
    """The files of a run as far as there are any."""

    summary: SummaryFile
    metrics: MetricsFile | None = None
    cost: CostFile | None = None
    gate: GateFile | None = None
    calibration: CalibrationFile | None = None


def facts(known: Known, seconds: Mapping[str, float]) -> tuple[Fact, ...]:
    """The head line; `seconds`: machine time by stage, of those before the report."""
    summary, metrics, cost = known.summary, known.metrics, known.cost
    found = [_images_fact(summary)]
    if metrics is not None and metrics.pseudo is not None:
        found += _pseudo_facts(metrics.pseudo)
    for name, student in metrics.students.items() if metrics else ():
        found.append(_student_fact(name, student, semantic=metrics.semantic if metrics else False))
    run, full = (this_run(cost), full_masks(cost)) if cost else (None, None)
    if run is not None and full is not None and run.saving is not None:
        hours = f"{amount(run.hours, 1)} hours of labelling in place of {amount(full.hours, 1)}"
        found.append(Fact(f"{run.saving:.1f}×", "less annotation time", f"{hours} for full masks"))
    if seconds:
        spent = duration(sum(seconds.values()))
        found.append(
            Fact(spent, "machine time", "of the stages before this report, when their results were made")
        )
    return tuple(found)


def _images_fact(summary: SummaryFile) -> Fact:
    """Train and val apart: the val images' masks are for scores alone."""
    val = summary.roles.get("val", 0)
    train = sum(summary.roles.values()) - val
    masked = summary.roles.get("human_masked", 0) + summary.roles.get("reserved", 0)
    others = f"; {counted(val, 'val image')} besides" if val else ""
    return Fact(
        f"{train:,}",
        "train images",
        f"{masked:,} with human masks, weak labels of the others: {summary.weak}{others}",
    )


def _pseudo_facts(pseudo: PseudoQuality) -> list[Fact]:
    if pseudo.foreground_iou is not None:
        note = "all pseudo pixels against all true ones, mean over images"
        return [Fact(score(pseudo.foreground_iou), "pseudo-mask foreground IoU", note)]
    note = f"against hidden truth, {counted(pseudo.misses or 0, 'missed object')} counted 0"
    found = [Fact(score(pseudo.miou), "pseudo-mask mIoU", note)]
    if sum(pseudo.iou_counts):
        share = percent(reaching(pseudo.iou_counts, 0.5), pseudo.instances)
        found.append(
            Fact(
                share,
                "of objects reach IoU 0.5",
                "what they and their mask share is half or more of both together",
            )
        )
    return found


def _student_fact(name: str, student: StudentScore, *, semantic: bool) -> Fact:
    if semantic:
        return Fact(
            score(student.foreground_iou), f"foreground IoU of {name}", f"on {student.images:,} val images"
        )
    note = f"COCO mask AP on {counted(student.images, 'val image')}; AP50 {score(student.AP50)}"
    return Fact(score(student.AP), f"AP of {name}", note)


def trust(known: Known) -> Section:
    """How far the labels can be trusted, as statements of what was measured."""
    lines = tuple(_statements(known))
    return Section("trust", "How far to trust this", (Text(lines, items=True),), "Trust")


def _statements(known: Known) -> Iterator[str]:
    metrics = known.metrics
    pseudo = metrics.pseudo if metrics else None
    if pseudo is None:
        yield (
            "No truth was hidden, so nothing here measures the pseudo-masks: what stands below are the machine's own "
            "estimates."
        )
    else:
        yield from _measured(pseudo)
    if known.gate is not None:
        yield gate_words(known.gate)
    if known.calibration is not None:
        yield calibration_words(known.calibration)
    for name, student in metrics.students.items() if metrics and not metrics.semantic else ():
        if student.AP is not None:
            yield f"Student {name}: AP {score(student.AP)} on {counted(student.images, 'val image')}."
    if known.cost is not None and known.cost.counts_from == "estimated":
        yield "The bill counts objects on pseudo-masks, as no human label tells how many there are."


def _measured(pseudo: PseudoQuality) -> Iterator[str]:
    yield (
        f"Measured: the labels of {counted(pseudo.images, 'image')} were cut down to weak ones for this run, and the "
        "pseudo-masks compared with what was hidden."
    )
    if pseudo.foreground_iou is not None:
        return
    total = pseudo.instances
    missed = pseudo.misses or 0
    yield (
        f"{percent(total - missed, total)} of {counted(total, 'true object')} got a mask of their class that touches "
        f"them; {percent(pseudo.false_positives or 0, pseudo.pseudo_masks)} of the masks match no object."
    )
    if pseudo.iou_counts:
        half, most, nearly = (percent(reaching(pseudo.iou_counts, t), total) for t in (0.5, 0.75, 0.9))
        yield f"{half} of the objects have a mask of IoU 0.5 or better, {most} of 0.75, {nearly} of 0.9."
    yield from _contrasts(pseudo)
    best = next((name for name in BEST_ESTIMATES if name in pseudo.reliability), None)
    if best is not None:
        yield f"The machine's own {best} {said_of(pseudo.reliability[best])}."
    yield from _poor_score(pseudo)


def _poor_score(pseudo: PseudoQuality) -> Iterator[str]:
    """A warning to those who would sort or cut masks by their score, where that is worse than by predicted IoU."""
    known = pseudo.reliability
    said, alone = (known[name].correlation if name in known else None for name in ("score", "predicted IoU"))
    if said is None or alone is None or round(said, 2) >= round(alone, 2):
        return
    mixed = DETECTOR in pseudo.masks_by_origin and len(pseudo.masks_by_origin) > 1
    why = (
        "; masks without a detection have no such factor, so that the two kinds do not compare"
        if mixed
        else ""
    )
    yield (
        f"The score in the export orders the masks worse than the predicted IoU alone (rank correlation with the IoU "
        f"{said:.2f} against {alone:.2f}): it is the predicted IoU times the confidence of the detection whose box was "
        f"used{why}."
    )


def _contrasts(pseudo: PseudoQuality) -> Iterator[str]:
    if len(pseudo.by_origin) > 1:
        parts = (
            f"{placed_by(name)} {score(miou)} ({pseudo.masks_by_origin.get(name, 0):,})"
            for name, miou in sorted(pseudo.by_origin.items(), key=lambda item: -item[1])
        )
        yield f"mIoU of matched masks by who placed the box: {', '.join(parts)}."
    ranked = sorted(
        (miou, name)
        for name, miou in pseudo.by_class.items()
        if pseudo.objects_by_class.get(name, 0) >= CLASS_OF
    )
    if len(ranked) > 1:
        (low, worst), (high, best) = ranked[0], ranked[-1]
        yield (
            f"Classes differ: {worst} {score(low)}, {best} {score(high)} (of those with {CLASS_OF} objects or more)."
        )


def the_run(config: str, versions: Mapping[str, str], *, source: str) -> Section:
    """What the run was made from and with, and how to make it again."""
    rows = tuple((name, version) for name, version in versions.items())
    table = Table(("package", "version"), rows, words=frozenset({1}))
    again = "pipeline run config.yaml --out=runs/again"
    where = "" if source == "toyworld" else " --data=DIR"
    note = "" if source == "toyworld" else " DIR: the folder that the paths under `data` start from."
    blocks = (
        Heading("Make it again"),
        Text((f"With the config below saved as config.yaml (it also lies in the run's folder).{note}",)),
        Code(again + where),
        Fold("The resolved config, every default filled in", (Code(config),)),
        Fold("Versions", (table,)),
    )
    return Section("run", "The run", blocks, "The run")
