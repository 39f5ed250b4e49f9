"""The report's pictures: which images, masks, points and detections are drawn, worst and most doubtful first."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from pipeline.data.records import Instance, Record
from pipeline.engine.stage import Records, TrainContext
from pipeline.report import fates
from pipeline.report.blocks import Block, Gallery, Heading, Legend, Section, Shot, Text
from pipeline.report.case_documents import Case
from pipeline.report.case_pictures import ERRORS, case_choices, case_shot
from pipeline.report.crops import CHOICES, MASK, box_shot, doubt_shot, point_shot
from pipeline.report.pictures import Budget
from pipeline.report.wording import counted
from pipeline.stages.cases import STUDENT_SCORE, thing_name
from pipeline.stages.samples import read_sample
from pipeline.stages.trust import estimates, mask_trust, pseudo_masks
from pipeline.stages.watched import Watched

TRUTH, PSEUDO = "truth", "pseudo"  # layers of a case


def cases(found: Sequence[Case], context: TrainContext, budget: Budget) -> Section:
    """The worst images and typical ones, each with truth, pseudo-masks, errors and students."""
    shots = []
    for done, case in enumerate(found, start=1):
        shots.append(case_shot(case, context.images_root))
        context.progress(done, len(found), "cases drawn")
    kept = tuple(shot for shot in shots if budget.takes(shot))
    blocks: list[Block] = []
    if not found:
        blocks.append(Text(("There was no hidden truth to compare with.",)))
    if kept:
        intro = (
            "An object has one number and one colour in every layer. Striped: a true object that no pseudo-mask "
            "matched, or a mask that matched no object of its class. Students are drawn from a score of "
            f"{STUDENT_SCORE:g} on.",
        )
        gallery = Gallery(
            "cases",
            case_choices(list(found[0].students)),
            PSEUDO,
            kept,
            own=True,
            beside=(TRUTH,),
            legend=ERRORS,
            marks=("numbers", "prompts"),
        )
        blocks += [Text(intro), gallery]
    blocks += _left_out(len(shots) - len(kept))
    return Section("cases", "Truth, pseudo-masks and students", tuple(blocks), "Pictures")


def doubtful(data: Records, context: TrainContext, budget: Budget, *, count: int) -> Section:
    """The `count` pseudo-masks that the machine itself trusts least."""
    trusted = mask_trust(Watched(data, context, "pseudo-masks"))
    worst = np.argsort(trusted, kind="stable")[:count]  # NaN, no estimate, comes last
    chosen = {int(index): rank for rank, index in enumerate(worst) if not np.isnan(trusted[index])}
    found: dict[int, Shot] = {}
    for index, (record, instance) in enumerate(pseudo_masks(Watched(data, context, "doubtful masks"))):
        if index in chosen:
            found[chosen[index]] = _doubt(record, instance, context)
    shots = [found[rank] for rank in sorted(found)]
    if shots:
        intro = (
            f"The {counted(len(shots), 'mask')} of {len(trusted):,} that the machine itself trusts least, by their "
            "calibrated quality or else the mean rank of their estimates. The white box and the dot are what the "
            "teacher was asked."
        )
    else:
        intro = "No pseudo-mask has an estimate of its own quality."
    blocks = (Text((intro,)), *_gallery("doubtful", shots, budget))
    return Section("doubtful", "The most doubtful pseudo-masks first", blocks, "Doubtful masks")


def _doubt(record: Record, instance: Instance, context: TrainContext) -> Shot:
    image = read_sample(record, context.images_root).image
    name = thing_name(instance.class_id, instance.phrase, context.ontology)
    return doubt_shot(record.uri, image, instance, name=name, estimates=estimates(instance))


def unmatched(data: Records, context: TrainContext, budget: Budget, *, count: int) -> Section | None:
    """Points that took no detection's box and detections that were not used; None where there are neither."""

    def name(class_id: int | None, phrase: str | None) -> str:
        return thing_name(class_id, phrase, context.ontology)

    found = fates.gather(Watched(data, context, "prompts"), name, examples=count)
    points = [
        point_shot(
            point,
            read_sample(point.record, context.images_root).image,
            name=name(point.instance.class_id, point.instance.phrase),
        )
        for point in found.lone_points
    ]
    boxes = [
        box_shot(box, read_sample(box.record, context.images_root).image, namer=name)
        for box in found.lone_boxes
    ]
    blocks: list[Block] = []
    if points:
        blocks.append(Heading("Points without a detection, the most doubtful of an image"))
        blocks += _gallery("lone-points", points, budget, legend=fates.POINT_LEGEND, level=4)
    if boxes:
        blocks.append(Heading("Detections that were not used, the surest of an image"))
        blocks += _gallery("lone-boxes", boxes, budget, legend=fates.BOX_LEGEND, level=4)
    return fates.section(found, blocks)


def _gallery(
    name: str,
    shots: Sequence[Shot],
    budget: Budget,
    *,
    legend: Legend | None = None,
    level: Literal[3, 4] = 3,
) -> Iterator[Block]:
    """Parts of photos with one layer each, as many as the budget takes."""
    kept = tuple(shot for shot in shots if budget.takes(shot))
    if kept:
        yield Gallery(name, CHOICES, MASK, kept, legend=legend, marks=("prompts",), level=level)
    yield from _left_out(len(shots) - len(kept))


def _left_out(count: int) -> Iterator[Block]:
    if count:
        yield Text((f"{counted(count, 'photo')} left out to keep the page small.",))
