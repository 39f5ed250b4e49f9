"""What a BLO-Inst pair answers to an image: SAM's masks of the boxes that its detector finds, with their scores.

Legend: S side of the square that both see, N kept boxes.
"""

import numpy as np
import torch
from segment_anything.modeling import Sam

from pipeline.data.masks import tight_box
from pipeline.data.records import Instance, Ontology, Source
from students.blo_pair import Pair
from students.inference import full_masks
from teachers.detector import keep
from teachers.detectors import FOUND_CONFIDENCE, FOUND_MOST, FOUND_OVERLAP
from teachers.protocols import Sample
from teachers.sam.predictor import SamPredictor
from teachers.window import canvas_image, sam_window

CHUNK = 16  # boxes that SAM's decoder is asked at once


@torch.inference_mode()
def instances_of(sample: Sample, pair: Pair, sam: Sam, *, ontology: Ontology) -> list[Instance]:
    """Up to 100 instances, best first; `sam` has the image encoder."""
    device, side = sam.device, pair.sam.side
    window = sam_window(sample.image.shape[:2], side)
    canvas = canvas_image(sample.image, window, side)
    raw = pair.detector.predict(torch.from_numpy(canvas).permute(2, 0, 1)[None].float().to(device))
    extents = torch.tensor([[window.width, window.height]], device=device)
    kept = keep(raw, confidence=FOUND_CONFIDENCE, overlap=FOUND_OVERLAP, most=FOUND_MOST, extents=extents)
    if not len(kept.score):
        return []
    features = SamPredictor(sam).embed([np.asarray(sample.image)]).features
    boxes = torch.split(kept.shown(raw, extents), CHUNK)
    logits = torch.cat([pair.sam(features.expand(len(some), -1, -1, -1), some)[0] for some in boxes])
    masks = full_masks(logits, range(len(logits)), window=window, size=side)
    scores, labels = kept.score.tolist(), kept.label.tolist()
    return [
        Instance(
            source=Source.STUDENT,
            class_id=ontology.ids[labels[row]],
            rle=rle,
            box_xyxy=tight_box(rle),
            score=scores[row],
        )
        for row, (rle, _) in masks.items()
    ]
