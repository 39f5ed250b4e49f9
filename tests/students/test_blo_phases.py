"""What the phases of each order do: which part a step changes, on which half and at what rate."""

import pytest
import torch
from small_bench import SPLIT, MakeBench, States, changed, weights
from small_blo import places

from students import blo_bench, blo_phases
from students.blo_bench import Bench
from students.blo_objective import Images, choose
from students.blo_phases import phases
from students.blo_settings import LAST_RATE
from teachers.bilevel import hypergradient
from teachers.phases import Phase


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
        ({"steps": 1, "order": "separate"}, [("detector", 3), ("alone", 1), ("segmenter", 1)]),
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
        losses = [loss for batch in phase.draw(0, 2) for loss in phase.step(batch)]
        assert len(losses) == (4 if phase.name == "aligned" else 2)  # of both levels
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
        losses = [phase.step(batch)[0] for _ in range(8)]
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


@pytest.mark.parametrize("order", ["joint", "separate", "first", "second"])
def test_a_batch_without_objects_or_boxes_is_no_trouble(make_bench: MakeBench, order: str) -> None:
    """Pictures without anything, and a confidence that no box has."""
    for settings in ({"empty": (0, 1, 2, 3, 4)}, {"confidence": 1.0}):
        bench = make_bench(order=order, **settings)
        for phase in phases(bench):
            assert all(0 <= loss < 20 for batch in phase.draw(0, 2) for loss in phase.step(batch))
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


@pytest.mark.parametrize(("order", "part"), [("first", "seg"), ("second", "seg"), ("joint", "all")])
def test_both_levels_tell_what_they_learn_by(make_bench: MakeBench, order: str, part: str) -> None:
    """On the halves they learn from, before the step; where L_seg alone is known to theta, it alone is told."""
    bench = make_bench(order=order, pretrain_epochs=0)
    (phase,) = phases(bench)
    (batch,) = phase.draw(0, 1)
    own = batch[0], bench.choice(batch[0])
    expected = bench.segmenting(*own) if part == "seg" else bench.loss(*own)
    upper, lower = phase.step(batch)
    assert lower == pytest.approx(float(expected.detach()), rel=1e-5)
    assert upper != lower


def test_what_second_asks_of_d1_has_all_of_the_implicit_term(make_bench: MakeBench) -> None:
    """The detector's own losses know no theta: without them the hypergradient is the same, but for their rounding."""
    bench = make_bench(order="second", pretrain_epochs=0, lr_sam=1e-2)
    lower, upper = bench.levels()
    (first, second), choices = next(bench.pairs(0, 1)), []
    choices = [bench.choice(first), bench.choice(second)]
    found = [
        hypergradient(
            lower, upper, lambda ask=ask: ask(first, choices[0]), lambda: bench.loss(second, choices[1])
        )
        for ask in (bench.coupling, bench.loss)
    ]
    less, more = (torch.cat([part.flatten() for part in one.implicit]) for one in found)
    assert more.norm() > 0
    assert (less - more).norm() < 0.05 * more.norm()
