"""From the files of a run to the parts of its report: the bill, the gate, the students, the times."""

from collections.abc import Mapping

from pipeline.data.cost import MASK
from pipeline.report.blocks import Bar, Cell, Dots, Heading, Legend, Section, Table, Text
from pipeline.report.documents import CostFile, CostRow, GateFile, GateVariant, LabelledGate, StudentScore
from pipeline.report.wording import DASH, amount, counted, duration, percent, score

AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
HOUR = 3600.0
VARIANTS = {
    "box": "box, class-aware",
    "plain_box": "box without the class",
    "point": "point",
    "point_box": "point with box",
}


def this_run(cost: CostFile) -> CostRow | None:
    """The bill's row of the run itself."""
    return next((row for row in cost.rows if row.this_run), None)


def full_masks(cost: CostFile) -> CostRow | None:
    """The bill's row of masks for every image."""
    return next((row for row in cost.rows if row.kind == MASK), None)


def bill(cost: CostFile) -> Section:
    """Annotation time by kind of label."""
    counts = cost.counts_from
    if cost.instances_per_image is not None and cost.classes_per_image is not None:
        means = f"{cost.instances_per_image:.2f} objects and {cost.classes_per_image:.2f} of {cost.classes} classes"
        counts = f"{means} an image ({counts})"
    intro = (
        f"{counted(cost.images, 'image')}, {cost.human_masked_images:,} of them with human masks; {counts}."
    )
    full = full_masks(cost)
    masked = (full.seconds_per_image or 0.0) * cost.human_masked_images / HOUR if full else 0.0
    most = max((row.hours or 0.0 for row in cost.rows), default=0.0)
    rows = tuple(_bill_row(row, masked, most) for row in cost.rows)
    marked = next((index for index, row in enumerate(cost.rows) if row.this_run), None)
    header = (
        "labels of the other images", "hours, against full masks", "hours", "s/image", "money", "saving", "",
    )  # fmt: skip
    rate = "" if cost.hourly_rate is None else f", at {cost.hourly_rate:g} an hour"
    table = Table(header, rows, f"Annotation time{rate}", marked, words=frozenset({6}))
    legend = Legend(
        (
            ("part", f"masks of the {counted(cost.human_masked_images, 'human-masked image')}"),
            ("more", f"labels of the other {cost.images - cost.human_masked_images:,}"),
        )
    )
    priced = (table, legend) if most else (table,)
    return Section(
        "bill", "The bill: annotation time by kind of label", (Text((intro,)), *priced), "The bill"
    )


def _bill_row(row: CostRow, masked: float, most: float) -> tuple[Cell, ...]:
    bar: Cell = DASH
    if row.hours is not None and most:
        first = min(masked, row.hours)
        bar = Bar(first / most, (row.hours - first) / most, "strong" if row.this_run else "plain")
    return (
        f"▶ {row.kind}" if row.this_run else row.kind,
        bar,
        amount(row.hours, 2),
        amount(row.seconds_per_image, 1),
        amount(row.money, 2),
        amount(row.saving, 2, "×"),
        row.note,
    )


def gate(decisions: GateFile) -> Section:
    """Whether tuning paid, for each SAM of the teacher."""
    rows: list[tuple[Cell, ...]] = []
    for name, v in decisions.root.items():
        one = v.labelled or v
        compared = one.tuned is not None and one.zero_shot is not None
        rows.append(
            (
                VARIANTS.get(name, name),
                Dots(one.zero_shot or 0.0, one.tuned or 0.0) if compared else DASH,
                score(one.zero_shot),
                score(one.tuned),
                _gain(one),
                _gain(v),
                v.use.replace("_", "-"),
                f"{v.instances:,}",
                v.why,
            )
        )
    header = ("prompt", "mIoU, 0 to 1", "zero-shot", "tuned", "gain", "gain alone", "used", "objects", "why")
    caption = (
        "mIoU on images that the teacher was not fitted on, labelled as the weak ones are (a missed object counts 0), "
        "or, of prompts that labels of the run's kind do not lead to, alone"
    )
    table = Table(header, tuple(rows), caption, words=frozenset({6, 8}))
    legend = Legend((("before", "zero-shot"), ("after", "tuned")))
    blocks = (Text((gate_words(decisions),)), table, legend)
    return Section("gate", "Teacher gate: tuned against zero-shot", blocks, "Teacher gate")


def _gain(compared: GateVariant | LabelledGate) -> str:
    if compared.tuned is None or compared.zero_shot is None:
        return DASH
    return f"{compared.tuned - compared.zero_shot:+.3f}"


def gate_words(decisions: GateFile) -> str:
    """The decision in one sentence."""
    variants = decisions.root.values()
    tuned = sum(v.use == "tuned" for v in variants)
    compared = max((v.instances for v in variants), default=0)
    if not compared:
        return "Nothing was compared: the zero-shot teacher is used."
    method = next(v.method for v in variants if v.instances)
    kinds = counted(len(variants), "kind")
    which = {0: "none of", len(variants): "all"}.get(tuned, f"{tuned} of")
    others = "" if tuned == len(variants) else ", the zero-shot one otherwise"
    compared_on = f"compared on {counted(compared, 'object')} ({method} masks)"
    return f"The tuned teacher is used for {which} {kinds} of prompt{others}; {compared_on}."


def students(scores: Mapping[str, StudentScore], *, semantic: bool) -> Section:
    """What the students learned, on the val images."""
    names = ("foreground_iou", "foreground_dice") if semantic else AP_NAMES
    rows: list[tuple[Cell, ...]] = [
        (n, Bar(getattr(s, names[0]) or 0.0), *(score(getattr(s, name)) for name in names), f"{s.images:,}")
        for n, s in scores.items()
    ]
    heads = tuple(name.replace("_", " ") for name in names)
    caption = "Mean over the val images" if semantic else "COCO mask AP on the val images"
    header = ("student", f"{heads[0]}, 0 to 1", *heads, "images")
    return Section("students", "Students", (Table(header, tuple(rows), caption),), "Students")


def times(seconds: Mapping[str, float], cost: CostFile | None) -> Section:
    """Machine time by stage, and beside it what people spend."""
    total = sum(seconds.values())
    rows: list[tuple[Cell, ...]] = [
        (stage, Bar(value / total if total else 0.0), duration(value), percent(value, total))
        for stage, value in seconds.items()
    ]
    rows.append(("all before this report", "", duration(total), ""))
    caption = "Machine time when the results were made; re-used results keep theirs"
    table = Table(("stage", "share of all", "time", "share"), tuple(rows), caption)
    people = _people(total, cost)
    blocks = (Heading("By stage"), table, *((Heading("People and machine"), people) if people else ()))
    return Section("times", "Time", blocks, "Time")


def _people(machine: float, cost: CostFile | None) -> Table | None:
    run, full = (this_run(cost), full_masks(cost)) if cost else (None, None)
    if run is None or run.hours is None:
        return None
    spans = [
        ("machine: the stages before this report", machine),
        ("people: this run's labels", run.hours * HOUR),
    ]
    if full is not None and full.hours is not None:
        spans.append(("people: full masks instead", full.hours * HOUR))
    most = max(seconds for _, seconds in spans)
    rows = tuple((who, Bar(s / most if most else 0.0), duration(s)) for who, s in spans)
    return Table(
        ("who", "time, to scale", "time"),
        rows,
        "What this run takes of a machine, and its labels of people",
        1,
    )
