r"""Pretrains the tiny SAM in stages, each resumable. The first and the last of the embedded weights' four:

python -m teachers.tiny.train_sam --workdir W1 --count 5000 --steps 6800 --lr 0.001 --muon 3 --seed 0 --bf16 \
    --fine-from 1200 --loss-size 64
python -m teachers.tiny.train_sam --workdir W4 --count 5000 --steps 7000 --lr 0.0005 --muon 3 --seed 3 --bf16 \
    --worlds pretrain demo demo --fine-from 0 --points 0.55 --corrected 0.6 --start W3/weights.safetensors

Those between, and how long all took: weights/weights.json. After any of them:

python -m teachers.tiny.train_sam --workdir W4 --evaluate   # one JSON line, three seeds of unseen scenes
python -m teachers.tiny.train_sam --evaluate                # the same of the embedded weights
python -m teachers.tiny.train_sam --workdir W4 --export     # fp16 weights and their facts, into weights/
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from textwrap import shorten

import torch
from segment_anything.modeling import Sam
from torch import nn
from torch.utils.data import ConcatDataset

from pipeline.data.errors import BadInput
from teachers.sam.attention import use_fast_attention
from teachers.tiny import listing
from teachers.tiny.affinity import Affinity
from teachers.tiny.command import (
    Options,
    go_on,
    keep,
    parse,
    parser,
    positive,
    run,
    share,
    training_worlds,
    whole,
)
from teachers.tiny.evaluate_sam import evaluate
from teachers.tiny.recipe import Recipe, Trained, train
from teachers.tiny.sam import PROMPT_WIDTH, build_tiny_sam
from teachers.tiny.sam_batches import CORRECTED_SHARE, POINT_SHARE, SCENES_PER_STEP, StepBatch, Steps
from teachers.tiny.sam_objective import LOSS_SIZE, step_loss
from teachers.tiny.scenes import CachedScene
from teachers.tiny.scores import score_weights

EVALUATION_SCENES = 100  # of each seed


@dataclass(frozen=True)
class SamOptions(Options):
    """The options of all trainings, and those of this one. BadInput for a restart that never comes."""

    worlds: list[str] = field(default_factory=list)
    restart: list[int] = field(default_factory=list)
    fine_from: int | None = None
    loss_size: int = LOSS_SIZE
    points: float = POINT_SHARE
    corrected: float = CORRECTED_SHARE
    workers: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        late = [step for step in self.restart if step >= self.steps]
        if late:
            raise BadInput(f"--restart {late[0]}: expected a step below --steps {self.steps}")


def main() -> int:
    options = parse(_parser(), SamOptions)
    if not options.scores:
        keep(options, _train(options), needs={})
        return 0
    sam = build_tiny_sam()
    scenes = options.evaluate or EVALUATION_SCENES
    score_weights(
        sam, options, name=listing.SAM, evaluate=lambda seed: evaluate(sam, scenes=scenes, seed=seed)
    )
    return 0


class Learner(nn.Module):
    """The SAM and the head of the loss that helps it learn; the head starts anew in every stage."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam, self.affinity = sam, Affinity(PROMPT_WIDTH)


def scenes_of(options: SamOptions) -> ConcatDataset[CachedScene]:
    """Those of all worlds, one world's after the other's; a world that is given twice is drawn from twice as often."""
    return ConcatDataset(training_worlds(options, options.worlds))


def _train(options: SamOptions) -> Trained:
    torch.manual_seed(options.seed)
    sam = build_tiny_sam()
    if options.start is not None:
        go_on(sam, options.start)
    use_fast_attention(sam.image_encoder)
    learner = Learner(sam).to(options.device)
    scenes = scenes_of(options)
    recipe = Recipe(
        steps=options.steps,
        lr=options.lr,
        seed=options.seed,
        warmup=150,
        restarts=tuple(options.restart),
        ema=0.998,
        bf16=options.bf16,
        muon=options.muon,
    )

    steps = Steps(scenes, options.seed, options.fine_from, options.batch, options.points, options.corrected)
    ahead: list[Iterator[StepBatch]] = []

    def loss_fn(step: int) -> dict[str, torch.Tensor]:
        if not ahead:  # the first step is known only now: a training goes on where it was stopped
            ahead.append(steps.since(step, options.steps, workers=options.workers))
        batch = next(ahead[0]).to(torch.device(options.device))
        return step_loss(sam, batch, affinity=learner.affinity, fine=steps.fine(step), size=options.loss_size)

    trained = train(learner, loss_fn=loss_fn, recipe=recipe, workdir=options.workdir, data=options.data)
    own = {
        name.removeprefix("sam."): value.cpu()
        for name, value in trained.state.items()
        if name.startswith("sam.")
    }
    return replace(trained, state=own)


def _parser() -> argparse.ArgumentParser:
    found = parser(
        __doc__,
        steps=2400,
        batch=SCENES_PER_STEP,
        lr=1e-3,
        scenes=EVALUATION_SCENES,
        start="the stage before",
    )
    found.add_argument("--worlds", nargs="+", default=["pretrain"], choices=("pretrain", "demo"))
    found.add_argument(
        "--restart", type=whole, nargs="*", default=[], metavar="STEP", help="begin the rate anew there"
    )
    found.add_argument(
        "--fine-from", type=whole, metavar="STEP", help="from here on small masks count in full"
    )
    found.add_argument(
        "--loss-size", type=positive, default=LOSS_SIZE, help="side of the masks that are compared"
    )
    found.add_argument("--points", type=share, default=POINT_SHARE, help="share of prompts without a box")
    found.add_argument(
        "--corrected",
        type=share,
        default=CORRECTED_SHARE,
        help="share of points and boxes that get more clicks",
    )
    found.add_argument(
        "--workers", type=whole, default=0, help="processes that draw batches ahead, for a GPU"
    )
    found.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    return found


def device(text: str) -> str:
    """An option's type: where torch can compute here."""
    try:
        torch.zeros(1, device=text).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        said = shorten(str(error), 150)
        raise argparse.ArgumentTypeError(
            f"expected one that torch has here, got {text!r} ({said})"
        ) from error
    return text


if __name__ == "__main__":
    run(main)
