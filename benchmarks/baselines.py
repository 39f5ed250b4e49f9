"""What trivial masks on the same prompts are worth: a finished run's pseudo-masks beside an ellipse, GrabCut or a disc.

    python -m benchmarks.baselines runs/penn-fudan-box+class
    python -m benchmarks.baselines runs/penn-fudan-box+class --quick       (without GrabCut, a second or more a mask)

Boxes: the ellipse that fills the box, and OpenCV's GrabCut started from it (5 rounds). Points: a disc of the mean area
of the class's human masks around the point. Prints one JSON line: mIoU over true objects (misses count 0) of each, and
the ratio of the run's own to the best baseline. Hidden truth is read for scoring only.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.data import masks
from pipeline.data.images import read_upright
from pipeline.data.matching import matched_miou
from pipeline.data.records import RLE, Box, Instance, Record, Role, Source
from pipeline.engine.status import find_results
from pipeline.engine.streams import RecordStream
from pipeline.engine.units import RecordSet
from pipeline.export import images_root
from pipeline.stages.truth import read_truth

GRABCUT_ROUNDS = 5
Mask = npt.NDArray[np.bool_]
Draw = Callable[[Record, Instance], Mask | None]


@dataclass(frozen=True)
class Run:
    """A finished run's folder, and what ingest left in its store."""

    folder: Path
    dataset: Path
    truth: Path

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """The run in `folder`; BadPlan if there is none."""
        dataset, truth = (find_results(folder, "ingest", part=part) for part in ("dataset", "truth"))
        return cls(folder, dataset["ingest"], truth["ingest"])

    def records(self, *roles: Role) -> RecordStream:
        """What the run could see of the images of some roles."""
        found = RecordSet.of_folder(self.dataset / "records")
        return RecordStream(found, frozenset(roles), found.rows)

    def miou(self) -> float:
        """The run's own pseudo-mask mIoU."""
        return float(json.loads((self.folder / "metrics.json").read_text())["pseudo"]["miou"])


def ellipse(record: Record, instance: Instance) -> Mask | None:
    """The ellipse that touches the four sides of the instance's box; None without a box."""
    if instance.box_xyxy is None:
        return None
    x0, y0, x1, y1 = instance.box_xyxy
    return _round(record, centre=((x0 + x1) / 2, (y0 + y1) / 2), radii=((x1 - x0) / 2, (y1 - y0) / 2))


def disc(areas: dict[int | str | None, float]) -> Draw:
    """Discs around points, each of the mean area that `areas` gives for its class (None: of all classes)."""

    def draw(record: Record, instance: Instance) -> Mask | None:
        clicks = [point for point in instance.points if point.label == 1]
        if not clicks:
            return None
        radius = float(np.sqrt(areas.get(instance.class_id, areas[None]) / np.pi))
        return _round(record, centre=(clicks[0].x, clicks[0].y), radii=(radius, radius))

    return draw


def _round(record: Record, *, centre: tuple[float, float], radii: tuple[float, float]) -> Mask:
    rows, columns = np.ogrid[: record.height, : record.width]
    x = (columns + 0.5 - centre[0]) / max(radii[0], 0.5)
    y = (rows + 0.5 - centre[1]) / max(radii[1], 0.5)
    inside: Mask = x * x + y * y <= 1
    return inside


def grabcut(images_root: Path) -> Draw:
    """OpenCV's GrabCut started from the box, on the photos below `images_root`."""

    def draw(record: Record, instance: Instance) -> Mask | None:
        if instance.box_xyxy is None:
            return None
        image = read_upright(images_root / record.uri).image[:, :, ::-1].copy()
        state = np.zeros(image.shape[:2], np.uint8)
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(image, state, _cv_box(instance.box_xyxy), *models, GRABCUT_ROUNDS, cv2.GC_INIT_WITH_RECT)
        found: Mask = (state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD)
        return found

    return draw


def _cv_box(box: Box) -> tuple[int, int, int, int]:
    left, top = int(np.floor(box[0])), int(np.floor(box[1]))
    return left, top, max(1, int(np.ceil(box[2])) - left), max(1, int(np.ceil(box[3])) - top)


def mean_areas(records: Iterable[Record]) -> dict[int | str | None, float]:
    """Mean pixels of a human mask by class id; under None of all masks. ValueError without any mask."""
    areas: dict[int | str | None, list[int]] = defaultdict(list)
    for record in records:
        for instance in record.instances:
            if instance.source is Source.HUMAN and instance.rle is not None:
                size = masks.area(instance.rle)
                areas[instance.class_id].append(size)
                areas[None].append(size)
    if not areas:
        raise ValueError("a disc of the mean area needs human masks, found none")
    return {key: float(np.mean(sizes)) for key, sizes in areas.items()}


def baseline_miou(run: Run, draw: Draw) -> float:
    """mIoU of a baseline's masks on the prompts that the run had, against the same hidden truth."""
    truth = {record.image_id: record for record in read_truth(run.truth)}
    seen = [record for record in run.records(Role.WEAK) if record.image_id in truth]
    drawn = [replace(record, instances=tuple(_masked(record, draw))) for record in seen]
    score = matched_miou([truth[record.image_id] for record in seen], drawn).miou
    if score is None:
        raise ValueError(f"{run.folder}: no true object to compare with")
    return score


def _masked(record: Record, draw: Draw) -> Iterable[Instance]:
    for instance in record.instances:
        mask = draw(record, instance)
        rle: RLE | None = None if mask is None else masks.encode(mask)
        yield replace(instance, source=Source.TEACHER, rle=rle)


def baselines(run: Run, *, slow: bool = True) -> dict[str, float]:
    """Every baseline that the run's prompts allow; `slow` has GrabCut among them."""
    weak = list(run.records(Role.WEAK))
    found = {}
    if any(instance.box_xyxy is not None for record in weak for instance in record.instances):
        found["ellipse"] = baseline_miou(run, ellipse)
        if slow:
            found["grabcut"] = baseline_miou(run, grabcut(images_root(run.folder)))
    if any(instance.points for record in weak for instance in record.instances):
        areas = mean_areas(run.records(Role.HUMAN_MASKED, Role.RESERVED))
        found["disc"] = baseline_miou(run, disc(areas))
    return found


def main() -> int:
    """Print the line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--quick", action="store_true", help="without GrabCut")
    options = parser.parse_args()
    run = Run.open(options.run)
    found = baselines(run, slow=not options.quick)
    own = run.miou()
    ratio = own / max(found.values()) if found else None
    print(json.dumps({"run": options.run.name, "miou": own, **found, "ratio_to_best_baseline": ratio}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
