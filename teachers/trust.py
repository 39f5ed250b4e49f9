"""How far a student trusts a mask that it learns from: its expected IoU with the truth."""

from pipeline.data.records import Instance, Source

CERTAIN = 1.0
LEAST_TRUST = 0.05  # below it the estimate is no more than that: little


def trust_of(instance: Instance) -> float:
    """Expected IoU of an instance's mask with the truth, in [0.05, 1].

    The calibrated `quality` if there is one, else what SAM predicts. Human masks, and those of which nothing is known,
    are trusted in full.
    """
    if instance.source is Source.HUMAN:
        return CERTAIN
    known = instance.pred_iou if instance.quality is None else instance.quality
    return CERTAIN if known is None else max(known, LEAST_TRUST)
