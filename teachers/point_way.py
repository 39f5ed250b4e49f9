"""The point way: P-SAM's box for each click, Algorithm 1, and the prompt that BP-SAM gets (Das et al. 2024)."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.data.records import Box, Match, Origin, Point, Prompt
from teachers.refine import refine
from teachers.settings import SamSettings

_NO_BOX = (math.nan,) * 4


def refined_prompts(
    clicks: Sequence[Prompt],
    sam_boxes: Sequence[Box | None],
    proposals: Sequence[Prompt],
    settings: SamSettings,
) -> list[tuple[Prompt, Match]]:
    """BP-SAM's prompt for each click of one image, and what Algorithm 1 did with it.

    `sam_boxes`: tight boxes of P-SAM's masks, None for an empty mask. A prompt has the click's points and the box that
    Algorithm 1 chose (origin `sam` or `dino`, with the proposal's score), or the points alone (origin `human`) when
    there is no box. A click of several points stands at its first one on the object.
    """
    if not clicks:
        return []
    stands = [_first_on_object(click.points) for click in clicks]
    matches = refine(
        np.array([(point.x, point.y) for point in stands]),
        np.array([_NO_BOX if box is None else box for box in sam_boxes]),
        classes=[click.class_id for click in clicks],
        proposals=proposals,
        alpha=settings.alpha,
        beta=settings.beta,
        tau=settings.tau,
    )
    return [
        (_prompt(click, box, match, proposals), match)
        for click, box, match in zip(clicks, sam_boxes, matches, strict=True)
    ]


def _first_on_object(points: Sequence[Point]) -> Point:
    return next(point for point in points if point.label == 1)


def _prompt(click: Prompt, own: Box | None, match: Match, proposals: Sequence[Prompt]) -> Prompt:
    if match.proposal is not None:
        taken = proposals[match.proposal]
        return replace(click, origin=Origin.DINO, box_xyxy=taken.box_xyxy, score=taken.score)
    return click if own is None else replace(click, origin=Origin.SAM, box_xyxy=own)
