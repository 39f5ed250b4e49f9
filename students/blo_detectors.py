"""The detector that a BLO-Inst student's settings name."""

from students.blo_settings import BloInstSettings
from teachers import detector_weights
from teachers.detector_weights import DetectorNetwork


def new_detector(settings: BloInstSettings, classes: int) -> DetectorNetwork:
    """Of the settings' kind, with the weights they name or the embedded ones, if any; BadInput as of the table's."""
    return detector_weights.new_detector(
        settings.detector,
        classes,
        focal=settings.focal,
        weights=settings.detector_weights,
        sha256=settings.detector_sha256,
    )
