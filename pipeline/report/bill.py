"""The bill: what a data set costs to label, by kind of label, as numbers and as a table for a terminal."""

from collections.abc import Mapping
from dataclasses import asdict

from pipeline.data.cost import MASK, CostModel
from pipeline.data.records import WeakKind
from pipeline.report.documents import CostFile, CostRow

THIS_RUN = "this run"
NO_UNIT = "needs `units.instruction`, the seconds that one instruction takes"
UNCOUNTED = "no object of a class to count"
KINDS = (*WeakKind, MASK)


def make_bill(
    model: CostModel | None,
    *,
    masked: int,
    weak: Mapping[WeakKind, int],
    hourly_rate: float | None = None,
    machine_seconds: Mapping[str, float] | None = None,
    basis: str | None = None,
) -> CostFile:
    """The bill of `masked` images with full masks and `weak` images of each kind, beside every other kind for those.

    `basis` says where n and c come from; unset: the model's own word for it. Without a model nothing has a price.
    """
    counted = {kind: count for kind, count in weak.items() if count}
    others = sum(counted.values())
    kinds = " and ".join(f"{kind.value} on {count}" for kind, count in counted.items()) or "masks only"
    run = CostRow(kind=THIS_RUN, this_run=True, note=f"{masked} with masks, {kinds}")
    rows = [_priced(run, model, masked, counted, hourly_rate)]
    for kind in KINDS:
        row = CostRow(kind=str(kind), this_run=False)
        rows.append(_priced(row, model, masked, {kind: others}, hourly_rate))
    images = masked + others
    return CostFile(
        counts_from=basis or (UNCOUNTED if model is None else model.basis),
        classes=None if model is None else model.K,
        instances_per_image=None if model is None else model.n,
        classes_per_image=None if model is None else model.c,
        images=images,
        human_masked_images=masked,
        masked_fraction=masked / images if images else 0.0,
        hourly_rate=hourly_rate,
        units={} if model is None else asdict(model.units),
        rows=rows,
        machine_seconds=dict(machine_seconds or {}),
    )


def _priced(
    row: CostRow,
    model: CostModel | None,
    masked: int,
    weak: Mapping[WeakKind, int] | Mapping[WeakKind | str, int],
    hourly_rate: float | None,
) -> CostRow:
    """The row with the price of `masked` full masks and the `weak` images of each kind, or with why it has none."""
    if model is None:
        return row.model_copy(update={"note": UNCOUNTED})
    if model.units.instruction is None and WeakKind.INSTRUCTION in weak:
        return row.model_copy(update={"note": NO_UNIT})
    others = sum(weak.values())
    rest = sum(model.total(count, 0.0, kind) for kind, count in weak.items())
    total = model.total(masked, 1.0, MASK) + rest
    each = [model.per_image(kind) for kind in weak]
    hours = total / 3600
    return row.model_copy(
        update={
            "seconds_per_image": each[0] if len(each) == 1 else rest / others if each else None,
            "hours": hours,
            "money": None if hourly_rate is None else hours * hourly_rate,
            "saving": model.saving(masked + others, total) if total else None,
        }
    )


def bill_text(bill: CostFile) -> str:
    """The bill as lines of text."""
    known = "" if bill.classes is None else f"K={bill.classes}, "
    head = (
        f"{bill.images} images, {bill.human_masked_images} with human masks; {known}"
        f"n={_cell(bill.instances_per_image, 2)}, c={_cell(bill.classes_per_image, 2)} ({bill.counts_from})"
    )
    lines = [head, f"{'other images':<14}{'s/image':>9}{'hours':>10}{'money':>10}{'saving':>9}"]
    for row in bill.rows:
        cells = (
            f"{row.kind:<14}{_cell(row.seconds_per_image, 1):>9}{_cell(row.hours, 2):>10}"
            f"{_cell(row.money, 2):>10}{_cell(row.saving, 2):>9}"
        )
        lines.append(f"{cells}  {row.note}".rstrip())
    if bill.machine_seconds:
        lines.append(f"machine time: {sum(bill.machine_seconds.values()):.0f} s")
    return "\n".join(lines) + "\n"


def _cell(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
