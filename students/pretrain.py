r"""Pretrains the tiny Mask2Former on the masks of both worlds, on the embedded grounder's pyramid; resumable.

The paper's students start from a backbone that has seen what ImageNet names; the tiny one's is the grounder's, which
has seen what the demo world names. All else learns masks without classes, and in such a way that its queries still tell
what they found; in a second stage the backbone does too. A student's class head is its own.

python -m students.pretrain --workdir W1 --count 5000 --steps 12000 --batch 4 --lr 0.0015 --muon 3 --seed 0 --bf16
python -m students.pretrain --workdir W2 --count 5000 --steps 12000 --batch 4 --lr 0.0007 --muon 3 --seed 1 --bf16 \
    --start W1/weights.safetensors
python -m students.pretrain --workdir W2 --evaluate  # one JSON line, three seeds of unseen scenes
python -m students.pretrain --evaluate               # the same of the embedded weights
python -m students.pretrain --workdir W2 --export    # fp16 weights and their facts, into teachers/tiny/weights
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import hotcoco
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Mask2FormerForUniversalSegmentation

from pipeline.data.masks import encode
from pipeline.data.records import RLE, Instance
from pipeline.toyworld.scene import Scene, render
from pipeline.toyworld.world import SIZE
from students.architecture import build
from students.criterion import mask2former_loss, match_layer
from students.inference import to_instances
from students.layers import predictions
from students.pretrain_scenes import NAMES, WorldScenes, example, worlds_seen
from teachers.targets import Batch, Example, collate
from teachers.tiny import listing
from teachers.tiny.command import (
    EVALUATION_SEED,
    WORLD,
    Options,
    go_on,
    keep,
    parse,
    parser,
    run,
)
from teachers.tiny.recipe import Recipe, step_rng, train
from teachers.tiny.scores import score_weights
from teachers.tiny.weights import load_weights
from teachers.window import fitted_window

NAMES_WEIGHT = 2.0
OBJECT = 1  # the one class
MIN_OBJECT_PIXELS = 100  # of the evaluation; smaller objects are neither asked for nor wrong
EVALUATION_SCENES = 100  # of each seed


class Learner(nn.Module):
    """The model, and a head that names what a query found, of which nothing is kept.

    Mask2Former's own loss knows one class here. Without the head its queries forget what a thing looks like, and a
    student learns classes from nothing.
    """

    def __init__(self, model: Mask2FormerForUniversalSegmentation) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(model.config.hidden_dim, NAMES)
        self._queries = torch.zeros(0)
        model.class_predictor.register_forward_hook(self._note)

    def train(self, mode: bool = True) -> "Learner":
        super().train(mode)
        self.model.model.pixel_level_module.encoder.train(False)  # the grounder's batch statistics stay
        return self

    def _note(self, _module: nn.Module, given: tuple[Tensor], _made: Tensor) -> None:
        self._queries = given[0]  # (B, Q, D) of the last layer, when all have been asked

    def losses(self, batch: Batch, *, bf16: bool) -> dict[str, Tensor]:
        """Mask2Former's loss and the head's on a batch whose classes are numbers below NAMES."""
        config = self.model.config
        things = replace(batch, classes=torch.zeros_like(batch.classes))
        outputs = predictions(self.model, batch.pixels, bf16=bf16)
        found = {"masks": mask2former_loss(outputs, things, config)}
        if not len(batch.classes):
            return found
        points = torch.rand(len(batch.counts), config.train_num_points, 2)
        match = match_layer(
            outputs.class_logits[-1], outputs.mask_logits[-1], batch=things, points=points, config=config
        )
        told = self.head(self._queries[match.image, match.query].float())
        return found | {"names": NAMES_WEIGHT * F.cross_entropy(told, batch.classes[match.target])}


@dataclass(frozen=True)
class Steps:
    """What each step sees: scenes of all `worlds`, drawn by the step's own random numbers."""

    worlds: Sequence[WorldScenes]
    seed: int
    batch: int

    def __getitem__(self, step: int) -> Batch:
        rng = step_rng(self.seed, step)
        return collate([self._example(rng) for _ in range(self.batch)])

    def _example(self, rng: np.random.Generator) -> Example:
        scenes, first = self.worlds[int(rng.integers(len(self.worlds)))]
        found = example(scenes[int(rng.integers(len(scenes)))], rng)
        return replace(found, classes=found.classes + first)


def evaluate(
    model: Mask2FormerForUniversalSegmentation, *, scenes: int, seed: int = EVALUATION_SEED
) -> dict[str, float]:
    """Mask AP50 and AP, without classes, on objects of at least 100 px of unseen scenes of the demo world."""
    nn.Module.eval(model)
    rendered = [render(WORLD, seed, index) for index in range(scenes)]
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
    return to_instances(
        outputs.class_logits[-1][0], outputs.mask_logits[-1][0], window=window, size=SIZE, class_ids=[OBJECT]
    )


def _as_coco(scenes: list[Scene], found: list[list[Instance]]) -> tuple[hotcoco.COCO, hotcoco.COCO]:
    truth: list[dict[str, object]] = []
    results: list[dict[str, object]] = []
    for index, (scene, instances) in enumerate(zip(scenes, found, strict=True), start=1):
        shared = {"image_id": index, "category_id": OBJECT}
        for thing in (o for o in scene.objects if o.class_id is not None or o.level == "clutter"):
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


def begin(model: Mask2FormerForUniversalSegmentation) -> None:
    """Give a model the embedded grounder's pyramid, as something that learns no more."""
    pyramid = model.model.pixel_level_module.encoder.requires_grad_(False).pyramid
    grounder = load_weights(listing.GROUNDER)
    pyramid.load_state_dict({name: grounder[name] for name in pyramid.state_dict()})


def main() -> int:
    given = parser(
        __doc__,
        steps=12000,
        batch=4,
        lr=1.5e-3,
        scenes=EVALUATION_SCENES,
        muon=3.0,
        start="the first stage",
    )
    options = parse(given, Options)
    torch.manual_seed(options.seed)
    model = build("tiny", 1)
    if options.scores:
        scenes = options.evaluate or EVALUATION_SCENES
        score_weights(
            model,
            options,
            name=listing.STUDENT,
            evaluate=lambda seed: evaluate(model, scenes=scenes, seed=seed),
        )
        return 0
    if options.start is None:
        begin(model)
    else:
        go_on(model, options.start)
    learner = Learner(model)
    steps = Steps(worlds_seen(options), options.seed, options.batch)
    recipe = Recipe(
        steps=options.steps, lr=options.lr, seed=options.seed, warmup=100, ema=0.998, muon=options.muon
    )
    trained = train(
        learner,
        loss_fn=lambda step: learner.losses(steps[step], bf16=options.bf16),
        recipe=recipe,
        workdir=options.workdir,
        data=options.data,
    )
    keep(options, trained.under("model."), needs={})
    return 0


if __name__ == "__main__":
    run(main)
