"""Evaluate and train_student: numbers that can be worked out by hand, and files that hang together."""

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from evaluate_fakes import ALL, LEFT, RIGHT, TOP, by, full, run, weak
from stage_fakes import (
    ONTOLOGY,
    FakeStudent,
    Stream,
    box_rle,
    context,
    human,
    record,
    teacher,
)

from pipeline.data.records import Instance, Origin, Point, Prompt, Record, Role
from pipeline.engine.stage import Stopped
from pipeline.report.case_documents import CasesFile
from pipeline.stages import evaluate, train_student
from pipeline.stages.cases import choose
from pipeline.stages.evaluate import Evaluate, EvaluateConfig
from pipeline.stages.scoring import ImageIous, overlap, pseudo_quality
from pipeline.stages.truth import TruthWriter, read_truth
from teachers.catalog import ModelSpec
from teachers.protocols import Sample


def test_pseudo_masks_are_scored_over_true_objects(tmp_path: Path) -> None:
    truth = [full(1, human(LEFT), human(RIGHT, 7, 2)), full(2, human(LEFT)), full(3, human(LEFT)), full(5)]
    found = [
        weak(1, by(Origin.DINO, TOP), by(Origin.SAM, RIGHT, 9)),
        weak(2, by(Origin.SAM, LEFT), teacher(ALL, dropped="score")),
        weak(3, dropped="truncated"),
        weak(5, by(Origin.DINO, LEFT)),
        record(8, Role.HUMAN_MASKED, instances=(human(LEFT),)),
    ]
    pseudo = run(tmp_path, found, truth)["pseudo"]
    assert pseudo["miou"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert pseudo["miou_images"] == pytest.approx((0.25 + 1) / 2)
    assert (pseudo["images"], pseudo["instances"], pseudo["misses"]) == (3, 3, 1)
    assert (pseudo["false_positives"], pseudo["pseudo_masks"], pseudo["dropped"]) == (2, 4, 1)
    assert pseudo["by_class"] == {"car": pytest.approx(0.75), "wheel": 0.0}
    assert pseudo["by_origin"] == {"dino": pytest.approx(0.5), "sam": pytest.approx(1.0)}
    assert pseudo["masks_by_origin"] == {"dino": 1, "sam": 1}
    assert pseudo["objects_by_class"] == {"car": 2, "wheel": 1}
    assert pseudo["missed_by_class"] == {"wheel": 1}
    assert [index for index, count in enumerate(pseudo["iou_counts"]) if count] == [10, 19]
    score = pseudo["reliability"]["score"]  # of all four masks, two of which match nothing
    assert (score["masks"], score["iou"], score["correlation"]) == (4, pytest.approx(1.5 / 4), None)
    assert score["bins"] == [
        {"low": 0.9, "high": 1.0, "masks": 4, "estimate": pytest.approx(0.9), "iou": pytest.approx(1.5 / 4)}
    ]


def test_without_hidden_truth_there_is_no_score(tmp_path: Path) -> None:
    assert run(tmp_path, [weak(1, teacher(LEFT))], [])["pseudo"] is None


def test_semantic_sets_get_foreground_overlap_and_no_ap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = FakeStudent({9: [teacher(LEFT, score=0.6), teacher(RIGHT, score=0.4)]})
    monkeypatch.setattr(evaluate.catalog, "load_artifact", lambda *_, **__: student)
    found = [weak(1, teacher(LEFT), teacher(TOP)), weak(2), record(9, Role.VAL, instances=(human(ALL),))]
    metrics = run(tmp_path, found, [full(1, human(ALL)), full(2)], semantic=True, students=("s",))
    assert metrics["pseudo"]["foreground_iou"] == pytest.approx((0.5 + 1) / 2)
    assert metrics["pseudo"]["foreground_dice"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["pseudo"]["miou"] is None
    assert metrics["students"]["s"]["foreground_iou"] == pytest.approx(0.5)
    assert metrics["students"]["s"]["AP"] is None


def test_a_student_is_scored_on_val_by_coco_ap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside_crowd = teacher(box_rle(17, 1, 20, 5), score=0.95)  # neither right nor wrong
    student = FakeStudent(
        {9: [inside_crowd, teacher(LEFT, score=0.9)], 1: [teacher(ALL, score=0.9), teacher(LEFT, score=0.1)]}
    )
    monkeypatch.setattr(evaluate.catalog, "load_artifact", lambda *_, **__: student)
    crowd = human(box_rle(16, 0, 32, 24), 3, 7)
    val = [
        record(9, Role.VAL, instances=(human(LEFT),), crowd=(crowd,)),
        record(10, Role.VAL, instances=(human(RIGHT, 3, 2),)),
    ]
    metrics = run(tmp_path, [weak(1, teacher(LEFT)), *val], [full(1, human(LEFT))], students=("a", "b"))
    assert sorted(metrics["students"]) == ["a", "b"]
    # One of two objects found perfectly: precision 1 up to recall 0.5, that is 51 of 101 points.
    assert metrics["students"]["a"]["AP"] == pytest.approx(51 / 101)
    assert metrics["students"]["a"]["APl"] is None
    (case,) = CasesFile.read(tmp_path / "out" / "cases.json").cases
    assert [mask.counts for mask in case.students["a"]] == [ALL.counts]


def test_cases_are_the_worst_and_the_typical(tmp_path: Path) -> None:
    truth = [full(i, human(LEFT)) for i in range(1, 21)] + [full(30)]
    shown = {1: None, 7: TOP}
    found = [weak(i, *([teacher(rle)] if (rle := shown.get(i, LEFT)) else [])) for i in range(1, 21)]
    run(tmp_path, [*found, weak(30)], truth)
    cases = CasesFile.read(tmp_path / "out" / "cases.json").cases
    assert [(c.image_id, c.why, c.miou) for c in cases[:2]] == [(1, "worst", 0.0), (7, "worst", 0.5)]
    assert [c.why for c in cases] == ["worst"] * 6 + ["typical"] * 4
    assert len({c.image_id for c in cases}) == 10
    assert [(c.rank, c.ranked) for c in cases[:2]] == [(1, 20), (2, 20)]
    assert [m.label for m in cases[0].truth] == ["car"]


@pytest.mark.parametrize("semantic", [False, True])
def test_every_image_of_many_is_ranked(semantic: bool) -> None:
    many = [(full(i, human(LEFT)), weak(i, teacher(TOP if i == 3994 else LEFT))) for i in range(1, 4002)]
    many[3995] = (full(3996, human(LEFT)), weak(3996))
    ious = ImageIous()
    pseudo_quality(many, ontology=ONTOLOGY, semantic=semantic, note=ious.note)
    chosen = choose(many, ious, worst=2, typical=1)
    assert [(c.pair[0].image_id, c.miou, c.rank) for c in chosen[:2]] == [(3996, 0.0, 1), (3994, 0.5, 2)]
    assert [(c.why, c.rank, c.ranked) for c in chosen[2:]] == [("typical", 2002, 4001)]


def test_a_case_tells_what_matched_and_what_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = FakeStudent(
        {1: [teacher(ALL, 7, score=0.9), teacher(LEFT, 7, score=0.2), teacher(TOP, score=0.4)]}
    )
    monkeypatch.setattr(evaluate.catalog, "load_artifact", lambda *_, **__: student)
    asked = Prompt(Origin.DINO, box_xyxy=(0, 0, 8, 4), points=(Point(1, 2),), class_id=3)
    truth = [full(1, human(LEFT), human(None, human_id=3), human(RIGHT, 7, 2))]
    found = [weak(1, teacher(RIGHT, 9), teacher(TOP, prompt=asked), teacher(LEFT, dropped="x"))]
    run(tmp_path, found, truth, students=("s",))
    (case,) = CasesFile.read(tmp_path / "out" / "cases.json").cases
    assert [(m.label, m.partner, m.iou) for m in case.pseudo] == [("tree", None, None), ("car", 0, 0.5)]
    # The student's surest first; partners are places among the drawn true objects.
    assert [(m.partner, m.iou) for m in case.students["s"]] == [(1, 0.5), (0, 0.5)]
    mask = case.pseudo[1]
    assert (mask.box, mask.points, mask.origin) == ((0, 0, 8, 4), [(1, 2, 1)], "dino")
    assert case.truth[0].box is None


def test_every_image_is_a_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that is silent for minutes is taken for stalled and killed."""
    monkeypatch.setattr(evaluate.catalog, "load_artifact", lambda *_, **__: FakeStudent({}))
    told: list[tuple[int, int, str]] = []
    found = [weak(i, teacher(LEFT)) for i in (1, 2)] + [record(9, Role.VAL, instances=(human(LEFT),))]
    truth = [full(i, human(LEFT)) for i in (1, 2)]
    run(tmp_path, found, truth, students=("a",), progress=lambda *state: told.append(state))
    assert told.index((2, 3, "pseudo-masks")) < told.index((0, 3, "student a"))
    assert {state for state in told if state[2] == "student a"} == {(i, 3, "student a") for i in range(3)}
    assert told[-2:] == [(1, 2, "cases to draw"), (2, 2, "cases to draw")]


def test_val_records_are_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []

    def records_alive() -> int:
        return sum(type(thing) is Record for thing in gc.get_objects())

    class Counting(FakeStudent):
        def predict(self, batch: Sequence[Sample]) -> list[list[Instance]]:
            held.append(records_alive())
            return super().predict(batch)

    class Fresh(Stream):
        def __iter__(self) -> Iterator[Record]:
            return (record(i, Role.VAL, instances=(human(LEFT),)) for i in range(1, 41))

    monkeypatch.setattr(evaluate.catalog, "load_artifact", lambda *_, **__: Counting({}))
    assert run(tmp_path, list(Fresh([])), [], students=("a",))["students"]["a"]["images"] == 40
    artifacts = {"dataset": tmp_path / "dataset", "truth": tmp_path / "truth", "student.a": tmp_path}
    held.clear()
    before = records_alive()
    Evaluate(EvaluateConfig()).run(Fresh(range(40)), context(tmp_path, artifacts=artifacts))
    assert max(held) - before < 10


def test_evaluate_stops_between_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate.catalog, "load_artifact", lambda *_, **__: FakeStudent({}))
    val = record(9, Role.VAL, instances=(human(LEFT),))
    with pytest.raises(Stopped):
        run(tmp_path, [val], [], students=("a",), should_stop=lambda: True)


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [([], [], (1, 1)), ([LEFT], [], (0, 0)), ([], [LEFT], (0, 0)), ([LEFT, RIGHT], [ALL, TOP], (1, 1))],
)
def test_foreground_overlap(truth: list, found: list, expected: tuple[float, float]) -> None:
    assert overlap(truth, found) == expected


def test_truth_is_streamed_back_whole_and_in_order(tmp_path: Path) -> None:
    items = [full(i, human(LEFT, human_id=i)) for i in range(1, 200)]
    with TruthWriter(tmp_path / "truth") as writer:
        for item in items:
            writer.add(item)
    assert list(read_truth(tmp_path / "truth")) == items


def test_train_student_names_its_artifact_and_passes_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    class Learner:
        def fit(self, data: Stream, _: object) -> dict[str, int]:
            return {"images": len(data)}

    def load(spec: ModelSpec, **_: object) -> Learner:
        seen.append(spec.settings)
        return Learner()

    monkeypatch.setattr(train_student.catalog, "load", load)
    spec = ModelSpec(name="big", use="fake", settings={"steps": 1})
    stage = train_student.TrainStudent(train_student.TrainStudentConfig(model=spec, steps=5))
    assert stage.produces == "student.big"
    assert stage.run(Stream([record()]), context(tmp_path)) == {"images": 1}
    assert seen == [{"steps": 5}]
    assert Role.VAL not in stage.roles
