"""Can the tiny student learn at all? It trains on 8 toyworld scenes and is scored on the same 8.

    python -m benchmarks.overfit_student            (or: make overfit-student; 2 to 3 minutes on 2 cores)

Prints one JSON line with AP and AP50 on these scenes and the loss before and after; exits 1 unless AP50 > 0.5.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from pipeline.data.coco import read_records
from pipeline.data.coco_ap import coco_ap, detections
from pipeline.data.images import read_upright
from pipeline.data.records import Record, Role
from pipeline.engine.files import file_digest
from pipeline.engine.stage import TrainContext
from pipeline.toyworld.dataset import write_dataset
from students.mask2former import Mask2Former
from students.settings import Mask2FormerSettings
from teachers.protocols import Sample

SCENES, STEPS, BATCH = 8, 600, 4
PASS = 0.5


def main() -> int:
    """Train, score, print."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = overfit(Path(folder))
    print(json.dumps(numbers))
    return 0 if numbers["AP50"] > PASS else 1


def overfit(root: Path) -> dict[str, float]:
    """AP, AP50, losses, steps and seconds of a student on the scenes it was trained on."""
    write_dataset(root, splits={"train": SCENES})
    ontology, listed = read_records(root / "train.json", split="train", role=Role.HUMAN_MASKED)
    records = [replace(record, sha256=file_digest(root / "images" / record.uri)) for record in listed]
    for name in ("work", "out"):
        (root / name).mkdir()
    context = TrainContext(
        device="cpu",
        ontology=ontology,
        images_root=root / "images",
        artifacts={},
        seed=0,
        workdir=root / "work",
        out=root / "out",
        progress=_say,
        should_stop=lambda: False,
    )
    settings = Mask2FormerSettings(variant="tiny", steps=STEPS, batch_size=BATCH)
    student = Mask2Former(settings, ontology=ontology, device="cpu")
    metrics = student.fit(records, context)
    found = [
        detection
        for record in records
        for detection in detections(record, student.predict([_sample(record, context.images_root)])[0])
    ]
    scores = coco_ap(root / "train.json", found)
    return {
        **{name: scores[name] or 0.0 for name in ("AP", "AP50")},
        **{name: float(metrics[name] or 0) for name in ("loss_first", "loss_last", "steps", "seconds")},
    }


def _sample(record: Record, images: Path) -> Sample:
    return Sample(record, read_upright(images / record.uri).image)


def _say(step: int, total: int, note: str) -> None:
    if step % max(total // 10, 1) == 0:
        print(f"step {step} of {total}: {note}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
