"""Strips of the report: one photo several times, each time with other masks on it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.photos import read_unchanged
from pipeline.report.documents import Case, CaseMask
from pipeline.report.overlay import data_uri, draw
from pipeline.report.page import Picture, Strip

Image = npt.NDArray[np.uint8]
NAMED = 6  # labels named in a caption; the rest is counted


def picture(image: Image, caption: str, masks: Sequence[CaseMask] = ()) -> Picture:
    """The photo (h, w, 3) uint8 with masks drawn on it."""
    drawn = draw(image, [mask.rle for mask in masks])
    return Picture(data_uri(drawn), caption, width=drawn.shape[1], height=drawn.shape[0])


def _caption(who: str, masks: Sequence[CaseMask]) -> str:
    names = ", ".join(
        mask.label if mask.score is None else f"{mask.label} {mask.score:.2f}" for mask in masks[:NAMED]
    )
    rest = f" and {len(masks) - NAMED} more" if len(masks) > NAMED else ""
    return f"{who}: {names}{rest}" if masks else f"{who}: nothing"


def case_strip(case: Case, images_root: Path) -> Strip:
    """Photo, truth, pseudo-masks and each student side by side; BadInput if the photo is unreadable or another now."""
    image = read_unchanged(images_root / case.uri, case.sha256)
    pictures = [
        picture(image, "photo"),
        picture(image, _caption("hidden truth", case.truth), case.truth),
        picture(image, _caption("pseudo-masks", case.pseudo), case.pseudo),
    ]
    pictures += [picture(image, _caption(name, masks), masks) for name, masks in case.students.items()]
    miou = "" if case.miou is None else f", mIoU {case.miou:.3f}"
    return Strip(f"{case.uri} ({case.why}{miou})", tuple(pictures))


def doubt_strip(uri: str, image: Image, mask: CaseMask, *, estimates: Mapping[str, float]) -> Strip:
    """One doubtful mask on its photo (h, w, 3) uint8, with what is estimated of its quality by name."""
    pictures = (picture(image, "photo"), picture(image, _caption("pseudo-mask", [mask]), [mask]))
    numbers = "".join(f", {name} {value:.2f}" for name, value in estimates.items())
    return Strip(f"{uri}: {mask.label}{numbers}", pictures)
