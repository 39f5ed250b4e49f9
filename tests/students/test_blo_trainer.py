"""The loop over phases: what each is asked, when it ends, and that a broken one goes on to the same bits."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
import torch
from little_pictures import MakeContext
from small_bench import new_pair
from torch import nn

from pipeline.data.errors import BadInput
from pipeline.engine.stage import Stopped, TrainContext
from pipeline.engine.states import states
from students.blo_pair import Pair
from teachers.checkpoint import CHECKPOINT, Progress
from teachers.phases import Phase, Watch, run_phases


@dataclass
class Lesson:
    """Two phases on a pair: the first moves the detector, the second both; `heard` is all that they were asked."""

    pair: Pair = field(default_factory=new_pair)
    heard: list[tuple[str, int]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    judge: Callable[[int], bool] = lambda _: True
    losses: Callable[[int], float] = lambda step: 1.0 / (step + 1)
    lower: Callable[[int], float] | None = None

    def phase(self, name: str, steps: int, part: nn.Module, *, judged: bool) -> Phase:
        optimizer = torch.optim.SGD(part.parameters(), lr=0.5, momentum=0.9)

        def draw(first: int, last: int) -> Iterator[int]:
            yield from range(first, last)

        def step(number: int) -> tuple[float, ...]:
            self.heard.append((name, number))
            self.rates.append(optimizer.param_groups[0]["lr"])
            for parameter in part.parameters():
                parameter.grad = torch.full_like(parameter, 0.1 * (number + 1))
            optimizer.step()
            optimizer.zero_grad()
            found = (self.losses(number),)
            return (*found, self.lower(number)) if self.lower and judged else found

        def judge(epoch: int, watch: Watch) -> bool:
            watch(0, 2)
            watch(1, 2)
            self.heard.append(("judge", epoch))
            return self.judge(epoch)

        rate = (lambda number: 1 / (number + 1)) if judged else lambda _: 1.0
        asked = judge if judged else lambda *_: True
        return Phase(name, steps, [optimizer], draw, step, rate, 2, asked, "SAM's half")

    def phases(self) -> list[Phase]:
        # The pair's best weights take no gradient and must not be moved.
        both = nn.ModuleList([self.pair.detector, self.pair.sam])
        return [
            self.phase("first", 3, self.pair.detector, judged=False),
            self.phase("second", 5, both, judged=True),
        ]

    def run(self, context: TrainContext, *, recipe: str = "r", every: int = 2) -> list[Progress]:
        return run_phases(self.phases(), self.pair, context, recipe=recipe, every=every)


STEPS = [("first", 0), ("first", 1), ("first", 2)]


JUDGED = [
    *(("judge", 0), ("second", 0), ("second", 1)),
    *(("judge", 1), ("second", 2), ("second", 3)),
    *(("judge", 2), ("second", 4), ("judge", 3)),
]


def test_phases_come_one_after_the_other_and_are_judged_each_epoch(make_context: MakeContext) -> None:
    lesson, told = Lesson(), []
    context = replace(make_context("run"), progress=lambda *said: told.append(said))
    found = lesson.run(context)
    assert lesson.heard == STEPS + JUDGED
    assert [progress.losses for progress in found] == [[1, 1 / 2, 1 / 3], [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]]
    assert lesson.rates[:3] == [0.5] * 3
    assert lesson.rates[3:] == [0.5 / (step + 1) for step in range(5)]
    steps = [(done, whole) for done, whole, note in told if note.startswith("loss")]
    assert steps == [(step, 8) for step in range(1, 9)]
    assert told[1][2] == "loss 0.500"
    assert told[3:5] == [(3, 8, f"judging, {done} of 2 images") for done in (0, 1)]


def test_a_judge_ends_a_phase(make_context: MakeContext) -> None:
    lesson = Lesson(judge=lambda epoch: epoch < 1)
    found = lesson.run(make_context("run"))
    assert lesson.heard == STEPS + JUDGED[:4]
    assert found[1].step == 2
    again = Lesson(judge=lambda epoch: epoch < 1)
    assert [progress.losses for progress in again.run(make_context("run"))] == [p.losses for p in found]
    assert again.heard == [("judge", 1)]


def test_nothing_is_done_twice_in_a_training_that_is_over(make_context: MakeContext) -> None:
    whole = Lesson()
    whole.run(make_context("run"))
    again = Lesson()
    again.run(make_context("run"))
    assert again.heard == [("judge", 3)]
    assert_same(again.pair, whole.pair)


def assert_same(one: nn.Module, other: nn.Module) -> None:
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("after", range(1, 9))
def test_the_same_bits_after_a_stop_at_any_step(make_context: MakeContext, after: int) -> None:
    whole = Lesson()
    whole.run(make_context("whole"))
    broken = Lesson()
    if after < 8:
        with pytest.raises(Stopped, match=r"stopped after step \d of [35] of (first|second)"):
            broken.run(make_context("parts", stop_after=after))
    other = Lesson()
    found = other.run(make_context("parts"))
    assert [progress.step for progress in found] == [3, 5]
    assert_same(other.pair, whole.pair)
    done = [step for step in broken.heard + other.heard if step[0] != "judge"]
    assert done == [step for step in whole.heard if step[0] != "judge"]


def test_a_killed_training_goes_on_from_its_last_saved_state(make_context: MakeContext) -> None:
    class Killed(Exception):
        """Stands for a kill: no chance to save."""

    def kill(step: int, _: int, note: str) -> None:
        if step == 6 and note.startswith("loss"):
            raise Killed(note)

    whole, killed, other = Lesson(), Lesson(), Lesson()
    whole.run(make_context("whole"))
    with pytest.raises(Killed):
        killed.run(replace(make_context("parts"), progress=kill))
    other.run(make_context("parts"), every=1)  # another rhythm changes nothing
    assert [name for name, _ in other.heard].count("first") == 0
    assert ("second", 2) in other.heard
    assert ("second", 1) not in other.heard
    assert_same(other.pair, whole.pair)


@pytest.mark.parametrize(("every", "saved"), [(1, 3), (2, 2), (100, 1)])
def test_states_are_saved_as_often_as_asked(
    make_context: MakeContext, every: int, saved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    save = "teachers.phases.save_checkpoint"
    monkeypatch.setattr(save, lambda *_, progress, **__: steps.append(progress.step))
    context = make_context("run")
    run_phases(Lesson().phases()[:1], new_pair(), context, recipe="r", every=every)
    assert len(set(steps)) == saved
    assert steps[-1] == 3
    assert states(context.workdir / "first", CHECKPOINT) == []


def test_states_of_other_settings_are_refused(make_context: MakeContext) -> None:
    Lesson().run(make_context("run"))
    with pytest.raises(BadInput, match="is of recipe r, this training is other"):
        Lesson().run(make_context("run"), recipe="other")


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_told(make_context: MakeContext, loss: float) -> None:
    lesson = Lesson(losses=lambda step: loss if step == 1 else 1.0)
    with pytest.raises(FloatingPointError, match=f"first: loss is {loss} at step 1; a lower learning rate"):
        lesson.run(make_context("run"))


def test_a_gradient_that_is_not_finite_is_told_with_its_step(make_context: MakeContext) -> None:
    def fails(step: int) -> float:
        if step == 2:
            raise FloatingPointError("a gradient is not finite")
        return 1.0

    with pytest.raises(FloatingPointError, match="first: step 2: a gradient is not finite"):
        Lesson(losses=fails).run(make_context("run"))


def test_a_training_that_is_over_is_not_saved_again(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    Lesson().run(make_context("run"))
    saved: list[int] = []
    save = "teachers.phases.save_checkpoint"
    monkeypatch.setattr(save, lambda *_, progress, **__: saved.append(progress.step))
    Lesson().run(make_context("run"))
    assert saved == []


def test_the_best_epoch_outlives_a_stop(make_context: MakeContext) -> None:
    def noting(lesson: Lesson) -> Callable[[int], bool]:
        def judge(epoch: int) -> bool:
            lesson.pair.note([0.9, 0.1, 0.5, 0.6][epoch], epoch)
            return True

        return judge

    first = Lesson()
    first.judge = noting(first)
    with pytest.raises(Stopped):
        first.run(make_context("run", stop_after=7))
    second = Lesson()
    second.judge = noting(second)
    second.run(make_context("run"))
    assert int(second.pair.best_epoch) == 1
    assert torch.equal(second.pair.best_detector.weight, first.pair.best_detector.weight)


def test_the_lower_levels_losses_are_kept_too(make_context: MakeContext) -> None:
    """And shown; over a stop as well."""
    told: list[str] = []
    context = make_context("run", stop_after=5)
    show = context.progress

    def progress(done: int, whole: int, note: str) -> None:
        told.append(note)
        show(done, whole, note)

    with pytest.raises(Stopped):
        Lesson(lower=lambda step: 10.0 + step).run(replace(context, progress=progress))
    assert told[-1] == "loss 0.500, of SAM's half 11.000"
    first, second = Lesson(lower=lambda step: 10.0 + step).run(make_context("run"))
    assert first.lower == []
    assert second.lower == [10, 11, 12, 13, 14]
    assert len(second.losses) == 5


def test_a_loss_of_the_lower_level_that_is_not_finite_is_told(make_context: MakeContext) -> None:
    lesson = Lesson(lower=lambda step: float("nan") if step == 2 else 1.0)
    with pytest.raises(FloatingPointError, match="second: loss is nan at step 2"):
        lesson.run(make_context("run"))


@pytest.mark.parametrize("epoch", [0, 1, 3])
def test_a_stop_while_it_is_judged_leaves_what_was_done(make_context: MakeContext, epoch: int) -> None:
    """Though no state was due: the epoch is judged again, no step is done again, and the bits are the same."""
    whole, broken, other = Lesson(), Lesson(), Lesson()
    whole.run(make_context("whole"))
    context, looks = make_context("parts"), []

    def progress(_: int, __: int, note: str) -> None:
        if note == "judging, 1 of 2 images":
            looks.append(note)

    stopping = replace(context, progress=progress, should_stop=lambda: len(looks) == epoch + 1)
    done = min(2 * epoch, 5)
    with pytest.raises(Stopped, match=f"stopped after step {done} of 5 of second"):
        broken.run(stopping, every=100)
    assert ("judge", epoch) not in broken.heard
    other.run(context)
    steps = [one for one in broken.heard + other.heard if one[0] != "judge"]
    assert steps == [one for one in whole.heard if one[0] != "judge"]
    assert ("judge", epoch) in other.heard
    assert_same(other.pair, whole.pair)


def test_what_is_judged_is_not_in_the_time_of_the_steps(make_context: MakeContext) -> None:
    def slow(_: int) -> bool:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        return True

    _, progress = Lesson(judge=slow).run(make_context("run"))
    assert 0 < progress.core_seconds < 0.3
    busy, quick = Lesson(losses=lambda step: float(slow(step))), Lesson()
    counted = [lesson.run(make_context(name))[1].core_seconds for name, lesson in (("a", busy), ("b", quick))]
    assert counted[0] > 5 * 0.3 > counted[1]
