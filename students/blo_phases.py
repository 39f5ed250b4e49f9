"""What BLO-Inst's phases are in each of its four orders (Liao et al. 2026, sec. 3.3 and its ablations).

The detector alone on all images first, in every order. Then `first` and `second`: SAM's part learns from one half of
the images, the detector from the other; `joint`: both from both halves at once; `separate`: the detector alone, for as
many steps, and then SAM's part on the boxes of the frozen detector; without a weight of L_seg the detector alone.

All orders give each level as many updates, of as many images each; in `joint` each update is of both batches. In a team
of processes each one's losses are over the number of its own objects, and gradients are averaged: near the step of one
process, not the same.

Legend: theta SAM's trained part, phi the detector, D1 and D2 the halves.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from students import blo_settings as numbers
from students.blo_bench import Bench
from students.blo_judge import judge
from students.blo_objective import Images
from teachers.bilevel import bilevel_step, joint_step
from teachers.fit_detector import Seen, Shares, detecting, detector_phase
from teachers.phases import Phase, Watch, mean_loss
from teachers.pool import threads


def phases(bench: Bench) -> list[Phase]:
    """In their order."""
    own = bench.settings
    found = [_pretraining(bench)] if own.pretrain_epochs else []
    if not bench.steps:
        return found
    return [*found, *(_separate(bench) if own.order == "separate" else [_aligned(bench)])]


def _pretraining(bench: Bench) -> Phase:
    """The detector alone, on parts of all images."""
    own = bench.settings
    return detector_phase(
        bench.pair.detector,
        bench.jittered,
        _shares(bench),
        epochs=own.pretrain_epochs,
        lr=own.pretrain_lr,
        device=bench.device,
    )


def _separate(bench: Bench) -> list[Phase]:
    """The detector for as many steps as theta, then theta on the boxes of the frozen detector; both on all images.

    Without a weight of L_seg theta has nothing to learn, and there is no second phase.
    """
    lower, upper = bench.levels()
    side = bench.side(bench.everything)
    epoch, steps = bench.aligned_epoch, bench.steps

    def segment(images: Images) -> tuple[float]:
        loss = bench.segmenting(images, bench.choice(images))
        lower.apply(lower.gradient(loss))
        return (mean_loss(loss, bench.team),)

    def draw(first: int, last: int) -> Iterator[Images]:
        return side.batches(first, last, threads=threads())

    def seen(first: int, last: int) -> Iterator[Seen]:
        return ((images.pixels, images.targets) for images in draw(first, last))

    rate = _falling(steps, epoch)
    step = detecting(bench.pair.detector, upper, _shares(bench), bench.team)
    alone = Phase("alone", steps, [upper.optimizer], seen, step, rate, epoch)
    if not bench.settings.seg:
        return [alone]
    return [alone, Phase("segmenter", steps, [lower.optimizer], draw, segment, rate, epoch, _judging(bench))]


def _aligned(bench: Bench) -> Phase:
    """Theta on D1 and phi on D2, or both on both."""
    lower, upper = bench.levels()
    epoch, steps = bench.aligned_epoch, bench.steps
    order = bench.settings.order
    # What `first` asks of D1 goes no further than theta; what `second` asks must reach phi too.
    of_theta = {"first": bench.segmenting, "second": bench.coupling}.get(order, bench.loss)

    def step(batch: tuple[Images, Images]) -> tuple[float, float]:
        first, second = batch
        choices = bench.choice(first), bench.choice(second)

        def lower_loss() -> Tensor:
            return of_theta(first, choices[0])

        def upper_loss() -> Tensor:
            return bench.loss(second, choices[1])

        if order == "first" or order == "second":
            found = bilevel_step(lower, upper, lower_loss, upper_loss, order=order)
        else:
            found = joint_step(lower, upper, lower_loss, upper_loss)
        # All of L on D2, in each order; of D1 L_seg alone in `first` and `second`, as theta knows no more.
        upper_and_lower = torch.tensor([found.upper, found.lower], device=bench.device)
        return mean_loss(upper_and_lower[0], bench.team), mean_loss(upper_and_lower[1], bench.team)

    optimizers = [lower.optimizer, upper.optimizer]
    return Phase(
        "aligned",
        steps,
        optimizers,
        bench.pairs,
        step,
        _falling(steps, epoch),
        epoch,
        _judging(bench),
        "SAM's half",
    )


def _judging(bench: Bench) -> Callable[[int, Watch], bool]:
    """Note how good the pair is on images of D2; False once it was not better for `patience` epochs.

    While no object is found there is nothing to compare, and the training goes on.
    """

    def go_on(epoch: int, watch: Watch) -> bool:
        judged = judge(bench, bench.halves.upper, watch)
        if judged.found:
            bench.pair.note(judged.missed, epoch)
        best, patience = int(bench.pair.best_epoch), bench.settings.patience
        return not patience or best < 0 or epoch - best < patience

    return go_on


def _shares(bench: Bench) -> Shares:
    own = bench.settings
    return Shares(own.box, own.obj, own.cls)


def _falling(steps: int, epoch: int) -> Callable[[int], float]:
    """From 1 in the first epoch to a tenth in the last."""
    last = max(-(-steps // epoch) - 1, 1)
    return lambda step: 1 - (1 - numbers.LAST_RATE) * min(step // epoch / last, 1)
