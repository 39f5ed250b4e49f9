"""Algorithm 1 against brute force over all assignments, and every corner case as a row."""

from itertools import combinations, permutations

import numpy as np
import pytest

from pipeline.data.errors import BadInput
from pipeline.data.records import Box, Match, Origin, Point, Prompt
from teachers.refine import refine
from teachers.settings import PAPER_ALPHA, PAPER_BETA, PAPER_TAU

PAPER = {"alpha": PAPER_ALPHA, "beta": PAPER_BETA, "tau": PAPER_TAU}

NAN: Box = (float("nan"),) * 4
BOX: Box = (10, 10, 30, 30)


def found(box: Box | None, score: float | None = 0.5, class_id: int | None = 1) -> Prompt:
    points = () if box is not None else (Point(1, 1),)
    return Prompt(Origin.DINO, box, points, class_id=class_id, score=score)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    if np.isnan(b).any():
        return 0.0
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def costs(points: np.ndarray, own: np.ndarray, classes: list[int], proposals: list[Prompt]) -> np.ndarray:
    table = np.zeros((len(proposals), len(points)))
    for n, proposal in enumerate(proposals):
        x0, y0, x1, y1 = proposal.box_xyxy
        for p, (x, y) in enumerate(points):
            valid = x0 <= x <= x1 and y0 <= y <= y1 and proposal.class_id == classes[p]
            overlap = iou(np.array(proposal.box_xyxy), own[p])
            table[n, p] = (0 if valid else 5) - overlap - 2 * proposal.score
    return table


def least_cost(table: np.ndarray) -> float:
    """Over all one-to-one assignments of the shorter side."""
    if table.shape[0] > table.shape[1]:
        table = table.T
    rows, columns = table.shape
    return min(
        sum(table[row, column] for row, column in enumerate(order))
        for chosen in combinations(range(columns), rows)
        for order in permutations(chosen)
    )


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    low = rng.uniform(0, 40, (count, 2))
    return np.concatenate([low, low + rng.uniform(2, 40, (count, 2))], axis=1)


@pytest.mark.parametrize("seed", range(120))
def test_against_all_assignments(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, p = rng.integers(1, 6, 2)
    boxes, own, points = random_boxes(rng, n), random_boxes(rng, p), rng.uniform(0, 60, (p, 2))
    own[rng.random(p) < 0.15] = np.nan
    classes = [int(c) for c in rng.integers(1, 3, p)]
    scores = rng.uniform(0, 1, n)
    proposals = [
        found(tuple(map(float, box)), float(score), int(rng.integers(1, 3)))
        for box, score in zip(boxes, scores, strict=True)
    ]
    out = refine(points, own, classes=classes, proposals=proposals, **PAPER)
    sure = [index for index, proposal in enumerate(proposals) if proposal.score >= 0.1]
    matched = [match for match in out if match.cost is not None]
    assert len(matched) == min(len(sure), p)
    if sure:
        table = costs(points, own, classes, [proposals[index] for index in sure])
        assert sum(match.cost for match in matched) == pytest.approx(least_cost(table))
    taken = [match.proposal for match in out if match.proposal is not None]
    assert len(set(taken)) == len(taken)
    for j, match in enumerate(out):
        if match.proposal is None:
            assert match.cost is None or match.cost >= 2
        else:
            assert match.cost == pytest.approx(costs(points, own, classes, proposals)[match.proposal, j])


INSIDE, OUTSIDE = (20.0, 20.0), (50.0, 50.0)
CORNERS = {
    "no points": ([], [], [found(BOX)], []),
    "no proposals": ([INSIDE], [BOX], [], [None]),
    "all below tau": ([INSIDE], [BOX], [found(BOX, 0.09), found(BOX, 0.0)], [None]),
    "at tau": ([INSIDE], [BOX], [found(BOX, 0.1)], [0]),
    "thinner than a pixel": ([INSIDE], [BOX], [found((20, 10, 20.9, 30), 0.9)], [None]),
    "exactly a pixel": ([INSIDE], [BOX], [found((20, 10, 21, 30), 0.9)], [0]),
    "a proposal of points only": ([INSIDE], [BOX], [found(None, 0.9)], [None]),
    "other class": ([INSIDE], [BOX], [found(BOX, 0.9, 2)], [None]),
    "class unknown": ([INSIDE], [BOX], [found(BOX, 0.9, None)], [None]),
    "point outside": ([OUTSIDE], [BOX], [found(BOX, 0.9)], [None]),
    "point on the edge": ([(30.0, 10.0)], [BOX], [found(BOX, 0.9)], [0]),
    "point just off the edge": ([(30.01, 10.0)], [BOX], [found(BOX, 0.9)], [None]),
    "empty SAM mask, box found": ([INSIDE], [NAN], [found(BOX)], [0]),
    "empty SAM mask, none found": ([INSIDE], [NAN], [found(BOX, 0.9, 2)], [None]),
    "more proposals than points": ([INSIDE], [BOX], [found(BOX, 0.4), found(BOX, 0.6)], [1]),
    "equal proposals: the first": ([INSIDE], [BOX], [found(BOX), found(BOX)], [0]),
    "equal costs: the surer": (  # -0.5 - 2 * 0.5 and 0 - 2 * 0.75
        [(10.0, 5.0)],
        [(0, 0, 10, 10)],
        [found((0, 0, 10, 5), 0.5), found((10, 0, 20, 10), 0.75)],
        [1],
    ),
    "a box serves one point": ([INSIDE, INSIDE], [BOX, NAN], [found(BOX)], [0, None]),
    "fewer usable than points": (
        [INSIDE, INSIDE],
        [BOX, BOX],
        [found(BOX, 0.05), found((12, 12, 30, 30), 0.9)],
        [1, None],
    ),
}


@pytest.mark.parametrize(("points", "own", "proposals", "taken"), CORNERS.values(), ids=CORNERS)
def test_corner_cases(points: list, own: list, proposals: list[Prompt], taken: list[int | None]) -> None:
    out = refine(
        np.array(points).reshape(-1, 2),
        np.array(own).reshape(-1, 4),
        classes=[1] * len(points),
        proposals=proposals,
        **PAPER,
    )
    assert [match.proposal for match in out] == taken


def test_an_invalid_pair_keeps_its_cost() -> None:
    out = refine(np.array([OUTSIDE]), np.array([BOX]), classes=[1], proposals=[found(BOX, 0.75)], **PAPER)
    assert out == (Match(proposal=None, cost=2.5, iou=1.0),)


def chain(alpha: float) -> list[int | None]:
    """Six boxes in a row, a point on each left edge; each SAM box equals the box before, the first's the last."""
    boxes = [(10.0 * i, 0.0, 10.0 * i + 10, 10.0) for i in range(6)]
    points = np.array([[10.0 * i, 5.0] for i in range(6)])
    out = refine(
        points,
        np.array([boxes[i - 1] for i in range(6)]),
        classes=[1] * 6,
        proposals=[found(box) for box in boxes],
        alpha=alpha,
        beta=PAPER_BETA,
        tau=PAPER_TAU,
    )
    return [match.proposal for match in out]


def test_alpha_5_does_not_force_the_most_valid_pairs() -> None:
    # Five valid pairs and an invalid one, all of IoU 1, cost 5 - 6; six valid ones of IoU 0 cost 0.
    assert chain(5.0) == [None, 0, 1, 2, 3, 4]


def test_a_greater_alpha_does() -> None:
    assert chain(6.1) == [0, 1, 2, 3, 4, 5]


def test_beta_weighs_confidence() -> None:
    proposals = [found((10, 10, 30, 40), 0.9), found(BOX, 0.6)]
    point, own = np.array([INSIDE]), np.array([BOX])
    by_confidence = refine(point, own, classes=[1], proposals=proposals, **{**PAPER, "beta": 2.0})
    by_overlap = refine(point, own, classes=[1], proposals=proposals, **{**PAPER, "beta": 0.1})
    assert (by_confidence[0].proposal, by_overlap[0].proposal) == (0, 1)


def test_bad_input() -> None:
    with pytest.raises(BadInput, match="proposal 0: no score"):
        refine(np.array([INSIDE]), np.array([BOX]), classes=[1], proposals=[found(BOX, None)], **PAPER)
    with pytest.raises(ValueError, match="2 classes"):
        refine(np.array([INSIDE]), np.array([BOX]), classes=[1, 2], proposals=[], **PAPER)
