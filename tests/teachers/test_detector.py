"""What a detector's raw predictions are made of them: scores, kept boxes, and what is told nothing."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from teachers.detector import Assignment, Raw, Targets, gathered, ignored, keep, lost

SIDE = 64


def raw(boxes: list[list[float]], logits: list[list[float]], objects: list[float] | None = None) -> Raw:
    """One image's predictions, each from the centre of its box and a cell of 8 pixels."""
    where = torch.tensor(boxes)
    return Raw(
        where[None],
        torch.tensor(logits)[None],
        None if objects is None else torch.tensor(objects)[None],
        centres=(where[:, :2] + where[:, 2:]) / 2,
        strides=torch.full((len(where),), 8.0),
        side=SIDE,
    )


def kept(said: Raw, **settings: float) -> list[tuple[int, int]]:
    """Locations and labels of the first image's kept predictions."""
    asked = {"confidence": 0.5, "overlap": 0.5, "most": 10} | settings
    found = keep(said, confidence=asked["confidence"], overlap=asked["overlap"], most=int(asked["most"]))
    own = found.image == 0
    return list(zip(found.location[own].tolist(), found.label[own].tolist(), strict=True))


FAR = [[0.0, 0.0, 20.0, 20.0], [30.0, 0.0, 50.0, 20.0], [0.0, 30.0, 20.0, 50.0]]
SAME = [[0.0, 0.0, 20.0, 20.0], [1.0, 0.0, 21.0, 20.0], [0.0, 30.0, 20.0, 50.0]]


def test_a_confidence_is_the_mean_of_class_and_object() -> None:
    said = raw(FAR, [[0.0, 2.0]] * 3, objects=[1.0, 0.0, -1.0])
    chances = torch.tensor([[0.0, 2.0]] * 3).sigmoid() * torch.tensor([1.0, 0.0, -1.0]).sigmoid()[:, None]
    torch.testing.assert_close(said.scores()[0], chances.sqrt())
    torch.testing.assert_close(
        replace(said, object_logits=None).scores()[0], torch.tensor([[0.0, 2.0]] * 3).sigmoid()
    )
    assert not said.scores().requires_grad


@pytest.mark.parametrize(
    ("boxes", "logits", "settings", "expected"),
    [
        (FAR, [[1.0, -1.0], [-1.0, 3.0], [2.0, 0.0]], {}, [(1, 1), (2, 0), (0, 0)]),
        (FAR, [[1.0, -1.0], [-1.0, 3.0], [2.0, 0.0]], {"most": 2}, [(1, 1), (2, 0)]),
        (FAR, [[1.0, -1.0], [-1.0, 3.0], [2.0, 0.0]], {"confidence": 0.8}, [(1, 1), (2, 0)]),
        (FAR, [[1.0, -1.0], [-1.0, 3.0], [2.0, 0.0]], {"confidence": 0.99}, []),
        (SAME, [[1.0, -1.0], [3.0, -1.0], [2.0, 0.0]], {}, [(1, 0), (2, 0)]),
        (SAME, [[1.0, -1.0], [3.0, -1.0], [2.0, 0.0]], {"overlap": 0.95}, [(1, 0), (2, 0), (0, 0)]),
        (SAME, [[1.0, -1.0], [-1.0, 3.0], [2.0, 0.0]], {}, [(1, 1), (2, 0), (0, 0)]),
        (
            [[-40.0, 0.0, 0.5, 20.0], [30.0, 63.5, 50.0, 90.0], [0.0, 30.0, 1.0, 50.0]],
            [[1.0, -1.0]] * 3,
            {},
            [(2, 0)],
        ),
        (
            [[-30.0, -30.0, 20.0, 20.0], [0.0, 0.0, 20.0, 20.0], FAR[1]],
            [[1.0, -1.0], [2.0, -1.0], [0.5, 0.0]],
            {},
            [(1, 0), (2, 0)],
        ),
    ],
    ids=["best first", "most", "confidence", "none", "suppressed", "overlap", "classes", "thin", "seen part"],
)
def test_what_is_kept(
    boxes: list[list[float]],
    logits: list[list[float]],
    settings: dict[str, float],
    expected: list[tuple[int, int]],
) -> None:
    assert kept(raw(boxes, logits), **settings) == expected


def test_images_of_a_batch_are_kept_apart() -> None:
    """Each with its own scores, an empty one between two."""
    parts = [raw(FAR, [[1.0], [2.0], [3.0]]), raw(FAR, [[-9.0]] * 3), raw(SAME, [[3.0], [1.0], [2.0]])]
    said = replace(
        parts[0],
        boxes=torch.cat([part.boxes for part in parts]).requires_grad_(),
        class_logits=torch.cat([part.class_logits for part in parts]),
    )
    found = keep(said, confidence=0.5, overlap=0.5, most=10)
    assert found.image.tolist() == [0, 0, 0, 2, 2]
    assert found.location.tolist() == [2, 1, 0, 0, 2]
    torch.testing.assert_close(found.score[:3], torch.tensor([3.0, 2.0, 1.0]).sigmoid())
    boxes = found.boxes(said)
    torch.testing.assert_close(boxes, said.boxes[found.image, found.location])
    (gradient,) = torch.autograd.grad(boxes.sum(), said.boxes)
    assert gradient.sum(-1).nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [2, 0], [2, 2]]


CELLS = raw([[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0], [40.0, 40.0, 48.0, 48.0]], [[0.0]] * 3)


@pytest.mark.parametrize(
    ("boxes", "learned", "expected"),
    [
        ([], [], [False, False, False]),
        ([[1.0, 1.0, 3.0, 3.0]], [], [True, False, False]),
        ([[1.0, 1.0, 3.0, 3.0]], [0], [False, False, False]),
        ([[1.0, 1.0, 9.0, 3.0]], [], [True, True, False]),
        ([[1.0, 1.0, 3.0, 3.0], [39.0, 39.0, 50.0, 50.0]], [0, 0], [False, False, True]),
        ([[1.0, 1.0, 3.0, 3.0], [39.0, 39.0, 50.0, 50.0]], [1, 0], [False, False, False]),
        ([[17.0, 1.0, 19.0, 3.0]], [], [False, False, False]),
    ],
    ids=["none", "lost", "learned", "two cells", "one of two", "both learned", "beside a cell"],
)
def test_where_nobody_learns_an_object_nothing_is_told(
    boxes: list[list[float]], learned: list[int], expected: list[bool]
) -> None:
    found = lost(CELLS, torch.tensor(boxes).reshape(-1, 4), torch.tensor(learned, dtype=torch.int64))
    assert found.tolist() == expected


def targets(count: int, region: Tensor | None = None) -> Targets:
    first = torch.arange(4.0 * count).reshape(count, 4)
    return Targets(first, torch.arange(count), torch.full((count,), 0.5), region)


def test_nothing_is_told_where_nothing_is_known() -> None:
    region = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    region[4, 12] = region[44, 43] = True  # the second cell's centre, and a pixel beside the last one's
    assert ignored(CELLS, targets(1, region)).tolist() == [False, True, False]
    assert ignored(CELLS, targets(1)).tolist() == [False] * 3


def test_what_locations_learn_is_of_their_own_image() -> None:
    every = [targets(2), targets(0), replace(targets(3), weights=torch.tensor([0.1, 0.2, 0.3]))]
    indices = {"image": [2, 0, 2], "location": [5, 1, 0], "target": [1, 1, 2]}
    found = Assignment(
        **{name: torch.tensor(rows) for name, rows in indices.items()}, unsaid=torch.zeros(3, 9)
    )
    boxes, labels, weights = gathered(every, found, like=torch.zeros(1, dtype=torch.float64))
    assert boxes.tolist() == [[4, 5, 6, 7], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert labels.tolist() == [1, 1, 2]
    assert labels.dtype == torch.int64
    assert weights.tolist() == pytest.approx([0.2, 0.5, 0.3])
    assert boxes.dtype == weights.dtype == torch.float64
    nothing = Assignment(*(torch.zeros(0, dtype=torch.int64) for _ in range(3)), torch.zeros(1, 9))
    assert [len(part) for part in gathered([targets(0)], nothing, like=torch.zeros(1))] == [0, 0, 0]
