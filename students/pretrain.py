"""Pretrains the tiny Mask2Former on the whole objects of the pretrain world, without classes; resumable.

The paper's students start from a backbone that has seen ImageNet; the tiny one from this: it knows what an object is.

python -m students.pretrain --workdir W
python -m students.pretrain --workdir W --evaluate   # one JSON line on unseen scenes of the demo world
python -m students.pretrain --workdir W --export     # fp16 weights and their facts, into teachers/tiny/weights
"""

import sys
from typing import TypeVar

import hotcoco
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import Mask2FormerForUniversalSegmentation

from pipeline.data.masks import encode
from pipeline.data.records import RLE, Instance
from pipeline.toyworld.scene import Scene, render
from pipeline.toyworld.world import SIZE
from students.architecture import build
from students.criterion import mask2former_loss
from students.inference import to_instances
from students.layers import predictions
from students.targets import Batch, Example, collate
from students.window import canvas_image, canvas_masks, fitted_window, random_window
from teachers.tiny import listing
from teachers.tiny.command import EVALUATION_SEED, WORLD, export, keep, kept, parse, say, training_scenes
from teachers.tiny.recipe import Recipe, step_rng, train
from teachers.tiny.scenes import LEVELS, CachedScene

PRETRAIN = "pretrain"
OBJECT = 1  # the only class
SCALE = (0.7, 2.0)  # of the large-scale jitter
LEAST_PIXELS = 20  # of a target on its canvas
MIN_OBJECT_PIXELS = 100  # of the evaluation; smaller objects are neither asked for nor wrong
EVALUATION_SCENES = 100

Value = TypeVar("Value", np.bool_, np.uint8)


def example(scene: CachedScene, rng: np.random.Generator) -> Example:
    """A scene scaled, moved, mirrored, turned and in other colours; clutter is ground of which nothing is said."""
    window = random_window((SIZE, SIZE), size=SIZE, scale=SCALE, rng=rng)
    pixels = canvas_image(_recoloured(scene.image, rng), window, SIZE)
    whole, clutter = (
        canvas_masks([scene.mask(int(row)) for row in np.flatnonzero(scene.level == level)], window, SIZE)
        for level in (LEVELS.index("whole"), LEVELS.index("clutter"))
    )
    seen = whole[whole.sum((1, 2)) >= LEAST_PIXELS]
    ignore = (clutter.any(0) | whole.any(0)) & ~seen.any(0)
    turns = int(rng.integers(4))
    return Example(
        _turned(pixels, turns, (0, 1)),
        _turned(seen, turns, (1, 2)),
        np.zeros(len(seen), np.int64),
        _turned(ignore, turns, (0, 1)),
        np.ones(len(seen), np.float32),
    )


def _recoloured(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    lit = image[..., rng.permutation(3)].astype(np.float32) * rng.uniform(0.7, 1.3) + rng.uniform(-25, 25)
    return lit.clip(0, 255).astype(np.uint8)


def _turned(array: npt.NDArray[Value], turns: int, axes: tuple[int, int]) -> npt.NDArray[Value]:
    return np.ascontiguousarray(np.rot90(array, turns, axes))


def evaluate(model: Mask2FormerForUniversalSegmentation, *, scenes: int) -> dict[str, float]:
    """Mask AP50 and AP, without classes, on objects of at least 100 px of unseen scenes of the demo world."""
    nn.Module.eval(model)
    rendered = [render(WORLD, EVALUATION_SEED, index) for index in range(scenes)]
    evaluator = hotcoco.COCOeval(*_as_coco(rendered, [_found(model, scene) for scene in rendered]), "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    precision = np.asarray((evaluator.eval or {})["precision"], np.float64)[..., 0, -1]
    return {
        "scenes": scenes,
        "AP50": round(float(precision[0][precision[0] >= 0].mean()), 4),
        "AP": round(float(precision[precision >= 0].mean()), 4),
    }


@torch.no_grad()
def _found(model: Mask2FormerForUniversalSegmentation, scene: Scene) -> list[Instance]:
    outputs = predictions(model, torch.from_numpy(scene.image.copy())[None], bf16=False)
    window = fitted_window((SIZE, SIZE), SIZE)
    logits = outputs.class_logits[-1][0], outputs.mask_logits[-1][0]
    return to_instances(*logits, window=window, size=SIZE, class_ids=[OBJECT])


def _as_coco(scenes: list[Scene], found: list[list[Instance]]) -> tuple[hotcoco.COCO, hotcoco.COCO]:
    truth: list[dict[str, object]] = []
    results: list[dict[str, object]] = []
    for index, (scene, instances) in enumerate(zip(scenes, found, strict=True), start=1):
        shared = {"image_id": index, "category_id": OBJECT}
        for thing in (o for o in scene.objects if o.level in ("whole", "clutter")):
            area = int(thing.mask.sum())
            ignored = int(area < MIN_OBJECT_PIXELS or thing.level == "clutter")
            rle = _segmentation(encode(thing.mask))
            truth.append(
                {**shared, "id": len(truth) + 1, "segmentation": rle, "area": area, "iscrowd": ignored}
            )
        results += [
            {**shared, "segmentation": _segmentation(one.rle), "score": one.score or 0.0}
            for one in instances
            if one.rle is not None
        ]
    images = [{"id": index + 1, "width": SIZE, "height": SIZE} for index in range(len(scenes))]
    categories = [{"id": OBJECT, "name": "object"}]
    gt = hotcoco.COCO({"images": images, "annotations": truth, "categories": categories})
    return gt, gt.load_res(results)


def _segmentation(rle: RLE) -> dict[str, object]:
    return {"size": list(rle.size), "counts": rle.counts}


def main() -> int:
    options = parse(__doc__, steps=8000, batch=8, lr=1e-3)
    torch.manual_seed(options.seed)
    model = build("tiny", 1)
    if options.evaluate is not None or options.export is not None:
        model.load_state_dict(kept(options))
        score = evaluate(model, scenes=options.evaluate or EVALUATION_SCENES)
        say(score)
        if options.export is not None:
            export(options, listing.STUDENT, score)
        return 0
    scenes = training_scenes(options, PRETRAIN)
    recipe = Recipe(
        steps=options.steps, lr=options.lr, seed=options.seed, warmup=100, ema=0.998, muon=options.muon
    )

    def batch(step: int) -> Batch:
        rng = step_rng(options.seed, step)
        return collate([example(scenes[int(i)], rng) for i in rng.integers(len(scenes), size=options.batch)])

    def loss_fn(step: int) -> Tensor:
        drawn = batch(step)
        outputs = predictions(model, drawn.pixels, bf16=options.bf16)
        return mask2former_loss(outputs, drawn, model.config)

    keep(options, train(model, loss_fn=loss_fn, recipe=recipe, workdir=options.workdir), needs={})
    return 0


if __name__ == "__main__":
    sys.exit(main())
