"""Whole photos of the report with their layers: true objects, pseudo-masks, what is wrong with them, students."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pipeline.data.paths import Place
from pipeline.data.photos import read_unchanged
from pipeline.report.blocks import Block, Cell, Chip, Choice, Fold, Layer, Legend, Number, Shot, Table
from pipeline.report.case_documents import Case, CaseMask
from pipeline.report.layers import PALETTE, Overlay, Shape, Window, errors, paint
from pipeline.report.pictures import clicks, frame, is_small, laid_over, photo
from pipeline.report.wording import DASH, counted, placed_by, score

ROWS = 12  # objects listed beside a photo; the others are behind a line that opens them
NAMED = 6  # things named in an image's words; the rest is counted
MISSED = "missed"
ERRORS = Legend(
    (
        ("hit", "right"),
        ("missed", "missed: true, not in the pseudo-mask"),
        ("extra", "extra: in the pseudo-mask, not true (striped)"),
    )
)

Mask = npt.NDArray[np.bool_]
Row = tuple[Cell, ...]


@dataclass
class _Drawn:
    """The masks of one source in one frame, with the number and colour of the true object that each stands for."""

    name: str
    words: str
    masks: Sequence[CaseMask]
    shapes: list[Shape] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def case_choices(students: Sequence[str]) -> tuple[Choice, ...]:
    """The layers of a case, in the order of their switches."""
    named = [Choice(f"student-{index}", name) for index, name in enumerate(students)]
    return (
        Choice("photo", "photo"),
        Choice("truth", "hidden truth"),
        Choice("pseudo", "pseudo-masks"),
        Choice("errors", "errors of the pseudo-masks"),
        *named,
    )


def case_shot(case: Case, images_root: Place) -> Shot:
    """One case with all its layers; BadInput if the photo is unreadable or another now."""
    image = read_unchanged(images_root / case.uri, case.sha256)
    window = Window.whole(*image.shape[:2])
    true = [window.mask(mask.rle) for mask in case.truth]
    missed = set(range(len(true))) - {mask.partner for mask in case.pseudo}
    truth = _Drawn("truth", "Hidden truth", case.truth)
    for index, mask in enumerate(true):
        truth.shapes.append(Shape(mask, index % len(PALETTE), hatched=index in missed))
        truth.texts.append(str(index + 1))
    pseudo = _matched("pseudo", "Pseudo-masks", case.pseudo, window, len(true))
    students = [
        _matched(f"student-{number}", f"Masks of {name}", found, window, len(true))
        for number, (name, found) in enumerate(case.students.items())
    ]
    layers = [_layer(drawn, window) for drawn in (truth, pseudo, *students)]
    layers[1] = _with_prompts(layers[1], case.pseudo, window)
    wrong = laid_over(_errors(true, pseudo, window), window, "Right, missed and extra pixels")
    layers.append(Layer("errors", wrong, layers[0].numbers))
    miou = "no object to compare" if case.miou is None else f"mean IoU {case.miou:.3f} over its objects"
    return Shot(
        heading=case.uri,
        caption=f"{case.why}: {miou}, number {case.rank} of {case.ranked:,} images from the worst",
        photo=photo(window, image, case.uri),
        layers=tuple(layers),
        blocks=_objects(case),
        pixelated=is_small(window),
    )


def _matched(name: str, words: str, found: Sequence[CaseMask], window: Window, true: int) -> _Drawn:
    """A machine's masks: one that matched has its true object's number and colour, others are hatched, +1, +2 ..."""
    drawn = _Drawn(name, words, found)
    extra = 0
    for mask in found:
        extra += mask.partner is None
        number = true + extra - 1 if mask.partner is None else mask.partner
        shape = Shape(window.mask(mask.rle), number % len(PALETTE), hatched=mask.partner is None)
        drawn.shapes.append(shape)
        drawn.texts.append(f"+{extra}" if mask.partner is None else str(mask.partner + 1))
    return drawn


def _layer(drawn: _Drawn, window: Window) -> Layer:
    names = [mask.label for mask in drawn.masks]
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    what = f"{', '.join(names[:NAMED])}{rest}" if names else "nothing"
    picture = laid_over(paint(drawn.shapes, window), window, f"{drawn.words}: {what}")
    numbers = [
        Number(*middle, text)
        for shape, text in zip(drawn.shapes, drawn.texts, strict=True)
        if (middle := _middle(shape.mask)) is not None
    ]
    return Layer(drawn.name, picture, tuple(numbers))


def _middle(mask: Mask) -> tuple[float, float] | None:
    """The pixel of a mask nearest to its centre of mass."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return None
    nearest = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
    return float(columns[nearest]) + 0.5, float(rows[nearest]) + 0.5


def _with_prompts(layer: Layer, found: Sequence[CaseMask], window: Window) -> Layer:
    frames = tuple(frame(mask.box, window) for mask in found if mask.box is not None)
    points = [point for mask in found for point in mask.points]
    return replace(layer, frames=frames, clicks=clicks(points, window))


def _errors(true: Sequence[Mask], pseudo: _Drawn, window: Window) -> Overlay:
    partners = {mask.partner: shape.mask for mask, shape in zip(pseudo.masks, pseudo.shapes, strict=True)}
    pairs = [(mask, partners.get(index)) for index, mask in enumerate(true)]
    extras = [
        (None, shape.mask)
        for mask, shape in zip(pseudo.masks, pseudo.shapes, strict=True)
        if mask.partner is None
    ]
    return errors([*pairs, *extras], window)


def _objects(case: Case) -> tuple[Block, ...]:
    """What is on the photo, worst first: true objects with the IoU of every mask of them, then what matched nothing."""
    header = ("no.", "object", "pseudo IoU", "box from", *(f"{name} IoU" for name in case.students))
    rows = [*_true_rows(case), *_lone_rows(case)]
    words = frozenset({1, 3})
    first = Table(header, tuple(rows[:ROWS]), "Objects, the worst pseudo-masks first", words=words)
    if len(rows) <= ROWS:
        return (first,)
    rest = Table(header, tuple(rows[ROWS:]), words=words)
    return (first, Fold(counted(len(rows) - ROWS, "more object"), (rest,)))


def _true_rows(case: Case) -> list[Row]:
    pseudo, *students = (
        {mask.partner: mask for mask in found if mask.partner is not None}
        for found in (case.pseudo, *case.students.values())
    )
    rows: list[tuple[float, Row]] = []
    for index, true in enumerate(case.truth):
        mask = pseudo.get(index)
        ious = (found[index].iou if index in found else None for found in students)
        first = (MISSED, DASH) if mask is None else (score(mask.iou), placed_by(mask.origin or DASH))
        row: Row = (_chip(str(index + 1), index), true.label, *first, *(score(iou) for iou in ious))
        rows.append((-1.0 if mask is None else mask.iou or 0.0, row))
    return [row for _, row in sorted(rows, key=lambda ranked: ranked[0])]


def _lone_rows(case: Case) -> list[Row]:
    lone = [mask for mask in case.pseudo if mask.partner is None]
    dashes = [DASH] * len(case.students)
    return [
        (
            _chip(f"+{number}", len(case.truth) + number - 1),
            mask.label,
            "no object",
            placed_by(mask.origin or DASH),
            *dashes,
        )
        for number, mask in enumerate(lone, start=1)
    ]


def _chip(text: str, number: int) -> Chip:
    return Chip(text, number % len(PALETTE))
