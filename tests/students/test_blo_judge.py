"""How a pair is judged: on which images, when a training ends by it, and that it shows signs of life meanwhile."""

from dataclasses import replace

import pytest
from little_pictures import MakeContext
from small_bench import SPLIT, MakeBench, changed, unwatched, weights
from small_blo import places

from pipeline.engine.stage import Stopped
from students import blo_judge
from students.blo_judge import Judged, implicit_share, judge
from students.blo_objective import UNKNOWN, Images, missed
from students.blo_phases import phases
from teachers.phases import watching
from teachers.targets import labels_of


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
        found.append(phase.judge(epoch, unwatched))
    assert found == goes_on
    assert int(bench.pair.best_epoch) == best
    assert float(bench.pair.best_loss) == pytest.approx(losses[best])
    assert worth.asked == list(SPLIT.upper) * len(losses)


def test_where_nothing_is_ever_found_the_last_weights_are_kept(make_bench: MakeBench, worth: Worth) -> None:
    bench = make_bench(patience=1)
    worth.now = None
    assert all(phases(bench)[-1].judge(epoch, unwatched) for epoch in range(3))
    assert int(bench.pair.best_epoch) == -1
    assert judge(bench, (), unwatched) == Judged(UNKNOWN, 0.0)


def test_an_epoch_is_judged_by_the_detectors_images_with_objects(make_bench: MakeBench) -> None:
    bench = make_bench(empty=(1,))
    phase = phases(bench)[-1]
    assert phase.judge(0, unwatched)
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
    assert phases(make_bench(empty=(1,)))[-1].judge(0, unwatched)
    assert worth.asked == [3]


def test_how_much_of_the_upper_gradient_is_implicit(make_bench: MakeBench) -> None:
    """It grows with the rate of the lower step, is nothing where masks do not count, and nothing is moved by asking."""
    bench = make_bench(order="second", lr_sam=1e-2)
    before = weights(bench)
    share = implicit_share(bench)
    assert 0 < share < 1
    assert not any(changed(*states) for states in zip(before, weights(bench), strict=True))
    assert implicit_share(make_bench(order="second", lr_sam=2e-2)) == pytest.approx(2 * share, rel=0.2)
    assert implicit_share(make_bench(order="second", seg=0)) == 0


def test_each_batch_that_is_judged_is_a_sign_of_life(make_bench: MakeBench) -> None:
    told = []
    judge(make_bench(), SPLIT.upper, lambda *said: told.append(said))
    assert told == [(0, 3), (2, 3)]


def test_what_is_judged_can_be_stopped(make_bench: MakeBench, make_context: MakeContext) -> None:
    """Between two batches: with real weights and 100 images it takes minutes."""
    bench, told = make_bench(), []
    context = replace(
        make_context("run"), progress=lambda *said: told.append(said), should_stop=lambda: len(told) == 2
    )
    with pytest.raises(Stopped, match="stopped while judging a half"):
        judge(bench, SPLIT.upper, watching(context, "judging a half"))
    assert told == [(0, 3, "judging a half"), (2, 3, "judging a half")]


def test_the_highest_score_of_all_images_is_told(make_bench: MakeBench) -> None:
    """Though `confidence` keeps none of them."""
    bench = make_bench(confidence=1.0)
    judged = judge(bench, SPLIT.upper, unwatched)
    assert (judged.missed, judged.found) == (pytest.approx(UNKNOWN), 0)
    each = [bench.choice(images).surest for images in bench.side(SPLIT.upper).in_order()]
    assert judged.surest == pytest.approx(max(each), abs=1e-6)
    assert 0.3 < judged.surest < 1
