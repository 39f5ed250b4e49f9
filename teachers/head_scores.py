"""How good each head is on images with human masks: what the gate compares."""

import hashlib
from collections.abc import Sequence

import numpy as np

from pipeline.data.masks import iou_matrix
from teachers.answerer import Answerer, Question, View
from teachers.gating import Scores
from teachers.protocols import Sample
from teachers.training_set import Target, target_of


def compare(
    answerer: Answerer, samples: Sequence[Sample], *, seed: int, jitter: float = 0.0
) -> dict[str, Scores]:
    """Both heads of every tuned variant on all human masks of `samples`, with one encoder pass.

    Prompts are those the variants are tuned with (the tight box, its sides moved by `jitter`, and/or one random
    foreground pixel), drawn from the seed, the image id and the instance's rank alone, so every head and teacher is
    asked the same. An empty answer counts 0.
    """
    view = answerer.look(samples)
    targets = _targets(samples, seed)
    asked = {
        variant: [
            Question(variant, target.image, target.prompt(variant, np.random.default_rng(own), jitter=jitter))
            for target, own in targets
        ]
        for variant in answerer.tuned_variants
    }
    return {
        variant: Scores(
            _ious(answerer, questions, targets, view, zero_shot=False),
            _ious(answerer, questions, targets, view, zero_shot=True),
        )
        for variant, questions in asked.items()
    }


def _targets(samples: Sequence[Sample], seed: int) -> list[tuple[Target, int]]:
    """Human masks of a batch, each with the seed of its random pixel."""
    return [
        (target, _entropy(seed, sample.record.image_id, rank))
        for image, sample in enumerate(samples)
        for rank, instance in enumerate(sample.record.instances)
        if (target := target_of(instance, image)) is not None
    ]


def _entropy(seed: int, image_id: int, rank: int) -> int:
    digest = hashlib.sha256(f"gate:{seed}:{image_id}:{rank}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _ious(
    answerer: Answerer,
    questions: list[Question],
    targets: list[tuple[Target, int]],
    view: View,
    *,
    zero_shot: bool,
) -> list[float]:
    masks = answerer.answer(view, questions, zero_shot=zero_shot)
    return [
        0.0 if mask.rle is None else float(iou_matrix([target.rle], [mask.rle])[0, 0])
        for (target, _), mask in zip(targets, masks, strict=True)
    ]
