"""The stages around a teacher, on doubles: what reaches the model, what becomes of its answers."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from stage_fakes import (
    ONTOLOGY,
    FakeProposer,
    FakeTeacher,
    Stream,
    box_rle,
    boxed,
    context,
    human,
    point,
    record,
    teacher,
    write_images,
)

from pipeline.data.errors import BadInput
from pipeline.data.records import RLE, Instance, Record, Role, Source, WeakKind
from pipeline.engine.stage import Stopped
from pipeline.report.documents import GateFile, SummaryFile
from pipeline.stages import finetune_teacher, gate, propose, pseudo_label
from pipeline.stages.models import with_settings
from pipeline.stages.propose import wanted
from teachers.catalog import ModelSpec
from teachers.gating import Fold, Scores
from teachers.protocols import Sample

SPEC = ModelSpec(name="model", use="fake", settings={"steps": 7})
MASK = box_rle(2, 2, 10, 10)


@pytest.mark.parametrize(
    ("labels", "tags", "expected"),
    [
        ((), None, [3, 7, 9]),
        ((), (7,), [7]),
        ((), (), []),
        ((point(1, 1, 7),), (7,), [7]),
        ((point(1, 1, 7),), (3, 7), [3, 7]),
        ((point(1, 1, 7),), None, [7]),
        ((boxed((0, 0, 4, 4)),), (3,), []),
        ((boxed((0, 0, 4, 4)),), None, []),
        ((boxed((0, 0, 4, 4)), point(1, 1, 9, 2)), (3, 7, 9), [7, 9]),
        ((replace(boxed((0, 0, 4, 4)), source=Source.TEACHER, rle=MASK),), None, []),
        ((replace(boxed((0, 0, 4, 4)), source=Source.TEACHER, rle=MASK),), (3, 7), [7]),
    ],
)
def test_which_classes_are_looked_for(
    labels: tuple, tags: tuple[int, ...] | None, expected: list[int]
) -> None:
    assert wanted(record(instances=labels, tags=tags), ONTOLOGY) == expected


def test_propose_keeps_what_is_sure_enough_and_reads_no_needless_photo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeProposer({3: 0.09, 7: 0.1, 9: 0.31})
    monkeypatch.setattr(propose, "load_proposer", lambda *_: fake)
    items = [
        record(1, tags=(3, 7, 9), instances=(point(1, 1, 7),)),
        record(2, tags=(3,), instances=(boxed((0, 0, 4, 4)),)),
    ]
    write_images(tmp_path / "images", items[:1])  # the second photo is not there, and is not missed
    stage = propose.Propose(propose.ProposeConfig(model=SPEC))
    stage.setup(context(tmp_path))
    first, second = stage([stage.load(item) for item in items])
    assert fake.asked == [[3, 7, 9], []]
    assert [p.class_id for p in first.proposals] == [7, 9]
    assert second == items[1]
    assert stage.blank(items[0]).image.shape == (24, 32, 3)


def label(folder: Path, fake: object, monkeypatch: pytest.MonkeyPatch, items: list[Record]) -> list[Record]:
    seen: dict[str, object] = {}

    def load(spec: ModelSpec, _: object, *, artifact: Path | None) -> object:
        seen.update(settings=spec.settings, artifact=artifact)
        return fake

    monkeypatch.setattr(pseudo_label, "load_teacher", load)
    stage = pseudo_label.PseudoLabel(pseudo_label.PseudoLabelConfig(model=SPEC, alpha=4))
    write_images(folder / "images", items)
    artifacts = {name: folder / name for name in ("teacher", "gate") if (folder / name).exists()}
    stage.setup(context(folder, artifacts=artifacts))
    assert seen["settings"] == {"steps": 7, "alpha": 4}
    assert seen["artifact"] == artifacts.get("teacher")
    return stage([stage.load(item) for item in items])


def test_weak_labels_become_masks_and_human_masks_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masked = human(MASK, 7, 9)
    (tmp_path / "teacher").mkdir()
    (out,) = label(tmp_path, FakeTeacher(), monkeypatch, [record(instances=(masked, point(3, 3)))])
    kept, made = out.instances
    assert kept == masked
    assert (made.source, made.rle, made.human_id, made.points[0].x) == (Source.TEACHER, MASK, 1, 3)


def test_the_gate_decides_which_variant_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = GatedFake()
    (tmp_path / "gate").mkdir()
    GateFile({"box": gate.untuned("why")}).write(tmp_path / "gate" / "gate.json")
    label(tmp_path, fake, monkeypatch, [record()])
    assert fake.chosen == {"box": "zero_shot"}


def test_a_photo_that_changed_since_ingest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "images", [record(2)])
    (tmp_path / "images" / "2.png").rename(tmp_path / "images" / "1.png")
    monkeypatch.setattr(pseudo_label, "load_teacher", lambda *_, **__: FakeTeacher())
    stage = pseudo_label.PseudoLabel(pseudo_label.PseudoLabelConfig(model=SPEC))
    stage.setup(context(tmp_path))
    with pytest.raises(BadInput, match="changed since ingest"):
        stage.load(record(1))


@pytest.mark.parametrize(("steps", "expected"), [(None, 7), (3, 3)])
def test_finetune_passes_its_steps_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int | None, expected: int
) -> None:
    seen: list[object] = []

    def load(spec: ModelSpec, _: object, *, artifact: Path | None) -> FakeTeacher:
        seen.extend((spec.settings["steps"], artifact))
        return FakeTeacher()

    monkeypatch.setattr(finetune_teacher, "load_teacher", load)
    config = finetune_teacher.FinetuneTeacherConfig(model=SPEC, steps=steps)
    stage = finetune_teacher.FinetuneTeacher(config)
    assert stage.run(Stream([record(4, Role.HUMAN_MASKED)]), context(tmp_path)) == {"images": 1}
    assert seen == [expected, None]
    assert Role.WEAK not in stage.roles


@pytest.mark.parametrize(("share", "seen"), [(0.0, False), (0.3, True)])
def test_weak_images_are_seen_by_self_training_alone(share: float, seen: bool) -> None:
    spec = ModelSpec(name="model", use="fake", settings={"self_training": share})
    stage = finetune_teacher.FinetuneTeacher(finetune_teacher.FinetuneTeacherConfig(model=spec))
    assert (Role.WEAK in stage.roles) is seen
    assert Role.VAL not in stage.roles


def test_settings_that_are_not_set_leave_the_models_own() -> None:
    assert with_settings(SPEC, steps=None, alpha=1).settings == {"steps": 7, "alpha": 1}
    assert SPEC.settings == {"steps": 7}


@dataclass
class GatedFake(FakeTeacher):
    """A tuned teacher whose scores are given: (tuned, zero-shot) IoU by variant; remembers whom it compared on."""

    scores: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {"box": (0.9, 0.5), "point": (0.4, 0.4)}
    )
    zero_shot_reason: str | None = None
    folds: tuple[Fold, ...] = ()
    compared: list[int] = field(default_factory=list)
    asks: tuple[str, ...] = ()
    draws: dict[tuple[str, ...], RLE] = field(default_factory=dict)  # by what its variants are
    weak: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tuned_variants = tuple(self.scores)

    def asked(self, kind: WeakKind) -> tuple[str, ...]:
        return self.asks if kind is WeakKind.POINT else ()

    def label_by(self, batch: list[Sample], choices: list[dict[str, str]]) -> list[list[list[Instance]]]:
        self.weak += batch
        drawn = [self.draws[tuple(chosen.values())] for chosen in choices]
        return [[[teacher(rle), teacher(None)] for _ in batch] for rle in drawn]

    def compare(self, samples: list, *, seed: int) -> dict[str, Scores]:  # noqa: ARG002
        self.compared += [sample.record.image_id for sample in samples]
        return {
            name: Scores([pair[0]] * len(samples), [pair[1]] * len(samples))
            for name, pair in self.scores.items()
        }


def decide(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    models: dict[str, object],
    items: list[Record],
    proposer: FakeProposer | None = None,
    semantic: bool = False,
    **more: object,
) -> dict[str, dict[str, object]]:
    (folder / "teacher").mkdir(exist_ok=True)
    write_images(folder / "images", items)
    monkeypatch.setattr(
        gate, "load_teacher", lambda *_, artifact: models[artifact.relative_to(folder / "teacher").as_posix()]
    )
    summary = SummaryFile(
        **dict.fromkeys(("images", "bad_images", "annotations", "bad_annotations", "classes"), 0),
        roles={}, weak="point+class", semantic=semantic, notes=[],
    )  # fmt: skip
    (folder / "dataset").mkdir(exist_ok=True)
    summary.write(folder / "dataset" / "summary.json")
    around = context(folder, artifacts={name: folder / name for name in ("teacher", "dataset")}, **more)
    monkeypatch.setattr(gate, "load_proposer", lambda *_: proposer)
    config = gate.GateConfig(model=SPEC, batch_size=2, proposer=SPEC if proposer else None, score=0.3)
    gate.Gate(config).run(Stream(items), around)
    return json.loads((folder / "out" / "gate.json").read_text())


def test_the_gate_compares_on_reserved_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = GatedFake()
    items = [record(i, Role.RESERVED if i > 3 else Role.HUMAN_MASKED) for i in range(1, 8)]
    items.append(record(9, Role.RESERVED, dropped="truncated"))
    found = decide(tmp_path, monkeypatch, {".": fake}, items)
    assert fake.compared == [4, 5, 6, 7]
    assert {name: found[name]["use"] for name in found} == {"box": "tuned", "point": "zero_shot"}
    assert (found["box"]["tuned"], found["box"]["zero_shot"]) == (pytest.approx(0.9), pytest.approx(0.5))
    assert (found["box"]["method"], found["box"]["images"], found["box"]["instances"]) == ("reserved", 4, 4)


PART, WHOLE_BOX, MORE = box_rle(2, 2, 6, 10), MASK, box_rle(2, 2, 10, 12)
# After a tuned first head, the second is worse whatever it is.
DRAWS = {
    ("zero_shot", "zero_shot"): MORE,
    ("zero_shot", "tuned"): WHOLE_BOX,
    ("tuned", "zero_shot"): PART,
    ("tuned", "tuned"): PART,
}


def test_the_whole_labelling_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first head that is better alone and makes the second one worse is not used."""
    scores = {"point": (0.9, 0.5), "point_box": (0.4, 0.5), "box": (0.9, 0.5)}
    fake = GatedFake(scores=scores, asks=("point", "point_box", "plain_box"), draws=DRAWS)
    items = [record(i, Role.RESERVED, instances=(human(MASK),)) for i in range(1, 4)]
    found = decide(tmp_path, monkeypatch, {".": fake}, items, FakeProposer({3: 0.31, 7: 0.9}))
    assert {name: one["use"] for name, one in found.items()} == {
        "point": "zero_shot",
        "point_box": "tuned",
        "box": "tuned",
    }
    assert found["point"]["labelled"] == {"tuned": 0.5, "zero_shot": 1.0, "objects": 3}
    assert found["point_box"]["labelled"] == {
        "tuned": 1.0,
        "zero_shot": pytest.approx(0.8),
        "objects": 3,
    }
    assert (found["point"]["tuned"], found["box"]["labelled"]) == (pytest.approx(0.9), None)
    assert found["point"]["why"] == "labelling with the tuned one is not better on reserved masks"
    assert found["box"]["why"] == "tuned, alone, is better on reserved masks"
    assert [s.record.image_id for s in fake.weak] == [1, 2, 3]
    for shown in fake.weak:  # a click and its class, and what is proposed of it
        (label,) = shown.record.instances
        assert (label.rle, label.box_xyxy, len(label.points)) == (None, None, 1)
        assert [p.class_id for p in shown.record.proposals] == [3]


def test_of_equally_good_labellings_the_zero_shot_one_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {"point": (0.9, 0.5), "point_box": (0.9, 0.5)}
    fake = GatedFake(scores=scores, asks=("point", "point_box"), draws=dict.fromkeys(DRAWS, PART))
    items = [record(1, Role.RESERVED, instances=(human(MASK), human(MORE, 7, 2)))]
    found = decide(tmp_path, monkeypatch, {".": fake}, items)
    assert {one["use"] for one in found.values()} == {"zero_shot"}
    assert found["point"]["labelled"] == {"tuned": 0.25, "zero_shot": 0.25, "objects": 2}  # one is missed
    assert fake.weak[0].record.proposals == ()


def test_images_without_an_object_leave_the_decision_to_the_heads_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {"point": (0.9, 0.5)}
    fake = GatedFake(scores=scores, asks=("point",), draws={("zero_shot",): MASK, ("tuned",): PART})
    found = decide(tmp_path, monkeypatch, {".": fake}, [record(1, Role.RESERVED)])
    assert (found["point"]["labelled"], found["point"]["use"]) == (None, "tuned")


def test_labellings_that_find_nothing_leave_the_decision_to_the_heads_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = box_rle(20, 15, 30, 20)
    scores = {"point": (0.9, 0.5)}
    fake = GatedFake(scores=scores, asks=("point",), draws={("zero_shot",): aside, ("tuned",): aside})
    found = decide(tmp_path, monkeypatch, {".": fake}, [record(1, Role.RESERVED, instances=(human(MASK),))])
    assert (found["point"]["labelled"], found["point"]["use"]) == (None, "tuned")


def test_in_a_set_of_semantic_masks_heads_are_compared_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = GatedFake(scores={"point": (0.9, 0.5)}, asks=("point",))
    items = [record(1, Role.RESERVED, instances=(human(MASK),))]
    found = decide(tmp_path, monkeypatch, {".": fake}, items, semantic=True)
    assert (found["point"]["labelled"], found["point"]["use"], fake.weak) == (None, "tuned", [])


def test_folds_are_taken_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fold is for the tuned head, the other one against it by more."""
    folds = (Fold(path="folds/0", held_out=(1,)), Fold(path="folds/1", held_out=(2,)))
    models = {
        ".": GatedFake(folds=folds, asks=("point",)),
        "folds/0": GatedFake(asks=("point",), draws={("zero_shot",): MORE, ("tuned",): MASK}),
        "folds/1": GatedFake(asks=("point",), draws={("zero_shot",): MASK, ("tuned",): PART}),
    }
    items = [record(i, Role.HUMAN_MASKED, instances=(human(MASK),)) for i in (1, 2)]
    found = decide(tmp_path, monkeypatch, models, items)
    assert found["point"]["labelled"] == {"tuned": 0.75, "zero_shot": pytest.approx(0.9), "objects": 2}
    assert found["point"]["use"] == "zero_shot"


def test_folds_that_were_not_tuned_have_no_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folds = (Fold(path="folds/0", held_out=(1,)), Fold(path="folds/1", held_out=(2,)))
    labelling = {"asks": ("point",), "draws": {("zero_shot",): PART, ("tuned",): MASK}}
    models = {
        ".": GatedFake(folds=folds, **labelling),
        "folds/0": GatedFake(zero_shot_reason="no mask", **labelling),
        "folds/1": GatedFake(**labelling),
    }
    items = [record(i, Role.HUMAN_MASKED, instances=(human(MASK),)) for i in (1, 2)]
    found = decide(tmp_path, monkeypatch, models, items)
    assert [len(model.weak) for model in models.values()] == [0, 0, 1]
    assert found["point"]["labelled"] == {"tuned": 1.0, "zero_shot": 0.5, "objects": 1}
    assert (found["point"]["use"], found["point"]["images"]) == ("tuned", 1)


def test_with_few_masks_every_fold_is_judged_on_what_it_has_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folds = (Fold(path="folds/0", held_out=(1, 3)), Fold(path="folds/1", held_out=(2,)))
    models = {".": GatedFake(folds=folds), "folds/0": GatedFake(), "folds/1": GatedFake()}
    found = decide(tmp_path, monkeypatch, models, [record(i, Role.HUMAN_MASKED) for i in (1, 2, 3)])
    assert [models[name].compared for name in models] == [[], [1, 3], [2]]
    assert (found["box"]["method"], found["box"]["images"]) == ("cross-fitting", 3)


def test_without_tuning_the_zero_shot_teacher_is_used_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = decide(tmp_path, monkeypatch, {".": GatedFake(zero_shot_reason="1 image")}, [])
    assert {found[name]["use"] for name in ("box", "point", "point_box")} == {"zero_shot"}
    assert found["box"]["why"] == "1 image"


def test_without_masks_to_compare_on_nothing_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = decide(tmp_path, monkeypatch, {".": GatedFake()}, [record(1, Role.HUMAN_MASKED)])
    assert found["box"]["use"] == "zero_shot"
    assert "no human mask" in str(found["box"]["why"])


def test_the_gate_stops_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stopped):
        decide(
            tmp_path, monkeypatch, {".": GatedFake()}, [record(1, Role.RESERVED)], should_stop=lambda: True
        )


def test_a_teacher_without_variants_has_no_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="no variants to compare"):
        decide(tmp_path, monkeypatch, {".": FakeTeacher()}, [])
