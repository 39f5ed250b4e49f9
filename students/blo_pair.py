"""The two networks of BLO-Inst, and what they were at the best epoch so far."""

from students.blo_objective import AlignedSam
from teachers.detector import DetectorNetwork
from teachers.phases import BestKept


class Pair(BestKept):
    """A detector and SAM's part."""

    detector: DetectorNetwork
    best_detector: DetectorNetwork
    sam: AlignedSam
    best_sam: AlignedSam

    def __init__(self, detector: DetectorNetwork, sam: AlignedSam) -> None:
        super().__init__(detector=detector, sam=sam)
