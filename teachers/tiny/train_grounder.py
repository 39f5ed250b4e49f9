"""Trains the tiny grounder on boxes and names of toyworld's demo classes, resumable (time: weights/weights.json).

The embedded text tower (train_text) is frozen and must have been exported before.

python -m teachers.tiny.train_grounder --workdir W
python -m teachers.tiny.train_grounder --workdir W --evaluate   # one JSON line, three seeds of unseen scenes
python -m teachers.tiny.train_grounder --evaluate               # the same of the embedded weights
python -m teachers.tiny.train_grounder --workdir W --export     # fp16 weights and their facts, into weights/
"""

import hotcoco
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from pipeline.toyworld.scene import Scene, render
from pipeline.toyworld.world import SIZE, classes
from teachers.text import TextEncoder, load_text
from teachers.tiny import listing
from teachers.tiny.command import (
    EVALUATION_SEED,
    STRANGERS,
    WORLD,
    Options,
    keep,
    parse,
    parser,
    run,
    training_scenes,
)
from teachers.tiny.grounder import TinyGrounder
from teachers.tiny.grounder_loss import Target, grounding_loss
from teachers.tiny.proposer import PADDING, Detections, detect
from teachers.tiny.pyramid import normalise_pixels
from teachers.tiny.recipe import Recipe, step_rng, train
from teachers.tiny.scenes import CachedScene, SceneCache
from teachers.tiny.scores import score_weights

CLASSES = classes(WORLD)
NAMES = tuple((c.name, *c.synonyms) for c in CLASSES)
ZOOM = (0.75, 1.3)
LEAST_SEEN = 0.4  # share of a box that must stay inside for the object to count
STRANGERS_AN_IMAGE = 6
EVALUATION_SCENES = 200  # of each seed
MIN_OBJECT_PIXELS = 100  # of the evaluation; smaller objects are neither asked for nor wrong
CONFIDENT = 0.3  # Das et al. 2024's threshold of weak kinds none and class


def varied(scene: CachedScene, rng: np.random.Generator) -> tuple[Tensor, Target]:
    """A training image, uint8 (3, 256, 256), zoomed, moved, flipped and lit anew, and its objects by class index."""
    zoom = float(rng.uniform(*ZOOM))
    side = round(SIZE * zoom)
    offset = np.array([int(rng.integers(min(0, SIZE - side), max(0, SIZE - side) + 1)) for _ in range(2)])
    canvas = Image.new("RGB", (SIZE, SIZE), (PADDING,) * 3)
    canvas.paste(
        Image.fromarray(scene.image).resize((side, side), Image.Resampling.BILINEAR), tuple(offset.tolist())
    )
    lit = np.asarray(canvas).astype(np.float32) * rng.uniform(0.8, 1.2, 3) + rng.uniform(-20, 20)
    pixels = np.clip(lit, 0, 255).astype(np.uint8)
    known = scene.class_id > 0
    whole = scene.box[known] * (side / SIZE) + np.tile(offset, 2)
    boxes = np.clip(whole, 0, SIZE)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
        boxes[:, [0, 2]] = SIZE - boxes[:, [2, 0]]
    seen = _areas(boxes) >= LEAST_SEEN * _areas(whole)
    target = Target(
        torch.from_numpy(boxes[seen].astype(np.float32)), torch.from_numpy(scene.class_id[known][seen] - 1)
    )
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1), target


def _areas(boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    sides = boxes[:, 2:] - boxes[:, :2]
    areas: npt.NDArray[np.floating] = sides[:, 0] * sides[:, 1]
    return areas


class Batches:
    """Scenes and the names asked of each: every class by one of its synonyms, and names of things in no scene."""

    def __init__(self, scenes: SceneCache, encoder: TextEncoder) -> None:
        self._scenes = scenes
        self._vectors = [torch.from_numpy(encoder.encode(names)) for names in NAMES]
        self._strangers = torch.from_numpy(encoder.encode(STRANGERS))

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor, list[Target]]:
        """Images (count, 3, 256, 256) uint8, names (count, K, 64), targets."""
        drawn = [varied(self._scenes[int(i)], rng) for i in rng.integers(len(self._scenes), size=count)]
        names = torch.stack([self._asked(rng) for _ in drawn])
        return torch.stack([image for image, _ in drawn]), names, [target for _, target in drawn]

    def _asked(self, rng: np.random.Generator) -> Tensor:
        own = [vectors[rng.integers(len(vectors))] for vectors in self._vectors]
        others = rng.choice(len(self._strangers), STRANGERS_AN_IMAGE, replace=False)
        return torch.cat([torch.stack(own), self._strangers[others]])


def evaluate(
    model: TinyGrounder, encoder: TextEncoder, *, scenes: int, seed: int = EVALUATION_SEED
) -> dict[str, float]:
    """Box AP50 and AP of objects of at least 100 px on unseen scenes, all class names asked.

    `absent` is the share of (scene, absent class) pairs that get a box of score 0.3 or more.
    """
    model.eval()
    vectors = torch.from_numpy(encoder.encode([c.name for c in CLASSES]))
    rendered = [render(WORLD, seed, index) for index in range(scenes)]
    return score_boxes(rendered, [detect(model, scene.image, vectors) for scene in rendered])


def score_boxes(rendered: list[Scene], found: list[Detections]) -> dict[str, float]:
    """As `evaluate`, of what any detector found in each scene."""
    evaluator = hotcoco.COCOeval(*_as_coco(rendered, found), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    precision = np.asarray((evaluator.eval or {})["precision"], np.float64)[..., 0, -1]
    alarms = []
    for scene, detections in zip(rendered, found, strict=True):
        present = {thing.class_id for thing in scene.objects}
        sure = {CLASSES[name].id for name in detections.names[detections.scores >= CONFIDENT]}
        alarms += [c.id in sure for c in CLASSES if c.id not in present]
    return {
        "scenes": len(rendered),
        "AP50": round(float(precision[0][precision[0] >= 0].mean()), 4),
        "AP": round(float(precision[precision >= 0].mean()), 4),
        "absent": round(float(np.mean(alarms)), 4),
    }


def _as_coco(scenes: list[Scene], found: list[Detections]) -> tuple[hotcoco.COCO, hotcoco.COCO]:
    truth: list[dict[str, object]] = []
    results: list[dict[str, object]] = []
    for index, (scene, detections) in enumerate(zip(scenes, found, strict=True), start=1):
        for thing in (o for o in scene.objects if o.class_id is not None):
            x0, y0, x1, y1 = thing.box_xyxy
            area = int(thing.mask.sum())
            entry = {
                "image_id": index,
                "category_id": thing.class_id,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": area,
            }
            truth.append({**entry, "id": len(truth) + 1, "iscrowd": int(area < MIN_OBJECT_PIXELS)})
        for box, score, name in zip(detections.boxes, detections.scores, detections.names, strict=True):
            sides = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
            results.append(
                {"image_id": index, "category_id": CLASSES[name].id, "bbox": sides, "score": float(score)}
            )
    images = [{"id": index + 1, "width": SIZE, "height": SIZE} for index in range(len(scenes))]
    categories = [{"id": c.id, "name": c.name} for c in CLASSES]
    gt = hotcoco.COCO({"images": images, "annotations": truth, "categories": categories})
    return gt, gt.load_res(results)


def main() -> int:
    options = parse(parser(__doc__, steps=1500, batch=16, lr=2e-3, scenes=EVALUATION_SCENES), Options)
    torch.manual_seed(options.seed)
    model = TinyGrounder()
    encoder = load_text("tiny")
    if options.scores:
        scenes = options.evaluate or EVALUATION_SCENES
        score_weights(
            model,
            options,
            name=listing.GROUNDER,
            evaluate=lambda seed: evaluate(model, encoder, scenes=scenes, seed=seed),
        )
        return 0
    batches = Batches(training_scenes(options), encoder)
    recipe = Recipe(
        steps=options.steps,
        lr=options.lr,
        seed=options.seed,
        warmup=60,
        ema=0.995,
        bf16=options.bf16,
        clip=5.0,
        muon=options.muon,
    )

    def loss_fn(step: int) -> dict[str, Tensor]:
        images, names, targets = batches.draw(step_rng(options.seed, step), options.batch)
        return grounding_loss(model, model(normalise_pixels(images), names), targets)

    trained = train(model, loss_fn=loss_fn, recipe=recipe, workdir=options.workdir, data=options.data)
    keep(options, trained, needs={listing.TEXT: listing.digest_of(listing.TEXT)})
    return 0


if __name__ == "__main__":
    run(main)
