"""What the embedded SAM is worth on photographs it was not tuned on: true boxes in, masks out, beside trivial masks.

    python -m benchmarks.photos --data=DIR [--sets penn-fudan car-parts] [--images 60]

Mean IoU over the objects of each set's train split (crowd regions left out; nothing is tuned, so nothing is held back):
zero-shot SAM with and without enlarged parts (`zoom`), the ellipse that fills the box, and OpenCV's GrabCut started
from it. Prints one JSON line a set; exits 1 unless SAM is above the ellipse on each.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from benchmarks.baselines import ellipse, grabcut
from pipeline.data import masks
from pipeline.data.coco import read_records
from pipeline.data.images import read_upright
from pipeline.data.records import RLE, Instance, Ontology, Record, Role, WeakKind
from pipeline.data.weak import simulate
from teachers.catalog import ModelSpec, load_teacher
from teachers.protocols import Sample, Teacher
from teachers.settings import TINY_ZOOM

SETS = ("penn-fudan", "car-parts", "dsb2018-nuclei")
SPLIT = "train"
Segment = Callable[[Record], list[RLE | None]]  # a mask for each box of a record


def zero_shot(folder: Path, ontology: Ontology, zoom: float) -> Segment:
    """Plain SAM on the photos of a folder."""
    settings = {"sam": "tiny", "zoom": zoom}
    spec = ModelSpec(name="teacher", use="sam", settings=settings)
    teacher: Teacher = load_teacher(spec, ontology=ontology, device="cpu")

    def segment(seen: Record) -> list[RLE | None]:
        image = read_upright(folder / seen.uri).image
        (found,) = teacher.label([Sample(seen, image)])
        return [instance.rle for instance in found]

    return segment


def drawn(draw: Callable[[Record, Instance], np.ndarray | None]) -> Segment:
    """A trivial mask for each box."""

    def segment(seen: Record) -> list[RLE | None]:
        found = (draw(seen, instance) for instance in seen.instances)
        return [None if mask is None else masks.encode(mask) for mask in found]

    return segment


def ious(record: Record, segment: Segment) -> list[float]:
    """IoU of each object with the mask made from its box; 0 without one."""
    full = [instance for instance in record.instances if instance.rle is not None]
    found = segment(simulate(record, WeakKind.BOX, 0))
    if len(found) != len(full):
        raise ValueError(f"{record.uri}: expected a mask for each of {len(full)} objects, found {len(found)}")
    return [
        0.0 if one is None or thing.rle is None else float(masks.iou_matrix([one], [thing.rle])[0, 0])
        for one, thing in zip(found, full, strict=True)
    ]


def score(folder: Path, *, most: int) -> Mapping[str, float | str]:
    """One set's line."""
    ontology, records = read_records(folder / f"{SPLIT}.json", split=SPLIT, role=Role.HUMAN_MASKED)
    records = records[:most]
    images = folder / "images"
    ways = {
        "sam": zero_shot(images, ontology, TINY_ZOOM),
        "sam without zoom": zero_shot(images, ontology, 0.0),
        "ellipse": drawn(ellipse),
        "grabcut": drawn(grabcut(images)),
    }
    found = {name: [iou for record in records for iou in ious(record, way)] for name, way in ways.items()}
    means = {name: round(float(np.mean(values)), 4) for name, values in found.items()}
    return {"set": folder.name, "images": len(records), "objects": len(found["sam"]), **means}


def main() -> int:
    """Print the lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder of the sets")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--images", type=int, default=60, help="so many of each set's train split")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    lines = [score(asked.data / name, most=asked.images) for name in asked.sets]
    print("\n".join(map(json.dumps, lines)))
    return 0 if all(float(line["sam"]) > float(line["ellipse"]) for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
