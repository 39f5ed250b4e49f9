"""What the paper claims, as differences between cells of one seed: scenes differ by seed, and a difference is of one.

The paper's differences follow from Das et al. 2024, Tables 5, 2 and 4; what is past the paper has this project's aims.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from benchmarks.omni_study.cells import BOX, KINDS, LONG, POINT, PRECISION, SHARES, STUDENTS, TEACHERS
from benchmarks.omni_study.ledger import Row
from benchmarks.omni_study.values import (
    LABELLER,
    STUDENT,
    TEACHER,
    Choice,
    Value,
    ap,
    by_seed,
    full,
    miou,
    shares_of_full,
)

SMALL = 1.0  # points: what is within is no difference
ABOVE = 0.05  # points: less is printed as nothing, and nobody is ahead by it


@dataclass(frozen=True)
class Claim:
    """Found `differences` of a claim, one a seed; it holds on a seed within `least` and `most`.

    `paper`: what the paper has, in words. `shares`: they are per cents of something, not differences.
    """

    text: str
    paper: str
    differences: tuple[float, ...]
    least: float = float("-inf")
    most: float = float("inf")
    shares: bool = False

    @property
    def held(self) -> int:
        """On so many seeds it holds."""
        return sum(self.least <= one <= self.most for one in self.differences)


def claims(rows: Sequence[Row]) -> Iterator[Claim]:
    """The claims of one world of which the rows show something."""
    for one in (
        *_teachers(rows),
        *_branches(rows),
        *_order(rows),
        *_longer(rows),
        *_per_cents(rows),
        *_more_masks(rows),
        *_doubting(rows),
        *_few_masks(rows),
        *_precision(rows),
    ):
        if one.differences:
            yield one


def _branches(rows: Sequence[Row]) -> Iterator[Claim]:
    """Class prompts where their branch learns for longer, nearer to the paper's 36874 steps."""
    for masks, papers in (("10%", "+4.1"), ("50%", "-")):
        base = {**TEACHER, "masks": masks, "weak": POINT, "refine": False, "long": True}
        gains = _minus(rows, miou, {**base, "class_aware": True}, {**base, "class_aware": False})
        yield Claim(f"class prompts help points, {masks} masks, {LONG} times the steps", papers, gains, 3.0)


def _teachers(rows: Sequence[Row]) -> Iterator[Claim]:
    for masks, prompts, refined, both in (("1%", "3.5", "1.7", "2.5"), ("10%", "4.1", "1.2", "1.7")):

        def gain(better: Choice, worse: Choice, masks: str = masks) -> tuple[float, ...]:
            base = {**TEACHER, "masks": masks, "weak": POINT}
            return _minus(rows, miou, {**base, **better}, {**base, **worse})

        on, off = {"class_aware": True}, {"class_aware": False}
        bare, refine = {"refine": False}, {"refine": True}
        boxes = {"weak": BOX, **refine}
        yield Claim(
            f"class prompts help points, {masks} masks", f"+{prompts}", gain(bare | on, bare | off), 3.0
        )
        yield Claim(
            f"proposals help points, {masks} masks", f"+{refined}", gain(refine | off, bare | off), 1.2
        )
        yield Claim(
            f"both help more than the better of the two, {masks} masks",
            f"+{both}",
            tuple(map(min, gain(refine | on, refine | off), gain(refine | on, bare | on))),
            ABOVE,
        )
        yield Claim(
            f"class prompts leave boxes as they are, {masks} masks",
            "+0.1",
            gain(boxes | on, boxes | off),
            -SMALL,
            SMALL,
        )


def _order(rows: Sequence[Row]) -> Iterator[Claim]:
    for masks in SHARES:
        for worse, better in pairwise(KINDS):
            choices = ({**STUDENT, "masks": masks, "weak": weak} for weak in (better, worse))
            yield Claim(
                f"student: {better} above {worse}, {masks} masks", "above", _minus(rows, ap, *choices), ABOVE
            )


def _longer(rows: Sequence[Row]) -> Iterator[Claim]:
    """The order of students that learn for longer; they have no human masks."""
    for worse, better in pairwise(KINDS):
        choices = ({**STUDENT, "masks": "0%", "weak": weak, "long": True} for weak in (better, worse))
        yield Claim(
            f"student of {LONG} times the steps: {better} above {worse}, 0% masks",
            "above",
            _minus(rows, ap, *choices),
            ABOVE,
        )


def _per_cents(rows: Sequence[Row]) -> Iterator[Claim]:
    for weak, least in (("class", 94), (POINT, 97), (BOX, 99)):
        found = shares_of_full(rows, {**STUDENT, "masks": "10%", "weak": weak})
        yield Claim(
            f"student: {weak}, 10% masks, % of full",
            f"{least}",
            tuple(found.values()),
            float(least),
            shares=True,
        )


def _more_masks(rows: Sequence[Row]) -> Iterator[Claim]:
    for weak, untuned, tuned in ((POINT, "+0.1", "+2.2"), (BOX, "+0.4", "+2.2")):
        base = {**STUDENT, "weak": weak}
        for word, given, paper in (("without", False, untuned), ("with", True, tuned)):
            more, none = ({**base, "tuned": given, "masks": masks} for masks in ("10%", "0%"))
            bound = {"least": SMALL} if given else {"least": -SMALL, "most": SMALL}
            yield Claim(
                f"student: {weak}, 10% masks over none, {word} tuning the teacher",
                paper,
                _minus(rows, ap, more, none),
                **bound,
            )


def _doubting(rows: Sequence[Row]) -> Iterator[Claim]:
    """Students that trust some masks less."""
    best = full(rows)
    for weak, masks in product((POINT, BOX), SHARES[1:]):
        base = {**STUDENT, "weak": weak, "masks": masks}
        plain = by_seed(rows, ap, base)
        for student in list(STUDENTS)[1:]:
            found = by_seed(rows, ap, {**base, "student": student})
            over = _minus(rows, ap, {**base, "student": student}, base)
            yield Claim(
                f"student with {student} over the paper's: {weak}, {masks} masks", "above", over, ABOVE
            )
            closed = [
                100 * (found[seed] - plain[seed]) / (best[seed] - plain[seed])
                for seed in sorted(found.keys() & plain.keys() & best.keys())
                if best[seed] - plain[seed] >= SMALL  # else there is no gap to close
            ]
            yield Claim(
                f"student with {student}: {weak}, {masks} masks, % of the gap to full closed, where it is a point "
                "or more",
                "aim 50",
                tuple(closed),
                50.0,
                shares=True,
            )


def _few_masks(rows: Sequence[Row]) -> Iterator[Claim]:
    """Teachers of 1% masks beside the paper's of 10%, and what the gate makes of them."""
    for weak in (POINT, BOX):
        few = {**LABELLER, "weak": weak, "masks": "1%"}
        ways = {f"with {teacher}": {**few, "teacher": teacher} for teacher in list(TEACHERS)[1:]}
        for way, choice in {**ways, "that the gate chose": {**STUDENT, "weak": weak, "masks": "1%"}}.items():
            yield Claim(
                f"teacher {way}: {weak}, 1% masks over today's 10%",
                "aim 0",
                _minus(rows, miou, choice, {**few, "masks": "10%"}),
                0.0,
            )


def _precision(rows: Sequence[Row]) -> Iterator[Claim]:
    """Students of fewer masks, more of them right."""
    for weak in (POINT, BOX):
        sure = {**STUDENT, "weak": weak, "masks": "10%", "precision": PRECISION[weak]}
        yield Claim(
            f"student of the masks that `precision` keeps over one of all: {weak}, 10% masks",
            "above",
            _minus(rows, ap, sure, {**sure, "precision": None}),
            ABOVE,
        )


def _minus(rows: Sequence[Row], value: Value, better: Choice, worse: Choice) -> tuple[float, ...]:
    """Differences of the seeds that have both."""
    more, less = by_seed(rows, value, better), by_seed(rows, value, worse)
    return tuple(more[seed] - less[seed] for seed in sorted(more.keys() & less.keys()))
