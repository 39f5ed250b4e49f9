"""A detector that BLO-Inst fitted, as a proposer: boxes of the classes it was trained on, for SAM or for anything else.

Legend: S side of the square that the detector sees, A its locations, K the names that are looked for.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.data.errors import BadInput
from pipeline.data.records import Ontology, Origin, Prompt
from teachers.detector import Detector, keep
from teachers.detectors import FOUND_CONFIDENCE, FOUND_MOST, FOUND_OVERLAP
from teachers.fitted_detector import DetectorFacts, open_detector
from teachers.grounding_names import Phrase, Vocabulary, normalise
from teachers.protocols import Sample
from teachers.weak_prompts import is_located
from teachers.window import canvas_image, sam_window


class AlignedDetector:
    """`Proposer` over a fitted detector, by the names of its classes; images go through one by one."""

    def __init__(self, detector: Detector, facts: DetectorFacts, *, ontology: Ontology, device: str) -> None:
        self._detector, self._side, self._device = detector, facts.side, device
        self._vocabulary = Vocabulary(ontology)
        self._labels: dict[str, list[int]] = {}
        for label, category in enumerate(facts.categories):
            self._labels.setdefault(normalise(category.name), []).append(label)

    def propose(self, batch: Sequence[Sample], names: Sequence[Sequence[int]]) -> list[list[Prompt]]:
        """At most 100 box prompts a sample, best first (`Proposer.propose`).

        BadInput for a class it was not trained on, unless a label says already where such things are.
        """
        return [self._one(sample, asked) for sample, asked in zip(batch, names, strict=True)]

    def _one(self, sample: Sample, asked: Sequence[int]) -> list[Prompt]:
        phrases = self._vocabulary.phrases(asked, sample.record.tags)
        self._check(sample, phrases)
        columns = [(label, p.class_id) for p in phrases for label in self._labels.get(p.text, ())]
        if not columns:
            return []
        boxes, scores, places = self._found(sample, [label for label, _ in columns])
        return [
            Prompt(Origin.DINO, (x0, y0, x1, y1), class_id=columns[place][1], score=min(score, 1.0))
            for (x0, y0, x1, y1), score, place in zip(
                boxes.tolist(), scores.tolist(), places.tolist(), strict=True
            )
        ]

    def _check(self, sample: Sample, phrases: Sequence[Phrase]) -> None:
        located = {instance.class_id for instance in sample.record.instances if is_located(instance)}
        if lost := [p.text for p in phrases if p.text not in self._labels and p.class_id not in located]:
            raise BadInput(
                f"image {sample.record.image_id} ({sample.record.uri}): {', '.join(map(repr, lost[:3]))} should be "
                f"found in it, but the detector knows {', '.join(map(repr, self._labels))} only"
            )

    @torch.inference_mode()
    def _found(self, sample: Sample, labels: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (n, 4) in the image, scores (n,), and which of the labels each is of, best first."""
        height, width = sample.image.shape[:2]
        window = sam_window((height, width), self._side)
        canvas = torch.from_numpy(canvas_image(np.asarray(sample.image), window, self._side))
        raw = self._detector.predict(canvas.permute(2, 0, 1)[None].float().to(self._device))
        # Of a location the best of the asked classes counts, not its best of all.
        asked = replace(raw, class_logits=raw.class_logits[..., list(labels)])
        extents = torch.tensor([[window.width, window.height]], device=self._device)
        kept = keep(
            asked, confidence=FOUND_CONFIDENCE, overlap=FOUND_OVERLAP, most=FOUND_MOST, extents=extents
        )
        down, across = (window.source[i] / window.scaled[i] for i in range(2))
        scale = torch.tensor([across, down, across, down], dtype=torch.float64)
        limit = torch.tensor(
            [width, height, width, height], dtype=torch.float64
        )  # but for rounding it is that
        boxes = torch.minimum(kept.shown(asked, extents).double().cpu() * scale, limit)
        return boxes, kept.score.double().cpu(), kept.label.cpu()


def load_aligned_detector(artifact: Path, *, ontology: Ontology, device: str = "cpu") -> AlignedDetector:
    """The detector in a blo_inst student's artifact; BadInput if there is none, or it is damaged."""
    detector, facts = open_detector(artifact)
    return AlignedDetector(detector.to(device), facts, ontology=ontology, device=device)
