"""A run up to evaluate in a folder of the test's own: what came in, what was hidden, what was found."""

import json
from pathlib import Path

from stage_fakes import Stream, box_rle, context, record, teacher, write_images

from pipeline.data.records import Instance, Origin, Prompt, Record
from pipeline.report.documents import QuarantineFile, SummaryFile
from pipeline.stages.evaluate import Evaluate, EvaluateConfig
from pipeline.stages.truth import TruthWriter

LEFT, RIGHT, ALL = box_rle(0, 0, 8, 8), box_rle(8, 0, 16, 8), box_rle(0, 0, 16, 8)
TOP = box_rle(0, 0, 8, 4)
HOSTILE = "</td><script>alert(1)</script>.png"


def summary(*, semantic: bool = False) -> SummaryFile:
    return SummaryFile(
        images=3,
        bad_images=1,
        annotations=9,
        bad_annotations=0,
        classes=3,
        roles={"weak": 2, "val": 1},
        weak="point+class",
        semantic=semantic,
        notes=["val image ids <i>overlap</i>"],
    )


def by(origin: Origin, rle: object, class_id: int = 3) -> Instance:
    return teacher(rle, class_id, prompt=Prompt(origin, box_xyxy=(0, 0, 4, 4), class_id=class_id))


def run(
    folder: Path,
    found: list[Record],
    truth: list[Record],
    *,
    semantic: bool = False,
    students: tuple[str, ...] = (),
    **more: object,
) -> dict[str, object]:
    dataset = folder / "dataset"
    dataset.mkdir(parents=True)
    summary(semantic=semantic).write(dataset / "summary.json")
    QuarantineFile(images=[{"entry": HOSTILE, "reason": "is <b>empty</b>"}], annotations=[]).write(
        dataset / "quarantine.json"
    )
    with TruthWriter(folder / "truth") as writer:
        for item in truth:
            writer.add(item)
    write_images(folder / "images", found)
    artifacts = {"dataset": dataset, "truth": folder / "truth"}
    artifacts |= {f"student.{name}": folder / name for name in students}
    Evaluate(EvaluateConfig()).run(Stream(found), context(folder, artifacts=artifacts, **more))
    return json.loads((folder / "out" / "metrics.json").read_text())


def weak(image_id: int, *instances: Instance, **more: object) -> Record:
    return record(image_id, instances=instances, **more)


def full(image_id: int, *instances: Instance) -> Record:
    return record(image_id, instances=instances)
