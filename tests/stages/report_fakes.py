"""The report stage on a folder of the test's own, with as much in it as the test put there."""

from collections.abc import Sequence
from pathlib import Path

from evaluate_fakes import HOSTILE, LEFT, RIGHT, TOP, full, run, summary, weak
from stage_fakes import FakeStudent, Stream, context, human, record, teacher

from pipeline.data.records import Instance, Match, Origin, Point, Prompt, Record, Role
from pipeline.engine.context import RunFacts
from pipeline.report.documents import GateFile, GateVariant, QuarantineFile
from pipeline.stages.cost import Cost, CostConfig
from pipeline.stages.report import Report, ReportConfig

FACTS = RunFacts("mine", "2030-01-02", "data:\n  source: coco\nnote: <b>bold</b>\n", {"omnimask": "9.9"})
STUDENT = FakeStudent({i: [teacher(LEFT, score=0.9), teacher(TOP, 7, score=0.4)] for i in (1, 2, 9)})


def reported(
    folder: Path, found: Sequence[Record], *, config: dict[str, object] | None = None, **more: object
) -> str:
    """The page of what lies in `folder`: the dataset, and the metrics if evaluate left any."""
    artifacts = {"dataset": folder / "dataset"}
    if (folder / "out" / "metrics.json").exists():
        (folder / "metrics").mkdir()
        for name in ("metrics.json", "cases.json"):
            (folder / "out" / name).rename(folder / "metrics" / name)
    if (folder / "metrics").exists():
        artifacts["metrics"] = folder / "metrics"
    artifacts |= {name: folder / name for name in ("gate", "cost") if (folder / name).exists()}
    stage = Report(ReportConfig.model_validate(config or {}))
    told = stage.run(Stream(found), context(folder, artifacts=artifacts, **more))
    html = (folder / "out" / "index.html").read_text(encoding="utf-8")
    assert told == {"bytes": len(html.encode())}
    return html


def ingested(folder: Path, *, semantic: bool = False, quarantine: QuarantineFile | None = None) -> None:
    (folder / "dataset").mkdir(parents=True)
    summary(semantic=semantic).write(folder / "dataset" / "summary.json")
    (quarantine or QuarantineFile(images=[], annotations=[])).write(folder / "dataset" / "quarantine.json")


def pointed(rle: object, match: Match, origin: Origin, **more: object) -> Instance:
    prompt = Prompt(origin, box_xyxy=(0, 0, 9, 9), points=(Point(2, 2),), class_id=3)
    return teacher(rle, prompt=prompt, points=(Point(2, 2),), match=match, **more)


def whole_run(folder: Path) -> Path:
    """The page of a run that has everything, hostile names too; students are loaded from what the test put there."""
    box = Prompt(Origin.DINO, box_xyxy=(0, 0, 9, 9), class_id=3, score=0.7)
    alone = Prompt(Origin.HUMAN, points=(Point(30, 20),), class_id=3)
    bare = teacher(None, prompt=alone, match=Match(None, None), dropped="empty mask")
    taken = pointed(TOP, Match(0, -1.0, 0.9), Origin.DINO, pred_iou=0.4, stability=0.5)
    left = pointed(RIGHT, Match(None, None), Origin.SAM, pred_iou=0.6)
    found = [weak(1, taken, proposals=(box, box)), weak(2, left, bare), weak(4, dropped=HOSTILE)]
    masked = record(5, Role.HUMAN_MASKED, instances=(human(LEFT),))
    val = record(9, Role.VAL, instances=(human(LEFT),))
    truth = [full(1, human(LEFT), human(RIGHT, 7, 2)), full(2, human(TOP))]
    run(folder, [*found, masked, val], truth, students=("a", "<b>"))
    timings = {"propose": 3.0, "train_student": 200.0}
    for name in ("cost", "gate"):
        (folder / name).mkdir()
    artifacts = {"dataset": folder / "dataset"}
    lent = context(folder, artifacts=artifacts, out=folder / "cost", timings=timings)
    Cost(CostConfig(hourly_rate=8)).run(Stream([*found, masked]), lent)
    tuned = GateVariant(
        tuned=0.8, zero_shot=0.6, use="tuned", images=2, instances=9, method="reserved", why=HOSTILE
    )
    GateFile({"box": tuned}).write(folder / "gate" / "gate.json")
    reported(folder, found, config={"title": HOSTILE}, timings=timings, run=FACTS)
    return folder / "out" / "index.html"
