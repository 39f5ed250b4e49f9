"""The bill: what a data set costs to label, by kind of label, as numbers and as a table for a terminal."""

from collections.abc import Collection, Mapping
from dataclasses import asdict

from pipeline.data.cost import MASK, CostModel
from pipeline.data.records import WeakKind
from pipeline.report.documents import CostFile, CostRow

THIS_RUN = "this run"
NO_UNIT = "needs `units.instruction`, the seconds that one instruction takes"
KINDS = (*WeakKind, MASK)


def make_bill(
    model: CostModel,
    *,
    masked: int,
    weak: Mapping[WeakKind, int],
    hourly_rate: float | None = None,
    machine_seconds: Mapping[str, float] | None = None,
    basis: str | None = None,
) -> CostFile:
    """The bill of `masked` images with full masks and `weak` images of each kind, beside every other kind for those.

    `basis` says where n and c come from; unset: the model's own word for it.
    """
    others = sum(weak.values())
    rows = [_run_row(model, masked, weak, hourly_rate)]
    rows += [_row(model, masked, others, kind, hourly_rate) for kind in KINDS]
    images = masked + others
    return CostFile(
        counts_from=basis or model.basis,
        classes=model.K,
        instances_per_image=model.n,
        classes_per_image=model.c,
        images=images,
        human_masked_images=masked,
        masked_fraction=masked / images if images else 0.0,
        hourly_rate=hourly_rate,
        units=asdict(model.units),
        rows=rows,
        machine_seconds=dict(machine_seconds or {}),
    )


def _run_row(
    model: CostModel, masked: int, weak: Mapping[WeakKind, int], hourly_rate: float | None
) -> CostRow:
    counted = {kind: count for kind, count in weak.items() if count}
    kinds = " and ".join(f"{kind.value} on {count}" for kind, count in counted.items()) or "masks only"
    if not _is_priced(model, counted):
        return CostRow(kind=THIS_RUN, this_run=True, note=NO_UNIT)
    seconds = sum(count * model.per_image(kind) for kind, count in counted.items())
    total = masked * model.per_image(MASK) + seconds
    others = sum(counted.values())
    return _priced(
        CostRow(
            kind=THIS_RUN,
            this_run=True,
            seconds_per_image=seconds / others if others else None,
            note=f"{masked} with masks, {kinds}",
        ),
        total,
        (masked + others) * model.per_image(MASK),
        hourly_rate,
    )


def _row(
    model: CostModel, masked: int, others: int, kind: WeakKind | str, hourly_rate: float | None
) -> CostRow:
    name = str(kind)
    if not _is_priced(model, (kind,)):
        return CostRow(kind=name, this_run=False, note=NO_UNIT)
    seconds = model.per_image(kind)
    full = model.per_image(MASK)
    row = CostRow(kind=name, this_run=False, seconds_per_image=seconds)
    return _priced(row, masked * full + others * seconds, (masked + others) * full, hourly_rate)


def _is_priced(model: CostModel, kinds: Collection[WeakKind | str]) -> bool:
    """Whether every kind has a unit time; an instruction's has no published value."""
    return model.units.instruction is not None or WeakKind.INSTRUCTION not in kinds


def _priced(row: CostRow, total: float, full: float, hourly_rate: float | None) -> CostRow:
    hours = total / 3600
    return row.model_copy(
        update={
            "hours": hours,
            "money": None if hourly_rate is None else hours * hourly_rate,
            "saving": full / total if total else None,
        }
    )


def bill_text(bill: CostFile) -> str:
    """The bill as lines of text."""
    head = (
        f"{bill.images} images, {bill.human_masked_images} with human masks; "
        f"K={bill.classes}, n={bill.instances_per_image:.2f}, c={bill.classes_per_image:.2f} ({bill.counts_from})"
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
