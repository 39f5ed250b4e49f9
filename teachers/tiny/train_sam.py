"""Pretrains the tiny SAM on the pretrain world, resumable (time: weights/weights.json).

python -m teachers.tiny.train_sam --workdir W --steps 2400
python -m teachers.tiny.train_sam --workdir W --evaluate        # one JSON line on unseen scenes of the demo world
python -m teachers.tiny.train_sam --workdir W --export          # fp16 weights and their facts, into weights/
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from segment_anything.modeling import Sam

from pipeline.toyworld.scene import Scene, render
from teachers.tiny import listing
from teachers.tiny.recipe import Recipe, Trained, step_rng, train
from teachers.tiny.sam import build_tiny_sam
from teachers.tiny.sam_objective import decode, make_batch, sparse_prompts, step_loss
from teachers.tiny.scenes import SceneCache
from teachers.tiny.weights import WeightFacts, save_weights

TRAIN_SEED = 1_000_000  # scenes of these seeds are never those of a demo, a study or a report
EVALUATION_SEED = 2_000_000
SCENES = 5000
EVALUATION_SCENES = 100
MIN_OBJECT_PIXELS = 100


def main() -> int:
    options = _options()
    kept = options.workdir / "weights.safetensors"
    if options.evaluate or options.export:
        sam = build_tiny_sam()
        sam.load_state_dict(load_file(kept))
        score = evaluate(sam, scenes=options.evaluate or EVALUATION_SCENES)
        sys.stdout.write(json.dumps(score) + "\n")
        if options.export:
            facts = json.loads(kept.with_suffix(".json").read_text())
            save_weights(listing.SAM, sam.state_dict(), WeightFacts(**facts, score=score, needs={}))
        return 0
    trained = _train(options)
    save_file(trained.state, kept)
    flags = f"--steps {options.steps} --lr {options.lr:g} --seed {options.seed}" + " --bf16" * options.bf16
    if options.restart:
        flags += f" --restart {' '.join(map(str, options.restart))}"
    if options.fine_from is not None:
        flags += f" --fine-from {options.fine_from}"
    facts = {
        "command": f"python -m teachers.tiny.train_sam --workdir W {flags}",
        "seed": options.seed,
        "steps": trained.steps,
        "minutes": round(trained.seconds / 60, 1),
    }
    kept.with_suffix(".json").write_text(json.dumps(facts))
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


def _train(options: argparse.Namespace) -> Trained:
    torch.manual_seed(options.seed)
    sam = build_tiny_sam()
    cache = SceneCache(options.workdir / "scenes", world="pretrain", seed=TRAIN_SEED, count=SCENES)
    recipe = Recipe(
        steps=options.steps,
        lr=options.lr,
        seed=options.seed,
        warmup=150,
        restarts=tuple(options.restart),
        ema=0.998,
        bf16=options.bf16,
    )

    def loss_fn(step: int) -> dict[str, torch.Tensor]:
        fine = options.fine_from is not None and step >= options.fine_from
        batch = make_batch(sam, cache, seed=options.seed, step=step, fine=fine)
        return step_loss(sam, batch, fine=fine)

    return train(sam, loss_fn=loss_fn, recipe=recipe, workdir=options.workdir)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--workdir", type=Path, required=True, help="checkpoints, scenes and log; resumed if there"
    )
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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true", help="autocast the step to bfloat16")
    parser.add_argument("--evaluate", type=int, nargs="?", const=EVALUATION_SCENES, metavar="SCENES")
    parser.add_argument("--export", action="store_true")
    return parser.parse_args()


@torch.no_grad()
def evaluate(sam: Sam, *, scenes: int) -> dict[str, float]:
    """Mean IoU over objects of at least 100 px of unseen demo scenes: box, one point (output 0 and best of 3).

    `iou_correlation` is that of predicted and true IoU over the point's three outputs.
    """
    sam.eval()
    rows = [
        row
        for index in range(scenes)
        for row in _evaluate_scene(sam, render("demo", EVALUATION_SEED, index), index)
    ]
    table = np.array(rows)
    correlation = np.corrcoef(table[:, 2:5].ravel(), table[:, 5:8].ravel())[0, 1]
    return {
        "objects": len(table),
        "box": round(float(table[:, 0].mean()), 4),
        "point": round(float(table[:, 1].mean()), 4),
        "point_best_of_3": round(float(table[:, 2:5].max(1).mean()), 4),
        "iou_correlation": round(float(correlation), 4),
    }


def _evaluate_scene(sam: Sam, scene: Scene, index: int) -> list[list[float]]:
    objects = [o for o in scene.objects if o.class_id is not None and o.mask.sum() >= MIN_OBJECT_PIXELS]
    if not objects:
        return []
    rng = step_rng(EVALUATION_SEED, index)
    pixels = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float()
    embedding = sam.image_encoder((pixels - sam.pixel_mean) / sam.pixel_std)
    masks = torch.from_numpy(np.stack([o.mask for o in objects]))
    picks = [np.argwhere(o.mask)[rng.integers(int(o.mask.sum()))][::-1] + 0.5 for o in objects]
    points = torch.from_numpy(np.stack(picks)).float()[:, None]
    boxes = torch.tensor([o.box_xyxy for o in objects], dtype=torch.float32)
    ious, quality = [], torch.empty(0)
    for box_on in (True, False):
        labels = torch.full((len(objects), 1), -1 if box_on else 1)
        sparse = sparse_prompts(sam, points, labels, boxes, torch.full((len(objects),), box_on))
        logits, quality = decode(sam, embedding, sparse)
        hard = F.interpolate(logits, masks.shape[-1], mode="bilinear", align_corners=False) > 0
        both, either = (hard & masks[:, None]).sum((2, 3)), (hard | masks[:, None]).sum((2, 3))
        ious.append((both / either).tolist())
    return [[b[0], p[0], *p[1:], *q[1:]] for b, p, q in zip(*ious, quality.tolist(), strict=True)]


if __name__ == "__main__":
    sys.exit(main())
