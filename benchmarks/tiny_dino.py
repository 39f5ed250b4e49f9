"""Grounding DINO's own architecture at the tiny grounder's size, trained on the same scenes: does it converge there?

    python -m benchmarks.tiny_dino --workdir W --steps 2000

transformers' model (a Swin of 24 channels, 2 + 2 layers, width 64, 50 queries, a BERT of 2 layers over the words of
the names), its own loss, tiny_grounder's images, names and loop. Resumable. Prints one JSON line: parameters, minutes
and the boxes' AP50 on unseen scenes, all names asked.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    SwinConfig,
)

from pipeline.data.records import Category, Ontology, Prompt, Record, Role
from pipeline.toyworld.scene import Scene, render
from pipeline.toyworld.world import SIZE
from teachers.grounding import SPECIAL_TOKENS, GroundingDino
from teachers.protocols import Sample
from teachers.tiny.command import EVALUATION_SEED, STRANGERS, TRAIN_SEED, WORLD
from teachers.tiny.proposer import Detections
from teachers.tiny.recipe import Recipe, step_rng, train
from teachers.tiny.scenes import SceneCache
from teachers.tiny.train_grounder import CLASSES, NAMES, STRANGERS_AN_IMAGE, score_boxes, varied

BATCH = 8
WIDTH = 64
FIRST_WORD = 1030  # behind the numbers that the model takes for granted
MEAN, STD = [0.45] * 3, [0.25] * 3


def main() -> int:
    """Train, or go on, and print the line."""
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    model, words = _model(), tokenizer()
    scenes = SceneCache(
        options.scenes or options.workdir / "scenes", world=WORLD, seed=TRAIN_SEED, count=options.count
    )
    recipe = Recipe(steps=options.steps, lr=options.lr, seed=options.seed, warmup=100, ema=0.998, clip=1.0)

    def loss_fn(step: int) -> Tensor:
        rng = step_rng(options.seed, step)
        drawn = [varied(scenes[int(i)], rng) for i in rng.integers(len(scenes), size=BATCH)]
        pixels = torch.stack([image for image, _ in drawn]).float() / 255
        labels = [
            {"class_labels": target.names, "boxes": box_convert(target.boxes / SIZE, "xyxy", "cxcywh")}
            for _, target in drawn
        ]
        text = words([_caption(rng)] * BATCH, return_tensors="pt")
        loss: Tensor = model(pixel_values=(pixels - MEAN[0]) / STD[0], **text, labels=labels).loss
        return loss

    data = {"count": options.count}
    trained = train(model, loss_fn=loss_fn, recipe=recipe, workdir=options.workdir, data=data)
    model.load_state_dict(trained.state)
    found = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": trained.steps,
        "minutes": round(trained.seconds / 60, 1),
        **evaluate(model, words, scenes=options.evaluate),
    }
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def tokenizer() -> BertTokenizer:
    """Every word of the names that are asked, and the tokens that Grounding DINO parts names by at their places."""
    words = sorted(
        {word for name in (*STRANGERS, *(n for own in NAMES for n in own)) for word in name.split()}
    )
    vocabulary = {f"[unused{i}]": i for i in range(FIRST_WORD)}
    taken = {**SPECIAL_TOKENS, "[PAD]": 0, "[UNK]": 100, "[MASK]": 103}
    vocabulary = {word: i for word, i in vocabulary.items() if i not in taken.values()} | taken
    return BertTokenizer(vocab={**vocabulary, **{word: FIRST_WORD + i for i, word in enumerate(words)}})


def _model() -> GroundingDinoForObjectDetection:
    text = BertConfig(
        vocab_size=FIRST_WORD + 500,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * WIDTH,
    )
    image = SwinConfig(
        embed_dim=24,
        depths=[2, 2, 2, 1],
        num_heads=[2, 4, 8, 8],
        window_size=8,
        out_indices=[2, 3, 4],
        image_size=SIZE,
    )
    return GroundingDinoForObjectDetection(
        GroundingDinoConfig(
            backbone_config=image,
            text_config=text,
            d_model=WIDTH,
            num_queries=50,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=4 * WIDTH,
            decoder_ffn_dim=4 * WIDTH,
            auxiliary_loss=True,
            disable_custom_kernels=True,
        )
    )


def _caption(rng: np.random.Generator) -> str:
    """Every class by one of its names, in the order of the classes, and names of things in no scene."""
    own = [names[int(rng.integers(len(names)))] for names in NAMES]
    others = rng.choice(len(STRANGERS), STRANGERS_AN_IMAGE, replace=False)
    return " . ".join([*own, *(STRANGERS[int(i)] for i in others)]) + " ."


def evaluate(
    model: GroundingDinoForObjectDetection, words: BertTokenizer, *, scenes: int
) -> dict[str, float]:
    """As tiny_grounder's, through the entry that users' Grounding DINO goes through."""
    ontology = Ontology(tuple(Category(c.id, c.name) for c in CLASSES))
    processor = GroundingDinoImageProcessor(
        size={"shortest_edge": SIZE, "longest_edge": SIZE}, image_mean=MEAN, image_std=STD
    )
    proposer = GroundingDino(model, tokenizer=words, image_processor=processor, ontology=ontology)
    rendered = [render(WORLD, EVALUATION_SEED, index) for index in range(scenes)]
    return score_boxes(rendered, [_detected(proposer, scene, ontology) for scene in rendered])


def _detected(proposer: GroundingDino, scene: Scene, ontology: Ontology) -> Detections:
    height, width = scene.image.shape[:2]
    record = Record(0, "", "", width, height, "val", Role.VAL)
    (found,) = proposer.propose([Sample(record, scene.image)], [ontology.ids])
    place = {class_id: index for index, class_id in enumerate(ontology.ids)}
    return Detections(
        np.array([_box(one) for one in found], np.float64).reshape(-1, 4),
        np.array([one.score for one in found], np.float64),
        np.array([place[one.class_id] for one in found if one.class_id is not None], np.int64),
    )


def _box(prompt: Prompt) -> tuple[float, float, float, float]:
    assert prompt.box_xyxy is not None
    return prompt.box_xyxy


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="checkpoints and log; resumed if there")
    parser.add_argument("--scenes", type=Path, help="rendered scenes (default: WORKDIR/scenes)")
    parser.add_argument("--count", type=int, default=4000, help="scenes to train on")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluate", type=int, default=200, metavar="SCENES")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
