"""What a finished run tells at its end: quality of the pseudo-masks, the students' scores, the bill, where to look."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.report.documents import MetricsFile, PseudoQuality, StudentScore

PLACES = ("export/coco", "report/index.html")


def summary(run: Path) -> str:
    """The lines for a run's folder; those of stages that it did not have are left out."""
    return "\n".join(_lines(run))


def _lines(run: Path) -> Iterator[str]:
    if (run / "metrics.json").is_file():
        metrics = MetricsFile.read(run / "metrics.json")
        if metrics.pseudo is not None:
            yield f"pseudo-masks: {_quality(metrics.pseudo)}"
        for name, score in metrics.students.items():
            yield f"{name}: {_score(score)}"
    if (run / "cost.txt").is_file():
        yield (run / "cost.txt").read_text(encoding="utf-8").rstrip()
    for place in PLACES:
        if (run / place).exists():
            yield f"see {run / place}"


def _quality(found: PseudoQuality) -> str:
    if found.foreground_iou is not None:
        return f"foreground IoU {found.foreground_iou:.3f} on {found.images} images"
    if found.miou is None:
        return f"{found.pseudo_masks} masks, no truth to compare them with"
    return (
        f"mIoU {found.miou:.3f} over the {found.instances} objects of {found.images} images; "
        f"{found.misses} missed, {found.false_positives} of {found.pseudo_masks} masks too many"
    )


def _score(found: StudentScore) -> str:
    if found.AP is None:
        return f"foreground IoU {found.foreground_iou or 0.0:.3f} on {found.images} images"
    return f"AP {found.AP:.3f}, AP50 {found.AP50 or 0.0:.3f} on {found.images} images"
