"""The tables of docs/results.md from the ledger: ours with mean and spread, the paper's number beside it.

Spread is the standard deviation over seeds; a cell that was not run is a dash. The paper's numbers: Das et al. 2024,
Tables 2, 4 and 5; its per cents are of Mask2Former's AP on full masks.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from benchmarks.omni_study.cells import (
    BOX,
    BRANCHES,
    FULL,
    KINDS,
    LONG,
    ONE_RATE,
    POINT,
    PRECISION,
    SHARES,
    STUDENTS,
    TEACHERS,
)
from benchmarks.omni_study.claims import claims
from benchmarks.omni_study.ledger import Row, hours
from benchmarks.omni_study.values import (
    LABELLER,
    STUDENT,
    TEACHER,
    Choice,
    ap,
    by_seed,
    full,
    in_hours,
    miou,
    shares_of_full,
    spread,
)

# Who answers labels of a kind, of a teacher whose boxes go without the class.
HEADS: Mapping[str, tuple[str, ...]] = MappingProxyType({POINT: ("point", "point_box"), BOX: ("plain_box",)})
PAPER_PER_CENT: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {  # of COCO / ADE20K / Cityscapes
        "0%": {"none": "81 / 36 / 49", "class": "88 / 73 / 74", POINT: "92 / 87 / 62", BOX: "94 / 91 / 86"},
        "1%": {"none": "86 / 36 / 52", "class": "93 / 77 / 78", POINT: "96 / 92 / 81", BOX: "99 / 95 / 89"},
        "10%": {"none": "87 / 45 / 60", "class": "94 / 81 / 81", POINT: "97 / 94 / 89", BOX: "99 / 99 / 97"},
    }
)
PAPER_MIOU: Mapping[tuple[str, str], Mapping[str, float]] = MappingProxyType(
    {  # (what is prompted, class-aware) -> share of masks -> mIoU
        ("point", "off"): {"1%": 64.0, "10%": 64.9},
        ("point", "on"): {"1%": 67.5, "10%": 69.0},
        ("point + proposals", "off"): {"1%": 65.7, "10%": 66.1},
        ("point + proposals", "on"): {"1%": 70.0, "10%": 70.7},
        ("box", "off"): {"1%": 80.7, "10%": 81.3},
        ("box", "on"): {"1%": 80.8, "10%": 81.4},
    }
)
PAPER_FULL = 43.5  # AP on COCO
PAPER_AP: Mapping[tuple[str, bool], tuple[float, ...]] = MappingProxyType(
    {  # of 0, 1 and 10% masks; the tuned ones follow from the per cents of Table 2
        (POINT, False): (39.9, 40.4, 40.0),
        (BOX, False): (40.9, 40.8, 41.3),
        **{
            (weak, True): tuple(
                round(PAPER_FULL * int(PAPER_PER_CENT[masks][weak].split()[0]) / 100, 1) for masks in SHARES
            )
            for weak in (POINT, BOX)
        },
    }
)
ESTIMATES = ("quality", "predicted IoU", "stability", "score")
PROMPTS = (("point", POINT, False), ("point + proposals", POINT, True), ("box", BOX, True))


def tables(rows: Sequence[Row]) -> str:
    """Markdown: what each world has of the tables."""
    worlds = dict.fromkeys(row.cell.world for row in rows)
    return "\n\n".join(_of_world(world, [row for row in rows if row.cell.world == world]) for world in worlds)


def _of_world(world: str, rows: Sequence[Row]) -> str:
    seeds = len({row.cell.seed for row in rows})
    images = max(row.images for row in rows)
    head = f"### {world}: {images} images, {seeds} seed{'s' * (seeds > 1)}"
    makers = [_claims, _table_5, _table_2]
    if world == "toyworld":  # photographs have the reduced study: of the other tables there is a line or two
        makers += [
            _class_branch,
            _longer,
            _table_4,
            _students,
            _teachers,
            _precision,
            _errors,
            _ranks,
        ]
    parts = [make(rows) for make in makers]
    return "\n\n".join([head, *(part for part in parts if part)])


def _claims(rows: Sequence[Row]) -> str:
    lines = [
        (
            claim.text,
            claim.paper,
            spread(claim.differences, signed=not claim.shares),
            f"{claim.held} of {len(claim.differences)}",
        )
        for claim in claims(rows)
    ]
    header = ("claim, in points of mIoU or AP", "the paper's", "ours", "seeds on which it holds")
    return _markdown("Claims, as differences within a seed", header, lines, numbers=slice(2, 3))


def _table_5(rows: Sequence[Row]) -> str:
    lines = []
    for name, weak, refine in PROMPTS:
        for word, aware in (("off", False), ("on", True)):
            base = {**TEACHER, "weak": weak, "refine": refine, "class_aware": aware}
            own = [spread(by_seed(rows, miou, {**base, "masks": masks}).values()) for masks in SHARES[1:]]
            paper = PAPER_MIOU[name, word]
            lines.append((name, word, *own, *(f"{paper[masks]}" for masks in SHARES[1:])))
    header = ("prompt", "class-aware", "mIoU, 1% masks", "10%", "the paper's, 1%", "10%")
    return _markdown("Teacher (the paper's Table 5)", header, lines, numbers=slice(2, 4))


def _class_branch(rows: Sequence[Row]) -> str:
    shares = ("1%", "10%", "50%")
    lines = []
    for aware, teacher, long in BRANCHES:
        choice = {
            **TEACHER,
            "weak": POINT,
            "refine": False,
            "class_aware": aware,
            "teacher": teacher,
            "long": long,
        }
        found = [spread(by_seed(rows, miou, {**choice, "masks": masks}).values()) for masks in shares]
        rate = "the decoder's" if teacher == ONE_RATE else "its own"
        steps = f"{LONG} times as many" if long else "as in the other tables"
        lines.append(("on" if aware else "off", rate if aware else "-", steps, *found))
    header = (
        "class-aware",
        "learning rate of the branch",
        "steps",
        *(f"mIoU, {masks} masks" for masks in shares),
    )
    title = "What a class says to a lone point, by masks to learn it from"
    return _markdown(title, header, lines, numbers=slice(3, 6))


def _table_2(rows: Sequence[Row]) -> str:
    price, lines = in_hours(hours(rows)), []
    for masks in SHARES:
        for weak in KINDS:
            choice = {**STUDENT, "weak": weak, "masks": masks}
            lines.append(
                (
                    masks,
                    f"`{weak}`",
                    spread(by_seed(rows, ap, choice).values()),
                    spread(shares_of_full(rows, choice).values(), digits=0),
                    PAPER_PER_CENT[masks][weak],
                    spread(by_seed(rows, price, choice).values()),
                )
            )
    best = full(rows).values()
    costs = by_seed(rows, price, {"masks": FULL, "long": False}).values()
    lines.append((FULL, "", spread(best), "100" if best else "-", "100", spread(costs)))
    header = ("masks", "weak labels", "student AP", "% of full", "the paper's", "annotation hours")
    return _markdown("Student (the paper's Table 2)", header, lines, numbers=slice(2, 4))


def _longer(rows: Sequence[Row]) -> str:
    lines = []
    for weak in KINDS:
        found = []
        for long in (False, True):
            choice = {**STUDENT, "weak": weak, "masks": "0%", "long": long}
            share = shares_of_full(rows, choice).values()
            found += [spread(by_seed(rows, ap, choice).values()), spread(share, digits=0)]
        lines.append(("0%", f"`{weak}`", *found))
    best = [full(rows, long=long).values() for long in (False, True)]
    lines.append((FULL, "", *(cell for one in best for cell in (spread(one), "100" if one else "-"))))
    times = f"{LONG} times the steps"
    header = ("masks", "weak labels", "student AP", "% of full", f"AP, {times}", f"% of full, {times}")
    return _markdown("Students that learn for longer", header, lines, numbers=slice(4, 6))


def _table_4(rows: Sequence[Row]) -> str:
    lines = []
    for weak in (POINT, BOX):
        for word, tuned in (("zero-shot", False), ("tuned", True)):
            choice = {**STUDENT, "weak": weak, "tuned": tuned}
            found = [spread(by_seed(rows, ap, {**choice, "masks": masks}).values()) for masks in SHARES]
            kept = [_kept(rows, {**choice, "masks": masks}) if tuned else "-" for masks in SHARES[1:]]
            lines.append((f"`{weak}`", word, *found, *kept, " / ".join(map(str, PAPER_AP[weak, tuned]))))
    header = (
        *("weak labels", "teacher", "student AP, 0% masks", "1%", "10%"),
        *(f"seeds with a tuned head after the gate, {masks}" for masks in SHARES[1:]),
        "the paper's AP",
    )
    return _markdown("More masks without tuning (the paper's Table 4)", header, lines, numbers=slice(2, 5))


def _kept(rows: Sequence[Row], choice: Choice) -> str:
    """On how many seeds a tuned head answers labels of the kind; on the others the teacher is zero-shot after all."""
    found = by_seed(rows, _tuned_heads, choice).values()
    return f"{sum(count > 0 for count in found)} of {len(found)}" if found else "-"


def _tuned_heads(row: Row) -> float:
    return sum(row.gate.get(variant) == "tuned" for variant in HEADS[row.cell.weak])


def _students(rows: Sequence[Row]) -> str:
    lines = []
    for weak in (POINT, BOX):
        for student in STUDENTS:
            found = []
            for masks in SHARES[1:]:
                choice = {**STUDENT, "weak": weak, "masks": masks, "student": student}
                share = shares_of_full(rows, choice).values()
                found += [spread(by_seed(rows, ap, choice).values()), spread(share, digits=0)]
            lines.append((f"`{weak}`", student, *found))
    header = ("weak labels", "student", "AP, 1% masks", "% of full", "AP, 10%", "% of full")
    return _markdown("Students that doubt their labels", header, lines, numbers=slice(2, 6))


def _teachers(rows: Sequence[Row]) -> str:
    lines = []
    for weak in (POINT, BOX):
        ways = {
            "zero-shot": {**STUDENT, "tuned": False},
            **{teacher: {**LABELLER, "teacher": teacher} for teacher in TEACHERS},
            "what the gate chose": STUDENT,
        }
        for way, choice in ways.items():
            found = [by_seed(rows, miou, {**choice, "weak": weak, "masks": masks}) for masks in SHARES[1:]]
            lines.append((f"`{weak}`", way, *(spread(one.values()) for one in found)))
    header = ("weak labels", "teacher", "mIoU, 1% masks", "10%")
    return _markdown("Teachers that learn from fewer masks", header, lines, numbers=slice(2, 4))


def _precision(rows: Sequence[Row]) -> str:
    lines = []
    for weak in (POINT, BOX):
        for asked in (None, PRECISION[weak]):
            choice = {**STUDENT, "weak": weak, "masks": "10%", "precision": asked}
            kept = by_seed(rows, lambda row: row.pseudo_masks, choice).values()
            right = by_seed(rows, lambda row: row.right, choice).values()
            found = by_seed(rows, ap, choice).values()
            word = "-" if asked is None else f"{asked:g}"
            lines.append((f"`{weak}`", word, spread(kept, digits=0), spread(right, digits=3), spread(found)))
    header = ("weak labels", "`precision`", "masks kept", "right of them", "student AP")
    return _markdown("A filter for a wanted precision, 10% masks", header, lines, numbers=slice(2, 5))


def _errors(rows: Sequence[Row]) -> str:
    title = "How far estimates of a mask's IoU are off, on hidden truth (expected calibration error)"
    return _estimates(rows, title, lambda row: row.errors)


def _ranks(rows: Sequence[Row]) -> str:
    title = "How well they rank masks, on hidden truth (Spearman's correlation with the IoU)"
    return _estimates(rows, title, lambda row: row.correlations)


def _estimates(rows: Sequence[Row], title: str, told: Callable[[Row], Mapping[str, float | None]]) -> str:
    lines = []
    for weak in KINDS:
        for masks in SHARES[1:]:
            choice = {**STUDENT, "weak": weak, "masks": masks}
            found = [
                spread(by_seed(rows, lambda row, n=name: told(row).get(n), choice).values(), digits=3)
                for name in ESTIMATES
            ]
            lines.append((f"`{weak}`", masks, *found))
    return _markdown(title, ("weak labels", "masks", *ESTIMATES), lines, numbers=slice(2, 6))


def _markdown(title: str, header: Sequence[str], lines: Sequence[Sequence[str]], *, numbers: slice) -> str:
    """A titled table of the lines that have a number of ours; nothing if none has."""
    known = [line for line in lines if any(cell != "-" for cell in line[numbers])]
    if not known:
        return ""
    rule = "|".join("---" for _ in header)
    body = "\n".join(f"| {' | '.join(line)} |" for line in known)
    return f"{title}:\n\n| {' | '.join(header)} |\n|{rule}|\n{body}"
