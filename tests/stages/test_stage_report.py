"""The stage as a whole: whatever a run has or lacks, one page that says so, the same bytes each time."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from evaluate_fakes import ALL, HOSTILE, LEFT, RIGHT, TOP, full, run, summary, weak
from report_fakes import FACTS, ingested, pointed, reported
from stage_fakes import FakeStudent, human, record, teacher, write_images

from pipeline.data.records import Category, Match, Ontology, Origin, Point, Prompt, Role
from pipeline.report.blocks import Dots, Table, Text
from pipeline.report.documents import GateFile, GateVariant, LabelledGate, MetricsFile, QuarantineFile
from pipeline.report.head import Known, facts
from pipeline.report.sections import gate, times
from pipeline.stages import evaluate


def test_a_report_of_a_whole_run(tmp_path: Path) -> None:
    found = [weak(i, teacher(TOP, pred_iou=0.1 * i, stability=0.9)) for i in (1, 2)]
    found += [weak(4, dropped="image <i>4</i>: truncated")]
    run(tmp_path, found, [full(1, human(LEFT)), full(2, human(TOP))])
    html = reported(
        tmp_path, found, config={"title": HOSTILE}, timings={"propose": 3.0, "cost": 1.0}, run=FACTS
    )
    assert "<script" not in html
    assert "<b>empty" not in html
    assert "<b>bold" not in html
    assert "&lt;script&gt;" in html
    assert "val image ids &lt;i&gt;overlap" in html
    assert "image &lt;i&gt;4&lt;/i&gt;: truncated" in html
    assert html.index("predicted IoU 0.10, stability 0.90") < html.index("predicted IoU 0.20, stability 0.90")
    assert html.count("data:image/webp") == 2 + 2
    assert html.count("data:image/png") == 2 * 3 + 2
    for part in ("trust", "quality", "cases", "doubtful", "times", "quarantine", "run"):
        assert f'<h2 id="{part}">' in html
    for text in (
        "run mine · 2030-01-02",
        "0 with human masks, weak labels of the others: point+class; 1 val image besides",
        "of the stages before this report, when their results were made",
        "omnimask 9.9",
        "pipeline run config.yaml --out=runs/again --data=DIR",
    ):
        assert text in html


def test_the_head_counts_train_and_val_apart_and_sums_what_the_times_list() -> None:
    roles = {"weak": 20, "human_masked": 3, "reserved": 1, "val": 4}
    known = Known(summary().model_copy(update={"images": 28, "roles": roles}))
    images, machine = facts(known, {"propose": 3.0, "cost": 1.5})
    assert (images.value, images.label) == ("24", "train images")
    assert images.note == "4 with human masks, weak labels of the others: point+class; 4 val images besides"
    assert (machine.value, machine.label) == ("4.5 s", "machine time")
    table = next(b for b in times({"propose": 3.0, "cost": 1.5}, None).blocks if isinstance(b, Table))
    assert table.rows[-1] == ("all before this report", "", "4.5 s", "")


DETECTED = "times the confidence of the detection whose box was used."
MIXED = "used; masks without a detection have no such factor"
ORDERS = (
    (0.02, 0.52, ("dino", "sam"), ("(rank correlation with the IoU 0.02 against 0.52)", MIXED)),
    (-0.3, 0.0, ("dino",), ("(rank correlation with the IoU -0.30 against 0.00)", DETECTED)),
    (0.52, 0.52, ("dino", "sam"), ()),
    (0.516, 0.524, ("dino", "sam"), ()),  # equal as they are printed
    (0.7, 0.5, ("dino", "sam"), ()),
    (None, 0.5, ("dino", "sam"), ()),
    (0.1, None, ("dino", "sam"), ()),
)


@pytest.mark.parametrize(("said", "alone", "origins", "words"), ORDERS)
def test_a_score_that_orders_worse_than_predicted_iou_is_told(
    tmp_path: Path, said: float | None, alone: float | None, origins: Sequence[str], words: Sequence[str]
) -> None:
    found = [weak(1, teacher(LEFT, pred_iou=0.5))]
    run(tmp_path, found, [full(1, human(LEFT))])
    path = tmp_path / "out" / "metrics.json"
    metrics = json.loads(path.read_text())
    for name, value in (("score", said), ("predicted IoU", alone)):
        metrics["pseudo"]["reliability"][name]["correlation"] = value
    metrics["pseudo"]["masks_by_origin"] = dict.fromkeys(origins, 1)
    path.write_text(json.dumps(metrics))
    html = reported(tmp_path, found)
    assert ("orders the masks worse than the predicted IoU" in html) == bool(words)
    assert all(text in html for text in words)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    found = [weak(i, teacher(TOP, pred_iou=0.5), teacher(RIGHT, 9, pred_iou=0.5)) for i in (1, 2, 3)]
    run(tmp_path, found, [full(i, human(LEFT)) for i in (1, 2, 3)])
    pages = [reported(tmp_path, found, timings={"gate": 1.0}, run=FACTS) for _ in range(2)]
    assert pages[0] == pages[1]


def test_a_report_with_nothing_but_ingest(tmp_path: Path) -> None:
    ingested(tmp_path)
    html = reported(tmp_path, [])
    for text in ("Nothing was left out", "No truth was hidden", "No pseudo-mask has an estimate"):
        assert text in html
    for part in ("bill", "quality", "gate", "students", "cases", "unmatched", "times", "run"):
        assert f'id="{part}"' not in html


def test_without_hidden_truth_the_page_says_so(tmp_path: Path) -> None:
    found = [weak(1, teacher(LEFT, pred_iou=0.5))]
    run(tmp_path, found, [])
    html = reported(tmp_path, found)
    assert "There was no hidden truth to compare with" in html
    assert 'id="quality"' not in html
    assert html.count("data:image/webp") == 1


def test_a_semantic_set_has_overlap_and_pictures(tmp_path: Path) -> None:
    found = [weak(1, teacher(TOP)), weak(2, teacher(LEFT))]
    run(tmp_path, found, [full(1, human(LEFT)), full(2, human(ALL))], semantic=True)
    html = reported(tmp_path, found)
    assert "foreground IoU 0.500, Dice 0.667" in html
    assert html.count('class="shot"') == 2


def test_a_student_has_its_layer_its_score_and_hostile_names_stay_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = FakeStudent({1: [teacher(LEFT, score=0.9)], 9: [teacher(LEFT, score=0.9)]})
    monkeypatch.setattr(evaluate.catalog, "load_artifact", lambda *_, **__: student)
    name = '<img src=x onerror="alert(1)">'
    ontology = Ontology((Category(3, name), Category(7, "wheel")))
    found = [weak(1, teacher(LEFT, pred_iou=0.5))]
    everything = [*found, record(9, Role.VAL, instances=(human(LEFT),))]
    run(tmp_path, everything, [full(1, human(LEFT))], students=("a", "<b>"), ontology=ontology)
    html = reported(tmp_path, found, ontology=ontology)
    assert "<img" not in html
    assert "&lt;img src=x onerror=&#34;alert(1)&#34;&gt;" in html
    assert "&lt;b&gt; IoU" in html
    assert 'class="own own-student-1"' in html
    assert ".all-student-1:checked" in html
    assert "AP of a" in html


MATCHES = (
    (Match(0, -1.0, 0.9), Origin.DINO, "took a detection&#39;s box"),
    (Match(None, 3.0), Origin.SAM, "no detection fits"),
    (Match(None, None), Origin.SAM, "no detection left"),
)


@pytest.mark.parametrize(("match", "origin", "words"), MATCHES)
def test_what_became_of_a_point_is_told(tmp_path: Path, match: Match, origin: Origin, words: str) -> None:
    ingested(tmp_path)
    box = Prompt(Origin.DINO, box_xyxy=(0, 0, 9, 9), class_id=3, score=0.7)
    found = [weak(1, pointed(LEFT, match, origin, pred_iou=0.4), proposals=(box, replace(box, score=0.6)))]
    write_images(tmp_path / "images", found)
    html = reported(tmp_path, found)
    assert words in html
    assert "1 point met 2 detections" in html
    lone = match.proposal is None
    assert ("Points without a detection, the most" in html) == lone
    assert f"{2 if lone else 1} of the 2 detections were not used, {2 if lone else 1} of these" in html
    assert f"confidence {0.7 if lone else 0.6:.2f}, not used" in html


def test_a_point_that_got_nothing_is_told_and_drawn_first(tmp_path: Path) -> None:
    ingested(tmp_path)
    alone = Prompt(Origin.HUMAN, points=(Point(30, 20),), class_id=3)
    nothing = teacher(None, prompt=alone, match=Match(None, None), dropped="empty mask", pred_iou=0.9)
    left = pointed(LEFT, Match(None, None), Origin.SAM, pred_iou=0.1)
    found = [weak(1, left), weak(2, left, nothing), weak(3, pointed(LEFT, Match(0, -1.0, 0.9), Origin.DINO))]
    write_images(tmp_path / "images", found)
    html = reported(tmp_path, found)
    assert (
        "25% of the points took a detection&#39;s box, 50% kept the box of SAM&#39;s own mask, 25% got no box at all"
        in html
    )
    assert html.index("no box; its mask is empty; 2.png") < html.index(
        "no detection left; predicted IoU 0.10; 1.png"
    )
    assert "No pseudo-mask of car: it is empty" in html
    assert "got no box at all" not in reported(tmp_path, found[::2])


def test_without_points_detections_stand_alone(tmp_path: Path) -> None:
    ingested(tmp_path)
    used = Prompt(Origin.DINO, box_xyxy=(0, 0, 9, 9), class_id=3, score=0.7)
    found = [weak(1, teacher(LEFT, prompt=used), proposals=(used, replace(used, score=0.2, class_id=9)))]
    write_images(tmp_path / "images", found)
    html = reported(tmp_path, found)
    assert "Detections that became no mask" in html
    assert "1 of the 2 detections were not used, 0 of these" in html
    assert "Points without" not in html
    assert "no mask of tree in the image" in html


def test_a_gate_without_a_comparison_says_so(tmp_path: Path) -> None:
    ingested(tmp_path)
    (tmp_path / "gate").mkdir()
    none = GateVariant(
        tuned=None, zero_shot=None, use="zero_shot", images=0, instances=0, method="none", why="few <b>"
    )
    GateFile({"box": none}).write(tmp_path / "gate" / "gate.json")
    html = reported(tmp_path, [])
    assert "Nothing was compared: the zero-shot teacher is used." in html
    assert "few &lt;b&gt;" in html


def test_a_gate_says_what_decided_and_what_heads_are_worth_alone() -> None:
    labelled = LabelledGate(tuned=0.5, zero_shot=0.55, objects=9)
    known = {"images": 2, "instances": 9, "method": "reserved", "why": "why"}
    point = GateVariant(tuned=0.8, zero_shot=0.6, use="zero_shot", labelled=labelled, **known)
    box = GateVariant(tuned=0.7, zero_shot=0.6, use="tuned", **known)
    words, table, _ = gate(GateFile({"point": point, "box": box})).blocks
    assert isinstance(words, Text)
    assert isinstance(table, Table)
    rows = [row[2:7] for row in table.rows]
    assert rows == [
        ("0.550", "0.500", "-0.050", "+0.200", "zero-shot"),
        ("0.600", "0.700", "+0.100", "+0.100", "tuned"),
    ]
    assert [row[1] for row in table.rows] == [Dots(0.55, 0.5), Dots(0.6, 0.7)]
    assert "used for 1 of 2 kinds of prompt" in words.lines[0]


@pytest.mark.parametrize(("classes", "folds"), [(1, 0), (40, 0), (300, 1)])
def test_many_classes_are_shown_from_both_ends(tmp_path: Path, classes: int, folds: int) -> None:
    run(tmp_path, [weak(1, teacher(LEFT))], [full(1, human(LEFT))])
    path = tmp_path / "out" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["pseudo"]["by_class"] = {f"c{i:03}": i / classes for i in range(classes)}
    metrics["pseudo"]["objects_by_class"] = {f"c{i:03}": 10 for i in range(classes)}
    path.write_text(json.dumps(metrics))
    assert MetricsFile.read(path).pseudo is not None
    html = reported(tmp_path, [weak(1, teacher(LEFT))])
    assert html.count("The other 260 classes") == folds
    assert all(f">c{i:03}<" in html for i in range(classes))


def test_pictures_end_where_the_budget_does(tmp_path: Path) -> None:
    found = [weak(i, teacher(TOP, pred_iou=0.1 * i)) for i in (1, 2, 3)]
    run(tmp_path, found, [full(i, human(LEFT)) for i in (1, 2, 3)])
    html = reported(tmp_path, found, config={"picture_mb": 0.0018})
    assert 0 < html.count("data:image/webp") < 6
    assert "photos left out to keep the page small" in html
    html = reported(tmp_path, found, config={"picture_mb": 0})
    assert "data:image" not in html


def test_quarantine_is_gathered_by_reason(tmp_path: Path) -> None:
    bad = [
        {"entry": f"train image {i} ({i}.jpg)", "reason": f"image {i}.jpg: cut off at {i} bytes"}
        for i in range(40)
    ]
    bad.append({"entry": HOSTILE, "reason": "images[3] (id 7): width: expected an integer, found 'x'"})
    ingested(tmp_path, quarantine=QuarantineFile.model_validate({"images": bad, "annotations": []}))
    html = reported(tmp_path, [])
    assert html.index("40 × cut off at # bytes") < html.index(
        "1 × width: expected an integer, found &#39;…&#39;"
    )
    assert "40 entries, the first 25 shown" in html
    assert "Images at ingest: 41" in html
