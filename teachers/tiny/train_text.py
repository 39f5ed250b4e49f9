"""Trains the tiny CLIP on crops and names of toyworld's demo classes, resumable (times: weights/weights.json).

python -m teachers.tiny.train_text --workdir W
python -m teachers.tiny.train_text --workdir W --evaluate   # one JSON line, three seeds of unseen scenes
python -m teachers.tiny.train_text --evaluate               # the same of the embedded weights
python -m teachers.tiny.train_text --workdir W --export     # fp16 weights and their facts, into weights/
"""

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from PIL import Image
from torch import Tensor

from pipeline.toyworld.scene import render
from pipeline.toyworld.world import classes
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
from teachers.tiny.recipe import Recipe, step_rng, train
from teachers.tiny.scenes import SceneCache
from teachers.tiny.scores import score_weights
from teachers.tiny.text import CROP_SIZE, build_tiny_clip, normalise_crops, tokenize

NAMES = tuple((c.name, *c.synonyms) for c in classes(WORLD))
MIN_SIDE = 8.0  # pixels; smaller boxes show nothing to learn
MIN_OBJECT_PIXELS = 100  # of the evaluation
CONTEXT = (1.0, 1.5)  # side of a training crop as a multiple of the box's longer side
EVALUATION_SCENES = 200  # of each seed
EVALUATION_CONTEXT = 1.2
STRANGERS_A_STEP = 6
MAX_SCALE = 100.0  # as CLIP


class Crops:
    """Square crops of classed objects, drawn with all classes equally often."""

    def __init__(self, scenes: SceneCache) -> None:
        self._scenes = scenes
        self._by_class: dict[int, list[tuple[int, int]]] = {}
        for index in range(len(scenes)):
            scene = scenes[index]
            sides = scene.box[:, 2:] - scene.box[:, :2]
            for row in np.flatnonzero((scene.class_id > 0) & (sides.min(1) >= MIN_SIDE)):
                self._by_class.setdefault(int(scene.class_id[row]), []).append((index, int(row)))

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
        """uint8 (count, 3, 64, 64) with flips and brightness, and the class of each as an index from 0."""
        known = sorted(self._by_class)
        labels = [known[i] for i in rng.integers(len(known), size=count)]
        crops = []
        for label in labels:
            places = self._by_class[label]
            index, row = places[rng.integers(len(places))]
            scene = self._scenes[index]
            picture = Image.fromarray(scene.image)
            crop = cut(picture, scene.box[row], float(rng.uniform(*CONTEXT)), rng.uniform(-0.1, 0.1, 2))
            gain, shift = rng.uniform(0.8, 1.2, 3), rng.uniform(-20, 20)
            lit = np.clip(crop.astype(np.float32) * gain + shift, 0, 255).astype(np.uint8)
            crops.append(lit[:, ::-1] if rng.random() < 0.5 else lit)
        pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        return pixels, torch.tensor(labels) - 1


def cut(picture: Image.Image, box: np.ndarray, context: float, shift: np.ndarray) -> np.ndarray:
    """The square around a box, uint8 (64, 64, 3): `context` times its longer side, moved by `shift` x side.

    A square that reaches over the edge is moved inside.
    """
    side = min(float((box[2:] - box[:2]).max()) * context, float(min(picture.size)))
    centre = (box[:2] + box[2:]) / 2 + shift * side
    low = np.clip(centre - side / 2, 0, np.array(picture.size) - side)
    window = (*low.tolist(), *(low + side).tolist())
    return np.asarray(picture.resize((CROP_SIZE, CROP_SIZE), Image.Resampling.BILINEAR, box=window))


def contrast(model: CLIP, crops: Tensor, labels: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
    """CLIP's loss where several crops share a name: crop to name, name to the mean of its crops, name to synonym.

    One synonym a class and step; names of things that are in no scene stand among the wrong answers.
    """
    strangers = rng.choice(STRANGERS, STRANGERS_A_STEP, replace=False).tolist()
    first, second = ([n[rng.integers(len(n))] for n in NAMES] + strangers for _ in range(2))
    text, other = F.normalize(model.encode_text(tokenize(first + second)).float(), dim=-1).chunk(2)
    image = F.normalize(model.encode_image(normalise_crops(crops)).float(), dim=-1)
    scale = model.logit_scale.exp().clamp(max=MAX_SCALE)
    logits = scale * image @ text.T
    own = F.one_hot(labels, len(NAMES)).float()
    share = own.sum(0)
    by_name = (logits[:, : len(NAMES)].log_softmax(0) * own).sum(0)[share > 0] / share[share > 0]
    # Without the last term both towers first fall into one point, where no gradient tells names apart.
    same = F.cross_entropy(scale * text @ other.T, torch.arange(len(first)))
    return {
        "to_name": 0.5 * F.cross_entropy(logits, labels),
        "to_crop": -0.5 * by_name.mean(),
        "to_synonym": 0.5 * same,
    }


@torch.inference_mode()
def evaluate(model: CLIP, *, scenes: int, seed: int = EVALUATION_SEED) -> dict[str, float]:
    """Share of unseen crops (objects of at least 100 px) whose class name is the nearest, and so with synonyms."""
    model.eval()
    crops, labels = [], []
    for index in range(scenes):
        scene = render(WORLD, seed, index)
        picture = Image.fromarray(scene.image)
        for thing in scene.objects:
            if thing.class_id is not None and thing.mask.sum() >= MIN_OBJECT_PIXELS:
                crops.append(cut(picture, np.array(thing.box_xyxy), EVALUATION_CONTEXT, np.zeros(2)))
                labels.append(thing.class_id - 1)
    pixels = normalise_crops(torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2))
    image = torch.cat([F.normalize(model.encode_image(part), dim=-1) for part in torch.split(pixels, 64)])
    rows = torch.tensor(labels)
    rng = step_rng(seed, 0)
    picks = [[0] * len(NAMES), *([int(rng.integers(len(n))) for n in NAMES] for _ in range(5))]
    accuracy = []
    for pick in picks:
        names = [options[i] for options, i in zip(NAMES, pick, strict=True)]
        text = F.normalize(model.encode_text(tokenize(names)), dim=-1)
        accuracy.append(float(((image @ text.T).argmax(1) == rows).float().mean()))
    mean = float(np.mean(accuracy[1:]))
    return {"crops": len(rows), "accuracy": round(accuracy[0], 4), "accuracy_synonyms": round(mean, 4)}


def main() -> int:
    given = parser(__doc__, steps=5000, batch=96, lr=1e-3, scenes=EVALUATION_SCENES, muon=5.0)
    options = parse(given, Options)
    torch.manual_seed(options.seed)
    model = build_tiny_clip()
    if options.scores:
        scenes = options.evaluate or EVALUATION_SCENES
        score_weights(
            model,
            options,
            name=listing.TEXT,
            evaluate=lambda seed: evaluate(model, scenes=scenes, seed=seed),
        )
        return 0
    crops = Crops(training_scenes(options))
    recipe = Recipe(
        steps=options.steps,
        lr=options.lr,
        seed=options.seed,
        ema=0.995,
        bf16=options.bf16,
        weight_decay=0.1,
        muon=options.muon,
    )

    def loss_fn(step: int) -> dict[str, Tensor]:
        rng = step_rng(options.seed, step)
        return contrast(model, *crops.draw(rng, options.batch), rng)

    keep(
        options,
        train(model, loss_fn=loss_fn, recipe=recipe, workdir=options.workdir, data=options.data),
        needs={},
    )
    return 0


if __name__ == "__main__":
    run(main)
