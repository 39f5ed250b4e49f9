"""Pseudo-masks against hidden truth: how good they are, where, and whether their own estimates tell."""

from collections.abc import Mapping, Sequence

from pipeline.report.blocks import (
    Bar,
    Beside,
    Block,
    Cell,
    Curve,
    Fold,
    Histogram,
    Legend,
    Section,
    Table,
    Text,
)
from pipeline.report.blocks import Heading as H
from pipeline.report.documents import IOU_BINS, PseudoQuality, Reliability
from pipeline.report.wording import amount, counted, percent, placed_by, score

THRESHOLDS = (0.5, 0.75, 0.9)
MANY = 40  # classes that are listed in full; of more, the worst and the best
ENDS = 20
NAME, SHORT = "quality", "Quality"
HEADING = "Pseudo-masks against hidden truth"
Row = tuple[Cell, ...]


def quality(pseudo: PseudoQuality) -> Section:
    """All that the hidden truth tells of the pseudo-masks."""
    counts = (
        f"{counted(pseudo.pseudo_masks, 'pseudo-mask')} ({pseudo.dropped:,} more set aside) on "
        f"{counted(pseudo.images, 'image')}"
    )
    if pseudo.foreground_iou is not None:
        overlap = f"foreground IoU {score(pseudo.foreground_iou)}, Dice {score(pseudo.foreground_dice)}"
        return Section(NAME, HEADING, (Text((f"{counts}: {overlap}, each a mean over images.",)),), SHORT)
    words = (
        f"{counts} for {counted(pseudo.instances, 'true object')}. mIoU {score(pseudo.miou)} over objects, where each "
        f"of the {pseudo.misses:,} missed ones counts 0; {score(pseudo.miou_images)} over images; "
        f"{counted(pseudo.false_positives or 0, 'mask')} matched no object.",
    )
    blocks: list[Block] = [Text(words)]
    if sum(pseudo.iou_counts):
        blocks.append(Beside((_histogram(pseudo), _reached(pseudo))))
    if pseudo.reliability:
        blocks += _reliability(pseudo.reliability)
    if pseudo.by_origin:
        blocks += [H("By who placed the box"), _origins(pseudo)]
    if pseudo.by_class:
        blocks += [H("By class, worst first"), *_classes(pseudo)]
    return Section(NAME, HEADING, tuple(blocks), SHORT)


def reaching(iou_counts: Sequence[int], threshold: float) -> int:
    """Matched masks whose IoU is at least `threshold`, a multiple of the bins' width."""
    return sum(iou_counts[round(threshold * IOU_BINS) :])


def _histogram(pseudo: PseudoQuality) -> Histogram:
    caption = f"{counted(sum(pseudo.iou_counts), 'matched mask')}; the {pseudo.misses:,} missed objects are not in it"
    return Histogram("IoU of matched masks", tuple(pseudo.iou_counts), caption, "IoU with the true object")


def _reached(pseudo: PseudoQuality) -> Table:
    rows = []
    for threshold in THRESHOLDS:
        reached = reaching(pseudo.iou_counts, threshold)
        share = reached / max(pseudo.instances, 1)
        rows.append((f"{threshold:g}", Bar(share), percent(reached, pseudo.instances), f"{reached:,}"))
    caption = f"How many of the {counted(pseudo.instances, 'true object')} have a mask that reaches an IoU"
    return Table(("IoU at least", "0 to 100%", "share", "objects"), tuple(rows), caption)


def _origins(pseudo: PseudoQuality) -> Table:
    ranked = sorted(pseudo.by_origin.items(), key=lambda item: (item[1], item[0]))
    rows = tuple(
        (placed_by(name), Bar(miou, mark=pseudo.miou), score(miou), _count(pseudo.masks_by_origin, name))
        for name, miou in ranked
    )
    return Table(("box from", "IoU, 0 to 1", "mIoU", "masks"), rows, "Matched masks only; a miss has no box")


def _classes(pseudo: PseudoQuality) -> list[Block]:
    ranked = sorted(pseudo.by_class.items(), key=lambda item: (item[1], item[0]))
    rows: list[Row] = [
        (
            name,
            Bar(miou, mark=pseudo.miou),
            score(miou),
            _count(pseudo.objects_by_class, name),
            str(pseudo.missed_by_class.get(name, 0)) if name in pseudo.objects_by_class else "",
        )
        for name, miou in ranked
    ]
    header = ("class", "IoU, 0 to 1", "mIoU", "objects", "missed")
    legend = Legend((("part", "mean IoU, missed objects count 0"), ("mark", f"of all: {score(pseudo.miou)}")))

    def table(chosen: Sequence[Row], caption: str) -> Table:
        return Table(header, tuple(chosen), caption)

    if len(rows) <= MANY:
        return [table(rows, "Mean IoU over the true objects of a class"), legend]
    middle = rows[ENDS:-ENDS]
    return [
        table(rows[:ENDS], f"The {ENDS} worst of {len(rows)} classes"),
        table(rows[-ENDS:], f"The {ENDS} best"),
        legend,
        Fold(f"The other {len(middle)} classes", (table(middle, "From worse to better"),)),
    ]


def _count(counts: Mapping[str, int], name: str) -> str:
    return f"{counts[name]:,}" if name in counts else ""


def _reliability(found: Mapping[str, Reliability]) -> list[Block]:
    intro = (
        "A mask comes with estimates of itself. Each dot is a tenth of their range: on the dashed line the estimate is "
        "what was measured, below it the machine flatters itself; larger dots stand for more masks. Masks that match "
        "no object count as IoU 0.",
    )
    curves = tuple(curve(name, one) for name, one in found.items())
    return [H("Do the machine's own estimates tell?"), Text(intro), Beside(curves)]


def curve(name: str, one: Reliability) -> Curve:
    """The reliability plot of one estimate, with its bins as a table."""
    rows = tuple(
        (f"{b.low:.1f} to {b.high:.1f}", f"{b.masks:,}", score(b.estimate), score(b.iou)) for b in one.bins
    )
    table = Table(("estimate", "masks", "mean estimate", "mean IoU"), rows)
    return Curve(
        heading=f"{name[:1].upper()}{name[1:]}",
        points=tuple((b.estimate, b.iou, b.masks) for b in one.bins),
        caption=said_of(one),
        x_name=name,
        y_name="measured IoU",
        table=table,
    )


def said_of(one: Reliability) -> str:
    """What an estimate was worth, in one sentence."""
    off = one.estimate - one.iou
    side = "too high" if off > 0 else "too low"
    order = "none to speak of: all are equal" if one.correlation is None else amount(one.correlation, 2)
    return (
        f"says {one.estimate:.2f} on average where {one.iou:.2f} is measured ({abs(off):.2f} {side}); "
        f"calibration error {one.error:.2f}; rank correlation with the IoU: {order}"
    )
