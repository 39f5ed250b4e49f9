"""What the calibrated quality of a pseudo-mask is worth, and where to cut for a wanted precision."""

import numpy as np

from pipeline.data.precision import CONFIDENCE, RIGHT, cut_for, cuts
from pipeline.report.blocks import Beside, Block, Section, Table, Text
from pipeline.report.documents import CalibrationFile
from pipeline.report.quality import curve
from pipeline.report.wording import DASH, amount, counted, percent, score

WANTED = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
HEADING = "Calibrated trust: the quality of a pseudo-mask"


def calibration(found: CalibrationFile) -> Section:
    """The reliability of the quality on masks that it was not fitted on, and what a precision would keep."""
    blocks: list[Block] = [Text((calibration_words(found),))]
    if found.reliability is not None:
        blocks.append(Beside((curve("quality", found.reliability), _precisions(found))))
    return Section("calibration", HEADING, tuple(blocks), "Calibration")


def calibration_words(found: CalibrationFile) -> str:
    """What it rests on and what it is worth, in one or two sentences."""
    if found.reliability is None:
        return f"No pseudo-mask has a calibrated quality: {found.why}."
    order = amount(found.reliability.correlation, 2)
    return (
        f"The quality of a pseudo-mask is the IoU that it can be expected to have, learned from "
        f"{counted(found.masks, 'mask')} of {counted(found.images, 'image')} ({found.why}). On images left out of the "
        f"learning its calibration error is {found.reliability.error:.3f}, its rank correlation with the IoU {order}."
    )


def _precisions(found: CalibrationFile) -> Table:
    tried = cuts(np.array(found.said), np.array(found.true), np.array(found.image_ids))
    rows = []
    for wanted in WANTED:
        cut = cut_for(wanted, tried)
        if cut is None:
            rows.append((f"{wanted:g}", DASH, DASH, DASH))
        else:
            kept = percent(round(cut.kept * found.masks), found.masks)
            rows.append((f"{wanted:g}", score(cut.quality), kept, score(cut.right)))
    caption = (
        f"filter: {{precision: P}} keeps the masks of at least that quality, of which a share P is "
        f"right (IoU {RIGHT:g}) with {CONFIDENCE:.0%} confidence; {DASH} where these masks cannot promise it"
    )
    return Table(("precision", "quality at least", "masks kept", "right among them"), tuple(rows), caption)
