import gc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from pipeline.data import masks
from pipeline.data.matching import Pair
from pipeline.data.metrics import matched_miou
from pipeline.data.records import Instance, Origin, Prompt, Record, Role, Source


def box(left: int, right: int) -> masks.Mask:
    mask = np.zeros((4, 40), bool)
    mask[:, left:right] = True
    return mask


def thing(
    left: int, right: int, *, key: int | str = 1, origin: Origin | None = None, dropped: str | None = None
) -> Instance:
    """A bar from column left to right."""
    prompt = None if origin is None else Prompt(origin, box_xyxy=(left, 0, right, 4))
    meaning = {"class_id": key} if isinstance(key, int) else {"phrase": key}
    return Instance(
        Source.TEACHER, rle=masks.encode(box(left, right)), prompt=prompt, dropped=dropped, **meaning
    )  # type: ignore[arg-type]


def record(*instances: Instance, number: int = 0, crowd: tuple[Instance, ...] = ()) -> Record:
    return Record(number, "a", "", 40, 4, "train", Role.WEAK, instances=instances, crowd=crowd)


@pytest.mark.parametrize(
    ("truth", "pseudo", "miou", "misses", "false"),
    [
        ((), (), None, 0, 0),
        ((thing(0, 10),), (thing(0, 10),), 1, 0, 0),
        ((thing(0, 10),), (thing(0, 5),), 0.5, 0, 0),
        ((thing(0, 10),), (), 0, 1, 0),
        ((), (thing(0, 10),), None, 0, 1),
        ((thing(0, 10),), (thing(20, 30),), 0, 1, 1),  # no overlap is no match
        ((thing(0, 10),), (thing(0, 10, key=2),), 0, 1, 1),  # of another class
        ((thing(0, 10),), (thing(0, 10, key="a cat"),), 0, 1, 1),
        ((thing(0, 10, key="a cat"),), (thing(0, 10, key="a cat"),), 1, 0, 0),
        ((thing(0, 10),), (thing(0, 10, dropped="score"),), 0, 1, 0),
        ((thing(0, 10),), (thing(0, 5), thing(0, 10)), 1, 0, 1),  # a second mask of one thing is false
        ((thing(0, 10), thing(10, 20)), (thing(0, 20),), 0.25, 1, 0),
        # Greedy would give the first pair 0.9 and lose the rest; the best sum is 0.8 + 0.8.
        ((thing(0, 10), thing(1, 9)), (thing(1, 10), thing(0, 8)), (8 / 10 + 8 / 9) / 2, 0, 0),
        ((Instance(Source.HUMAN, class_id=1, box_xyxy=(0, 0, 1, 1)),), (thing(0, 4),), None, 0, 1),
    ],
)
def test_matching(
    truth: tuple[Instance, ...], pseudo: tuple[Instance, ...], miou: float | None, misses: int, false: int
) -> None:
    scores = matched_miou([record(*truth)], [record(*pseudo)])
    assert (scores.misses, scores.false_positives) == (misses, false)
    assert scores.miou == (None if miou is None else pytest.approx(miou))


def test_masks_in_crowd_regions_are_not_false() -> None:
    crowd = (thing(20, 40),)
    for spare, false in ((thing(18, 30), 0), (thing(10, 25), 1), (thing(22, 30, key=2), 1)):
        scores = matched_miou([record(thing(0, 5), crowd=crowd)], [record(spare)])
        assert scores.false_positives == false


def test_means_by_instance_image_class_and_origin() -> None:
    truth = [
        record(thing(0, 10), thing(10, 20, key=2), number=1),
        record(thing(0, 10), number=2),
        record(number=3),
    ]
    pseudo = [
        record(thing(0, 5, origin=Origin.DINO), number=1),
        record(thing(0, 10, origin=Origin.SAM), number=2),
        record(thing(0, 10, origin=Origin.SAM), thing(0, 4, dropped="x"), number=3),
    ]
    scores = matched_miou(truth, pseudo)
    assert scores.miou == pytest.approx(0.5)
    assert scores.miou_images == pytest.approx((0.25 + 1) / 2)
    assert scores.by_class == {1: pytest.approx(0.75), 2: 0.0}
    assert scores.by_origin == {"dino": pytest.approx(0.5), "sam": pytest.approx(1.0)}
    assert (scores.truths, scores.pseudos, scores.misses, scores.false_positives) == (3, 3, 1, 1)


def test_masks_are_let_go_image_by_image() -> None:
    alive = []

    def stream() -> Iterator[Record]:
        for number in range(50):
            yield record(thing(0, 10), number=number)
        alive.append(sum(type(thing) is Pair for thing in gc.get_objects()))

    assert matched_miou(stream(), stream()).truths == 50
    assert max(alive) <= 2


def test_records_must_be_of_one_image() -> None:
    with pytest.raises(ValueError, match="of one image, got 0 and 1"):
        matched_miou([record()], [replace(record(), image_id=1)])
    with pytest.raises(ValueError, match="is shorter than"):
        matched_miou([record()], [])
