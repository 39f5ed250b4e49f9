"""Pretrains the tiny SAM on the pretrain world, resumable (time: weights/weights.json).

python -m teachers.tiny.train_sam --workdir W --steps 2400
python -m teachers.tiny.train_sam --workdir W --evaluate        # one JSON line on unseen scenes of the demo world
python -m teachers.tiny.train_sam --workdir W --export          # fp16 weights and their facts, into weights/
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from segment_anything.modeling import Sam
from torch import nn

from teachers.sam.attention import use_fast_attention
from teachers.tiny import listing
from teachers.tiny.affinity import Affinity
from teachers.tiny.command import TRAIN_SEED
from teachers.tiny.evaluate_sam import evaluate_seeds
from teachers.tiny.recipe import Recipe, Trained, train
from teachers.tiny.sam import PROMPT_WIDTH, build_tiny_sam
from teachers.tiny.sam_batches import SCENES_PER_STEP, StepBatch, Steps
from teachers.tiny.sam_objective import LOSS_SIZE, step_loss
from teachers.tiny.scenes import SceneCache
from teachers.tiny.weights import WeightFacts, save_weights

SCENES = 5000
EVALUATION_SCENES = 100


def main() -> int:
    options = _options()
    torch.set_num_threads(options.threads)
    kept = options.workdir / "weights.safetensors"
    if options.evaluate or options.export:
        sam = build_tiny_sam()
        halves = {name: value.half().float() for name, value in load_file(kept).items()}
        sam.load_state_dict(halves)
        score = evaluate_seeds(sam, scenes=options.evaluate or EVALUATION_SCENES)
        sys.stdout.write(json.dumps(score) + "\n")
        if options.export:
            facts = json.loads(kept.with_suffix(".json").read_text())
            save_weights(listing.SAM, sam.state_dict(), WeightFacts(**facts, score=score, needs={}))
        return 0
    trained = _train(options)
    save_file(trained.state, kept)
    before = json.loads(options.start.with_suffix(".json").read_text()) if options.start else None
    flags = f"--steps {options.steps} --lr {options.lr:g} --seed {options.seed}" + " --bf16" * options.bf16
    if options.batch != SCENES_PER_STEP:
        flags += f" --batch {options.batch}"
    if options.count != SCENES:
        flags += f" --count {options.count}"
    if options.restart:
        flags += f" --restart {' '.join(map(str, options.restart))}"
    if options.fine_from is not None:
        flags += f" --fine-from {options.fine_from}"
    if options.loss_size != LOSS_SIZE:
        flags += f" --loss-size {options.loss_size}"
    if options.muon:
        flags += f" --muon {options.muon:g}"
    facts = {
        "command": f"python -m teachers.tiny.train_sam --workdir W {flags}",
        "seed": options.seed,
        "steps": trained.steps,
        "minutes": round(trained.seconds / 60, 1),
    }
    if before is not None:
        facts["command"] = f"{before['command']} && {facts['command']} --start W/weights.safetensors"
        facts |= {key: before[key] + facts[key] for key in ("steps", "minutes")}
    kept.with_suffix(".json").write_text(json.dumps(facts))
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


class Learner(nn.Module):
    """The SAM and the head of the loss that helps it learn; the head starts anew in every stage."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam, self.affinity = sam, Affinity(PROMPT_WIDTH)


def _train(options: argparse.Namespace) -> Trained:
    torch.manual_seed(options.seed)
    sam = build_tiny_sam()
    if options.start:
        sam.load_state_dict(load_file(options.start))
    use_fast_attention(sam.image_encoder)
    learner = Learner(sam).to(options.device)
    folder = options.scenes or options.workdir / "scenes"
    cache = SceneCache(folder, world="pretrain", seed=TRAIN_SEED, count=options.count)
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

    steps = Steps(cache, options.seed, options.fine_from, options.batch)
    ahead: list[Iterator[StepBatch]] = []

    def loss_fn(step: int) -> dict[str, torch.Tensor]:
        if not ahead:  # the first step is known only now: a training goes on where it was stopped
            ahead.append(steps.since(step, options.steps, workers=options.workers))
        batch = next(ahead[0]).to(torch.device(options.device))
        return step_loss(sam, batch, affinity=learner.affinity, fine=steps.fine(step), size=options.loss_size)

    trained = train(learner, loss_fn=loss_fn, recipe=recipe, workdir=options.workdir)
    own = {
        name.removeprefix("sam."): value.cpu()
        for name, value in trained.state.items()
        if name.startswith("sam.")
    }
    return replace(trained, state=own)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workdir", type=Path, required=True, help="checkpoints, scenes and log; resumed if there"
    )
    parser.add_argument("--scenes", type=Path, help="rendered scenes (default: WORKDIR/scenes)")
    parser.add_argument("--count", type=int, default=SCENES, help="scenes to train on")
    parser.add_argument("--batch", type=int, default=SCENES_PER_STEP, help="scenes a step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0, help="processes that draw batches ahead, for a GPU")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--restart",
        type=int,
        nargs="*",
        default=[],
        metavar="STEP",
        help="begin the learning rate anew there",
    )
    parser.add_argument(
        "--fine-from", type=int, metavar="STEP", help="from here on small masks count in full"
    )
    parser.add_argument(
        "--loss-size", type=int, default=LOSS_SIZE, help="side of the masks that are compared"
    )
    parser.add_argument("--muon", type=float, default=0.0, help="see recipe.py")
    parser.add_argument(
        "--start", type=Path, help="weights.safetensors of the stage before, its .json beside it"
    )
    parser.add_argument("--seed", type=int, default=0, help="of a stage its own: it draws the scenes")
    parser.add_argument("--bf16", action="store_true", help="autocast the step to bfloat16")
    parser.add_argument("--evaluate", type=int, nargs="?", const=EVALUATION_SCENES, metavar="SCENES")
    parser.add_argument("--export", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
