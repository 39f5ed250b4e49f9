"""What a training of BLO-Inst says of itself: numbers, and a warning where nothing was aligned."""

from pipeline.engine.stage import Metrics
from students.blo_judge import Judged
from students.blo_pair import Pair
from students.blo_settings import BloInstSettings
from teachers.pool import Halves


def counts(pair: Pair, split: Halves) -> Metrics:
    """Images and parameters of both parts, and the epoch whose weights were kept."""
    return {
        "images_of_sam": len(split.lower),
        "images_of_detector": len(split.upper),
        "parameters_of_sam": sum(p.numel() for p in pair.sam.trained().values()),
        "parameters_of_detector": sum(p.numel() for p in pair.detector.parameters()),
        "best_epoch": int(pair.best_epoch),
    }


def worth(of_sam: Judged, of_detector: Judged) -> Metrics:
    """What was judged of both halves; `surest`: the highest score of all that the detector said of them."""
    return {
        "missed_of_sam": of_sam.missed,
        "missed_of_detector": of_detector.missed,
        "found_of_sam": of_sam.found,
        "found_of_detector": of_detector.found,
        "surest": max(of_sam.surest, of_detector.surest),
    }


def warning_of(settings: BloInstSettings, numbers: Metrics) -> Metrics:
    """What a run should tell its user if the two parts had nothing to do with each other, else nothing."""
    if numbers["best_epoch"] != -1 or not settings.aligns:
        return {}
    surest = float(numbers["surest"] or 0)
    why = (
        f"its highest score is {surest:.3f}, and `confidence` {settings.confidence:g}"
        if surest <= settings.confidence
        else f"none of its boxes overlaps one of its class by half, though its highest score is {surest:.3f}"
    )
    said = (
        f"the detector found no object of its half at any epoch, so nothing was aligned: {why}; "
        "more pretrain_epochs, better detector_weights or a lower `confidence` may help"
    )
    return {"warning": said}
