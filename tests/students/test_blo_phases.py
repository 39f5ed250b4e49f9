"""What the phases of each order do: which part a step changes, on which half, at what rate, and when it ends."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from little_pictures import draw
from small_blo import Places, loader, places, write_trained
from small_models import build_small_sam
from torch import Tensor

from students import blo_bench, blo_judge, blo_phases
from students.blo_bench import Bench
from students.blo_data import Halves
from students.blo_detectors import new_detector
from students.blo_judge import Judged, implicit_share, judge
from students.blo_objective import UNKNOWN, AlignedSam, Images, choose, missed
from students.blo_pair import Pair
from students.blo_phases import phases
from students.blo_settings import LAST_RATE, BloInstSettings
from teachers.phases import Phase
from teachers.targets import labels_of

MakeBench = Callable[..., Bench]
States = tuple[dict[str, Tensor], dict[str, Tensor]]  # of SAM's part and of the detector
SPLIT = Halves((0, 2), (1, 3, 4))


@pytest.fixture(scope="module")
def detector_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_trained(tmp_path_factory.mktemp("detector"))


@pytest.fixture
def make_bench(images: Path, detector_weights: Path) -> MakeBench:
    """`make_bench(order=..., ...)`: five pictures, two for SAM's part."""
    pictures = [draw(index, images) for index in range(5)]

    def make(*, empty: tuple[int, ...] = (), **settings: object) -> Bench:
        given = {"detector_weights": detector_weights, "batch_size": 2, "epochs": 2, "pretrain_epochs": 1}
        own = BloInstSettings.model_validate({**given, **settings})
        torch.manual_seed(0)
        pair = Pair(new_detector(own, 2), AlignedSam(build_small_sam(), rank=2)).eval()
        pool = [replace(p, instances=()) if i in empty else p for i, p in enumerate(pictures)]
        whole = loader(pool, images)
        jittered = replace(whole, scale=(0.8, 1.2))
        return Bench(pair, own, SPLIT, jittered, whole, Places(), "cpu")  # type: ignore[arg-type]

    return make


def weights(bench: Bench) -> States:
    """As they are now, buffers too."""
    found = bench.pair.sam.state_dict(), bench.pair.detector.state_dict()
    return tuple({n: v.clone() for n, v in state.items()} for state in found)  # type: ignore[return-value]


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"order": "first"}, [("detector", 3), ("aligned", 4)]),
        ({"order": "second"}, [("detector", 3), ("aligned", 4)]),
        ({"order": "joint"}, [("detector", 3), ("aligned", 4)]),
        ({"order": "separate"}, [("detector", 3), ("alone", 4), ("segmenter", 4)]),
        ({"order": "separate", "seg": 0}, [("detector", 3), ("alone", 4)]),
        ({"pretrain_epochs": 0}, [("aligned", 4)]),
        ({"epochs": 0}, [("detector", 3)]),
        ({"pretrain_epochs": 2, "steps": 7}, [("detector", 6), ("aligned", 7)]),
        ({"epochs": 0, "steps": 1, "order": "separate"}, [("detector", 3), ("alone", 1), ("segmenter", 1)]),
    ],
    ids=str,
)
def test_phases_of_an_order(
    make_bench: MakeBench, settings: dict[str, object], expected: list[tuple[str, int]]
) -> None:
    """An epoch of both levels is the larger half once: three images, two a step."""
    found = phases(make_bench(**settings))
    assert [(phase.name, phase.steps) for phase in found] == expected
    assert [phase.epoch for phase in found] == [3 if name == "detector" else 2 for name, _ in expected]


CHANGES = {
    "detector": (False, True),
    "alone": (False, True),
    "segmenter": (True, False),
    "aligned": (True, True),
}


@pytest.mark.parametrize("order", ["joint", "separate", "first", "second"])
def test_a_step_changes_its_own_part_and_no_frozen_number(make_bench: MakeBench, order: str) -> None:
    bench = make_bench(order=order)
    for phase in phases(bench):
        before = weights(bench)
        losses = [phase.step(batch) for batch in phase.draw(0, 2)]
        assert all(0 < loss < 20 for loss in losses)
        after = weights(bench)
        of_sam, of_detector = (changed(*states) for states in zip(before, after, strict=True))
        assert (bool(of_sam), bool(of_detector)) == CHANGES[phase.name], phase.name
        assert of_sam <= bench.pair.sam.trained().keys()
        assert of_detector <= {name for name, _ in bench.pair.detector.named_parameters()}
        assert all(parameter.grad is None for parameter in bench.pair.parameters())
        assert all(value.isfinite().all() for state in after for value in state.values())


@pytest.mark.parametrize("order", ["joint", "separate", "first", "second"])
def test_some_steps_make_the_loss_smaller(make_bench: MakeBench, order: str) -> None:
    """On one batch, over and over."""
    bench = make_bench(order=order, lr_sam=5e-3, lr_detector=1e-3, pretrain_lr=1e-4, steps=40)
    for phase in phases(bench):
        (batch,) = phase.draw(0, 1)
        losses = [phase.step(batch) for _ in range(8)]
        assert losses[-1] < losses[0], phase.name


@pytest.mark.parametrize("order", ["joint", "first", "second"])
def test_each_level_draws_from_its_half(make_bench: MakeBench, order: str) -> None:
    (phase,) = phases(make_bench(order=order, pretrain_epochs=0))
    seen: tuple[set[int], set[int]] = (set(), set())
    for pair in phase.draw(0, 8):
        for own, images in zip(seen, pair, strict=True):
            own |= set(places(images.features))
    assert seen == (set(SPLIT.lower), set(SPLIT.upper))


def after_a_step(bench: Bench, phase: Phase, batch: tuple[Images, Images]) -> States:
    phase.step(batch)
    return weights(bench)


@pytest.mark.parametrize(("order", "apart"), [("first", True), ("second", True), ("joint", False)])
def test_the_lower_step_knows_nothing_of_the_detectors_half(
    make_bench: MakeBench, order: str, apart: bool
) -> None:
    """The same SAM, to the bit, whatever the batch of D2; and where masks do not count, the same detector."""
    found = []
    for second, seg in ((0, 0.7), (1, 0.7), (0, 0.0), (1, 0.0)):
        bench = make_bench(order=order, seg=seg, pretrain_epochs=0)
        (phase,) = phases(bench)
        (one, other), (one_more, another) = phase.draw(0, 2)
        assert set(places(other.features)) != set(places(another.features))
        pair = (one, (other, another)[second]) if seg else ((one, one_more)[second], other)
        found.append(after_a_step(bench, phase, pair))
    (sam, detector), (sam_again, other_detector), (_, blind), (_, blind_again) = found
    assert not changed(sam, sam_again) if apart else changed(sam, sam_again)
    assert changed(detector, other_detector)
    if order == "joint":
        return
    assert not changed(blind, blind_again)


@pytest.mark.parametrize("order", ["first", "second"])
def test_orders_are_what_they_are_called(
    make_bench: MakeBench, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = []
    step = blo_phases.bilevel_step
    monkeypatch.setattr(
        blo_phases, "bilevel_step", lambda *given, order: orders.append(order) or step(*given, order=order)
    )
    (phase,) = phases(make_bench(order=order, pretrain_epochs=0))
    for batch in phase.draw(0, 1):
        phase.step(batch)
    assert orders == [order]


def test_the_second_order_goes_elsewhere(make_bench: MakeBench) -> None:
    found = []
    for order in ("first", "second"):
        bench = make_bench(order=order, pretrain_epochs=0, lr_sam=0.5)
        (phase,) = phases(bench)
        (batch,) = phase.draw(0, 1)
        found.append(after_a_step(bench, phase, batch))
    assert changed(found[0][1], found[1][1])


def test_how_much_of_the_upper_gradient_is_implicit(make_bench: MakeBench) -> None:
    """It grows with the rate of the lower step, is nothing where masks do not count, and nothing is moved by asking."""
    bench = make_bench(order="second", lr_sam=1e-2)
    before = weights(bench)
    share = implicit_share(bench)
    assert 0 < share < 1
    assert not any(changed(*states) for states in zip(before, weights(bench), strict=True))
    assert implicit_share(make_bench(order="second", lr_sam=2e-2)) == pytest.approx(2 * share, rel=0.2)
    assert implicit_share(make_bench(order="second", seg=0)) == 0


def test_rates_fall_to_a_tenth_by_epochs_and_the_detectors_own_training_warms_up(
    make_bench: MakeBench,
) -> None:
    first, aligned = phases(make_bench(epochs=3, pretrain_epochs=4))
    assert [round(aligned.rate(step), 6) for step in range(6)] == [1, 1, 0.55, 0.55, LAST_RATE, LAST_RATE]
    rates = [first.rate(step) for step in range(first.steps)]
    assert rates[0] < 0.2
    assert max(rates) < 1
    assert rates[-1] < 0.1
    long = phases(make_bench(pretrain_epochs=100))[0]
    assert long.rate(49) == pytest.approx(0.93, abs=0.01)


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        ({}, [(1e-3, 0.0), (1e-3, 5e-4)]),
        ({"lr_sam": 2e-3, "lr_detector": 3e-3}, [(2e-3, 0.0), (3e-3, 5e-4)]),
    ],
)
def test_both_levels_have_their_own_optimizer(
    make_bench: MakeBench, settings: dict[str, object], numbers: list[tuple[float, float]]
) -> None:
    bench = make_bench(**settings)
    found = phases(bench)[-1].optimizers
    assert [(o.defaults["lr"], o.defaults["weight_decay"]) for o in found] == numbers
    assert {(o.defaults["momentum"], o.defaults["nesterov"]) for o in found} == {(0.937, True)}
    own = [{id(p) for group in o.param_groups for p in group["params"]} for o in found]
    assert own == [
        {id(p) for p in bench.pair.sam.trained().values()},
        {id(p) for p in bench.pair.detector.parameters()},
    ]
    assert [level.clip for level in bench.levels()] == [10.0, 10.0]


class Worth:
    """Stands for what a pair is worth: `now` an object, one an image, None if it is not found; and who was asked."""

    def __init__(self) -> None:
        self.now: float | None = 0.5
        self.asked: list[int] = []

    def __call__(self, _: object, images: Images, __: object) -> tuple[float, int, int]:
        own = places(images.features)
        self.asked += own
        lost = UNKNOWN if self.now is None else self.now
        return lost * len(own), 0 if self.now is None else len(own), len(own)


@pytest.fixture
def worth(monkeypatch: pytest.MonkeyPatch) -> Worth:
    made = Worth()
    monkeypatch.setattr(blo_judge, "missed", made)
    return made


@pytest.mark.parametrize("order", ["first", "separate"])
@pytest.mark.parametrize(
    ("patience", "losses", "goes_on", "best"),
    [
        (0, [0.5, 0.6, 0.7, 0.8], [True] * 4, 0),
        (1, [0.5, 0.6], [True, False], 0),
        (2, [0.5, 0.6, 0.4, 0.5, 0.5], [True, True, True, True, False], 2),
        (1, [None, None, 0.6, 0.6], [True, True, True, False], 2),
        (2, [0.6, None, None], [True, True, False], 0),
    ],
)
def test_a_training_ends_when_the_detectors_half_has_not_become_better(
    make_bench: MakeBench,
    worth: Worth,
    order: str,
    patience: int,
    losses: list[float | None],
    goes_on: list[bool],
    best: int,
) -> None:
    bench = make_bench(order=order, patience=patience)
    phase = phases(bench)[-1]
    found = []
    for epoch, worth.now in enumerate(losses):
        found.append(phase.judge(epoch))
    assert found == goes_on
    assert int(bench.pair.best_epoch) == best
    assert float(bench.pair.best_loss) == pytest.approx(losses[best])
    assert worth.asked == list(SPLIT.upper) * len(losses)


def test_where_nothing_is_ever_found_the_last_weights_are_kept(make_bench: MakeBench, worth: Worth) -> None:
    bench = make_bench(patience=1)
    worth.now = None
    assert all(phases(bench)[-1].judge(epoch) for epoch in range(3))
    assert int(bench.pair.best_epoch) == -1
    assert judge(bench, ()) == Judged(UNKNOWN, 0.0)


def test_an_epoch_is_judged_by_the_detectors_images_with_objects(make_bench: MakeBench) -> None:
    bench = make_bench(empty=(1,))
    phase = phases(bench)[-1]
    assert phase.judge(0)
    shown = [p for p in SPLIT.upper if labels_of(bench.whole.pool[p], bench.whole.class_index).found]
    assert shown == [3, 4]
    (images,) = bench.side((3, 4)).in_order()
    loss, found, objects = missed(bench.pair.sam, images, bench.choice(images))
    assert (found > 0, objects) == (True, 4)
    assert float(bench.pair.best_loss) == pytest.approx(loss / objects)


def test_at_most_so_many_images_judge(
    make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch, worth: Worth
) -> None:
    monkeypatch.setattr(blo_judge, "MOST_JUDGED", 1)
    assert phases(make_bench(empty=(1,)))[-1].judge(0)
    assert worth.asked == [3]


@pytest.mark.parametrize("order", ["joint", "separate", "first", "second"])
def test_a_batch_without_objects_or_boxes_is_no_trouble(make_bench: MakeBench, order: str) -> None:
    """Pictures without anything, and a confidence that no box has."""
    for settings in ({"empty": (0, 1, 2, 3, 4)}, {"confidence": 1.0}):
        bench = make_bench(order=order, **settings)
        for phase in phases(bench):
            assert all(0 <= phase.step(batch) < 20 for batch in phase.draw(0, 2))
        assert all(value.isfinite().all() for state in weights(bench) for value in state.values())


@pytest.mark.parametrize("match", ["instance", "class_union"])
def test_the_matching_is_the_settings(
    make_bench: MakeBench, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def watched(*given: object, match: str) -> object:
        asked.append((match, given[2]))
        return choose(*given, match=match)  # type: ignore[arg-type]

    monkeypatch.setattr(blo_bench, "choose", watched)
    bench = make_bench(match=match, confidence=0.3, overlap=0.4)
    (images,) = list(bench.side((0, 1)).in_order())
    bench.choice(images)
    ((told, keeping),) = asked
    assert told == match
    assert (keeping.confidence, keeping.overlap, keeping.most) == (0.3, 0.4, 300)  # type: ignore[attr-defined]


def test_weights_of_the_losses_are_the_settings(make_bench: MakeBench) -> None:
    bench = make_bench(box=0.0, obj=0.0, cls=0.0, seg=2.0)
    (images,) = list(bench.side((0, 1)).in_order())
    choice = bench.choice(images)
    assert (choice.weights > 0).any()
    torch.testing.assert_close(bench.loss(images, choice), bench.segmenting(images, choice))
    once = make_bench(box=0.0, obj=0.0, cls=0.0, seg=1.0)
    torch.testing.assert_close(bench.loss(images, choice), 2 * once.loss(images, choice))
