"""The README's picture: photos of a finished run, its pseudo-masks on them, and what its student finds.

    python -m benchmarks.demo_picture runs/demo docs/demo.png

Rows are the typical cases of the run's evaluation, columns photo, pseudo-masks, student.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data.images import read_upright
from pipeline.engine.status import find_results
from pipeline.export import images_root
from pipeline.report.case_documents import Case, CaseMask, CasesFile
from pipeline.report.layers import PALETTE, Shape, Window, colours, paint

ROWS = 3
STRENGTH = 0.75  # of the masks' colours, as the report shows them at first
GAP = 6  # white pixels between pictures

Pixels = npt.NDArray[np.uint8]


def row(case: Case, photos: Path) -> Pixels:
    """Photo, pseudo-masks and the first student's masks side by side, (h, w, 3) uint8."""
    image = read_upright(photos / case.uri).image
    student = next(iter(case.students.values()), [])
    drawn = [draw(image, found) for found in ([], case.pseudo, student)]
    return padded(drawn, axis=1)


def draw(image: Pixels, found: Sequence[CaseMask]) -> Pixels:
    """The photo (h, w, 3) with masks on it, each in its own colour, at the report's size."""
    window = Window.whole(*image.shape[:2])
    shapes = [Shape(window.mask(mask.rle), index % len(PALETTE)) for index, mask in enumerate(found)]
    photo = Image.fromarray(window.photo(image)).convert("RGBA")
    painted = colours(paint(shapes, window))
    painted[..., 3] = painted[..., 3] * STRENGTH
    layer = Image.fromarray(painted, "RGBA")
    return np.asarray(Image.alpha_composite(photo, layer).convert("RGB"))


def padded(pictures: list[Pixels], *, axis: int) -> Pixels:
    """Pictures of one size in a line along `axis`, white between them."""
    shape = list(pictures[0].shape)
    shape[axis] = GAP
    white = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (white, picture)][1:]
    return np.concatenate(parts, axis=axis)


def main(run: Path, out: Path) -> int:
    """Write the picture."""
    (evaluated,) = find_results(run, "evaluate").values()
    cases = CasesFile.read(evaluated / "cases.json").cases
    typical = [case for case in cases if case.why == "typical"][:ROWS]
    rows = [row(case, images_root(run)) for case in typical]
    Image.fromarray(padded(rows, axis=0)).save(out, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
