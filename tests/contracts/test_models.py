"""Every catalog entry that can be built offline, through its protocol: order, meaning, determinism, neighbours."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fitted import fitted_detector

from pipeline.data import masks
from pipeline.data.errors import BadInput
from pipeline.data.records import (
    Category,
    Instance,
    Ontology,
    Origin,
    Point,
    Prompt,
    Record,
    Role,
    Source,
    WeakKind,
)
from pipeline.engine.context import TrainContext
from pipeline.toyworld.scene import render
from pipeline.toyworld.world import classes
from students import catalog as students
from teachers import catalog as teachers
from teachers.protocols import Sample

ONTOLOGY = Ontology(tuple(Category(c.id, c.name) for c in classes("demo")))
TEACHERS = [
    teachers.ModelSpec(name="t", use="class_aware_sam", settings={"sam": "tiny", "text": "tiny"}),
    teachers.ModelSpec(name="t", use="sam", settings={"sam": "tiny"}),
    teachers.ModelSpec(name="t", use="sam", settings={"sam": "tiny", "encoder_bf16": True}),
    teachers.ModelSpec(name="t", use="fake_teacher"),
]
WHOLE_CLASSES = [
    teachers.ModelSpec(name="t", use="am_sam", settings={"boxes": "proposals"}),
    teachers.ModelSpec(name="t", use="am_sam", settings={"mode": "blo_sam", "split": "components"}),
]
PROPOSERS = [
    teachers.ModelSpec(name="p", use="tiny_grounder"),
    teachers.ModelSpec(name="p", use="fake_proposer"),
    teachers.ModelSpec(name="p", use="aligned_detector"),
]
STUDENTS = [
    teachers.ModelSpec(name="s", use="mask2former", settings={"variant": "tiny"}),
    teachers.ModelSpec(name="s", use="blo_inst", settings={"pretrain_epochs": 1, "batch_size": 2}),
]
NEEDS_A_CHECKPOINT = {"grounding_dino"}  # tests/teachers/test_grounding.py builds one


def sample(index: int, kind: WeakKind) -> Sample:
    """A scene of no reported seed with simulated weak labels; `none` comes with two proposals."""
    scene = render("demo", 3_000_000, index)
    labels = []
    for o in scene.objects[:12]:
        if o.class_id is None:
            continue
        y, x = np.argwhere(o.mask)[0]
        point = (Point(float(x) + 0.5, float(y) + 0.5),) if kind is WeakKind.POINT else ()
        box = o.box_xyxy if kind is WeakKind.BOX else None
        labels.append(Instance(Source.HUMAN, o.class_id, points=point, box_xyxy=box, weak_kind=kind))
    known = kind in (WeakKind.POINT, WeakKind.BOX)
    record = Record(
        index, "x.jpg", "0" * 64, 256, 256, "train", Role.WEAK, instances=tuple(labels) if known else ()
    )
    if kind is WeakKind.NONE:
        boxes = ((10.0, 10.0, 90.0, 80.0), (100.0, 20.0, 140.0, 70.0))
        found = tuple(
            Prompt(Origin.DINO, box, class_id=3, score=0.9 - 0.1 * i) for i, box in enumerate(boxes)
        )
        record = replace(record, proposals=found)
    return Sample(record, scene.image)


def blank(of: Sample) -> Sample:
    return Sample(replace(of.record, image_id=99, instances=(), proposals=()), np.zeros_like(of.image))


def test_every_entry_is_covered() -> None:
    covered = {spec.use for spec in (*TEACHERS, *WHOLE_CLASSES, *PROPOSERS)} | NEEDS_A_CHECKPOINT
    assert covered == set(teachers.ENTRIES)
    assert {spec.use for spec in STUDENTS} == set(students.ENTRIES)


def test_a_sam_in_bfloat16_answers_a_little_otherwise() -> None:
    batch = [sample(0, WeakKind.BOX)]
    ((exact,), (other,)) = (
        teachers.load_teacher(spec, ontology=ONTOLOGY, device="cpu").label(batch) for spec in TEACHERS[1:3]
    )
    assert exact != other
    for one, two in zip(exact, other, strict=True):
        assert one.rle is not None
        assert two.rle is not None
        assert masks.iou_matrix([one.rle], [two.rle])[0, 0] > 0.8


@pytest.mark.parametrize("kind", [WeakKind.NONE, WeakKind.POINT, WeakKind.BOX])
@pytest.mark.parametrize("spec", TEACHERS, ids=lambda spec: spec.use)
def test_teacher(spec: teachers.ModelSpec, kind: WeakKind) -> None:
    teacher = teachers.load_teacher(spec, ontology=ONTOLOGY, device="cpu")
    batch = [sample(0, kind), sample(3, kind)]
    both = teacher.label(batch)
    assert [len(found) for found in both] == [len(s.record.instances or s.record.proposals) for s in batch], (
        "one instance a label or proposal"
    )
    for found, given in zip(both, batch, strict=True):
        for instance in found:
            assert instance.source is Source.TEACHER
            assert instance.prompt is not None
            assert (instance.rle is None) == (instance.dropped == "empty mask")
            assert instance.score is not None
        if kind is not WeakKind.NONE:
            assert [i.class_id for i in found] == [i.class_id for i in given.record.instances]
    assert teacher.label(batch) == both
    assert teacher.label([batch[0], blank(batch[1])])[0] == both[0], "a neighbour changed a result"
    assert teacher.label([blank(batch[0]), batch[1]])[1] == both[1], "a neighbour changed a result"


@pytest.mark.parametrize("kind", [WeakKind.NONE, WeakKind.CLASS])
@pytest.mark.parametrize("spec", WHOLE_CLASSES, ids=lambda spec: spec.use)
def test_teacher_of_whole_classes(spec: teachers.ModelSpec, kind: WeakKind) -> None:
    teacher = teachers.load_teacher(spec, ontology=ONTOLOGY, device="cpu")
    batch = [sample(0, WeakKind.NONE), sample(3, WeakKind.NONE)]
    if kind is WeakKind.CLASS:
        batch = [replace(one, record=replace(one.record, tags=(3, 1))) for one in batch]
    both = teacher.label(batch)
    allowed = [class_id for class_id in ONTOLOGY.ids if kind is WeakKind.NONE or class_id in (1, 3)]
    parts = spec.settings.get("split") == "components"
    for found in both:
        classes_found = [instance.class_id for instance in found]
        assert classes_found == sorted(classes_found, key=allowed.index)
        assert parts or len(set(classes_found)) == len(classes_found)
        for instance in found:
            assert instance.source is Source.TEACHER
            assert (instance.rle is None) == (instance.dropped == "empty mask")
            assert instance.score is not None
            assert instance.semantic != parts
    assert teacher.label(batch) == both
    assert teacher.label([batch[0], blank(batch[1])])[0] == both[0], "a neighbour changed a result"


@pytest.mark.parametrize("spec", PROPOSERS, ids=lambda spec: spec.use)
def test_proposer(spec: teachers.ModelSpec, tmp_path: Path) -> None:
    if spec.use == "aligned_detector":  # there is none before a student was fitted
        artifact = fitted_detector(tmp_path / "artifact", ONTOLOGY.categories)
        spec = spec.model_copy(update={"settings": {"artifact": str(artifact)}})
    proposer = teachers.load_proposer(spec, ontology=ONTOLOGY, device="cpu")
    batch = [sample(0, WeakKind.CLASS), sample(3, WeakKind.CLASS)]
    asked = [list(ONTOLOGY.ids), [1, 2]]
    found = proposer.propose(batch, asked)
    for prompts, ids in zip(found, asked, strict=True):
        scores = [prompt.score for prompt in prompts]
        assert scores == sorted(scores, key=lambda s: -(s or 0.0))
        assert {prompt.class_id for prompt in prompts} <= set(ids)
        assert all(prompt.origin is Origin.DINO and prompt.box_xyxy is not None for prompt in prompts)
    assert proposer.propose(batch, asked) == found
    assert proposer.propose([blank(batch[0]), batch[1]], asked)[1] == found[1]
    assert proposer.propose(batch, [[], []]) == [[], []]


class Stream(tuple[Record, ...]):
    """Records in memory."""


def lesson(folder: Path) -> tuple[Stream, TrainContext]:
    """Two masked scenes on disk and what the engine would lend to a job."""
    records = []
    for index in (0, 3):
        scene = render("demo", 3_000_000, index)
        (folder / f"{index}.jpg").write_bytes(scene.jpeg)
        things = [o for o in scene.objects if o.class_id is not None]
        found = tuple(Instance(Source.HUMAN, o.class_id, rle=masks.encode(o.mask)) for o in things)
        digest = hashlib.sha256(scene.jpeg).hexdigest()
        human = Record(index, f"{index}.jpg", digest, 256, 256, "train", Role.HUMAN_MASKED, instances=found)
        records.append(human)
    for name in ("work", "out"):
        (folder / name).mkdir()
    context = TrainContext(
        device="cpu",
        ontology=ONTOLOGY,
        images_root=folder,
        artifacts={},
        seed=0,
        workdir=folder / "work",
        out=folder / "out",
        progress=lambda *_: None,
        should_stop=lambda: False,
    )
    return Stream(records), context


@pytest.mark.parametrize("spec", STUDENTS, ids=lambda spec: spec.use)
def test_student(spec: teachers.ModelSpec, tmp_path: Path) -> None:
    few = spec.model_copy(update={"settings": {**spec.settings, "steps": 2}})
    data, context = lesson(tmp_path)
    metrics = students.load(few, ontology=ONTOLOGY, device="cpu").fit(data, context)
    assert metrics
    student = students.load(few, ontology=ONTOLOGY, device="cpu", artifact=tmp_path / "out")
    batch = [sample(0, WeakKind.CLASS), sample(3, WeakKind.CLASS)]
    found = student.predict(batch)
    assert len(found) == 2
    for instance in (i for instances in found for i in instances):
        assert instance.source is Source.STUDENT
        assert instance.class_id in ONTOLOGY.ids
        assert instance.score is not None
    assert student.predict([batch[0], blank(batch[1])])[0] == found[0]
    assert students.load_artifact(tmp_path / "out", device="cpu").predict(batch) == found


@pytest.mark.parametrize(
    ("load", "spec"),
    [
        (teachers.load_teacher, teachers.ModelSpec(name="t", use="clas_aware_sam")),
        (teachers.load_teacher, teachers.ModelSpec(name="t", use="tiny_grounder")),
        (teachers.load_proposer, teachers.ModelSpec(name="p", use="sam")),
        (students.load, teachers.ModelSpec(name="s", use="mask3former")),
        (students.load, teachers.ModelSpec(name="s", use="mask2former", settings={"variant": "huge"})),
    ],
)
def test_wrong_entries(load: object, spec: teachers.ModelSpec) -> None:
    assert callable(load)
    with pytest.raises(BadInput, match=f"models.{spec.name}"):
        load(spec, ontology=ONTOLOGY, device="cpu", artifact=None)
