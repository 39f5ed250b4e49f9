"""The teacher's policy end to end on the small SAM: who answers, what is kept, what never changes."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam

from pipeline.data.errors import BadInput
from pipeline.data.masks import area, decode, encode, tight_box
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
from teachers.answerer import Answerer, Question
from teachers.class_aware import ClassAwarePrompts
from teachers.class_texts import ClassTexts
from teachers.gating import GatedTeacher
from teachers.identity import ModelIdentity
from teachers.protocols import Sample
from teachers.sam.predictor import Head, SamPredictor
from teachers.sam.zoom import Zoom
from teachers.sam_teacher import EMPTY_MASK, SamTeacher
from teachers.settings import ClassAwareSettings, SamSettings

ONTOLOGY = Ontology((Category(1, "cat"), Category(2, "dog")))
NO_ZOOM = Zoom(0.0, 64)
IDENTITY = ModelIdentity(sam="tiny", sam_sha256="0" * 64, class_aware=True, zoom=0.0)
BOXED = Instance(
    Source.HUMAN, 1, box_xyxy=(10.0, 5.0, 60.0, 70.0), human_id=7, weak_kind=WeakKind.BOX, semantic=True
)
CLICKED = Instance(Source.HUMAN, 2, points=(Point(50.5, 30.5),), human_id=8, weak_kind=WeakKind.POINT)
OFFERED = Prompt(Origin.DINO, (40.0, 20.0, 70.0, 60.0), class_id=2, score=0.5)


class Names:
    def encode(self, names: Sequence[str]) -> np.ndarray:
        return np.array([[len(name), name.count("o")] for name in names], np.float32)


def sample(image_id: int, *instances: Instance, **known: object) -> Sample:
    image = np.random.default_rng(image_id).integers(0, 256, (80, 100, 3), np.uint8)
    record = Record(image_id, "a.png", "0" * 64, 100, 80, "train", Role.WEAK, instances=instances)
    return Sample(replace(record, **known), image)


def tuned_head(sam: Sam, seed: int) -> Head:
    torch.manual_seed(seed)
    branch = ClassAwarePrompts(sam.prompt_encoder, 2)
    torch.nn.init.normal_(branch.zero.weight, std=0.3)
    return Head(sam.mask_decoder, branch.requires_grad_(False))


@pytest.fixture
def make_teacher(small_sam: Sam) -> Callable[..., SamTeacher]:
    def make(*tuned: str, **settings: object) -> SamTeacher:
        heads = {variant: tuned_head(small_sam, seed) for seed, variant in enumerate(tuned)}
        predictor, texts = SamPredictor(small_sam), ClassTexts(Names(), ONTOLOGY)
        return SamTeacher(
            Answerer(predictor, heads, texts, zoom=NO_ZOOM), ClassAwareSettings(**settings), IDENTITY
        )

    return make


Made = Callable[..., SamTeacher]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[Question]]:
    """Every call of `Answerer.answer`, in order."""
    calls: list[list[Question]] = []
    original = Answerer.answer

    def spy(self: Answerer, view: object, questions: Sequence[Question], **rest: bool) -> object:
        calls.append(list(questions))
        return original(self, view, questions, **rest)

    monkeypatch.setattr(Answerer, "answer", spy)
    return calls


def test_a_box_goes_straight_to_b_sam(make_teacher: Made, asked: list[list[Question]]) -> None:
    [[made]] = make_teacher(class_aware=True).label([sample(1, BOXED)])
    assert [[q.variant for q in call] for call in asked] == [[], ["box"]]
    assert (made.source, made.class_id, made.human_id, made.semantic) == (Source.TEACHER, 1, 7, True)
    assert (made.box_xyxy, made.weak_kind, made.match) == (BOXED.box_xyxy, WeakKind.BOX, None)
    assert made.prompt == Prompt(Origin.HUMAN, BOXED.box_xyxy, class_id=1)
    assert made.rle is not None
    assert made.rle.size == (80, 100)
    assert made.score == made.pred_iou
    assert made.stability is not None
    assert made.dropped is None


def test_a_point_goes_through_p_sam_algorithm_1_and_bp_sam(
    make_teacher: Made, asked: list[list[Question]]
) -> None:
    teacher = make_teacher("point", "point_box")
    [[made]] = teacher.label([sample(1, CLICKED, proposals=(OFFERED,))])
    [[first], [second]] = asked
    assert (first.variant, first.prompt.box_xyxy) == ("point", None)
    assert (second.variant, second.prompt) == ("point_box", made.prompt)
    assert made.prompt == replace(OFFERED, points=CLICKED.points)
    assert made.match is not None
    assert made.match.proposal == 0
    assert made.points == CLICKED.points
    assert made.pred_iou is not None
    assert made.score == 0.5 * made.pred_iou


def test_without_a_proposal_the_box_is_that_of_p_sams_mask(make_teacher: Made) -> None:
    batch = [sample(1, CLICKED)]
    [[made]] = make_teacher("point", "point_box").label(batch)
    [[direct]] = make_teacher("point", "point_box", refine=False).label(batch)
    assert direct.rle is not None
    assert direct.match is None
    assert made.prompt is not None
    assert (made.prompt.origin, made.prompt.box_xyxy) == (Origin.SAM, tight_box(direct.rle))


def test_empty_p_sam_mask_prompts_with_the_point_alone(
    make_teacher: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = make_teacher()
    original = Answerer.answer

    def nothing(self: Answerer, view: object, questions: Sequence[Question], **rest: bool) -> object:
        masks = original(self, view, questions, **rest)
        pairs = zip(questions, masks, strict=True)
        return [replace(m, rle=None, box=None) if q.variant == "point" else m for q, m in pairs]

    monkeypatch.setattr(Answerer, "answer", nothing)
    [[made]] = teacher.label([sample(1, CLICKED)])
    assert made.prompt == Prompt(Origin.HUMAN, points=CLICKED.points, class_id=2)
    assert made.rle is not None


def test_an_empty_mask_is_kept_as_dropped(make_teacher: Made, small_sam: Sam) -> None:
    with torch.no_grad():
        for layer in small_sam.mask_decoder.output_hypernetworks_mlps[0].layers[-1:]:
            layer.weight.zero_()
            layer.bias.zero_()  # all logits are exactly 0, which is not above the threshold
    [[made]] = make_teacher().label([sample(1, BOXED)])
    assert (made.rle, made.dropped, made.human_id) == (None, EMPTY_MASK, 7)


def test_proposals_become_masks_with_their_class_and_score(make_teacher: Made) -> None:
    other = replace(OFFERED, class_id=1, score=0.9, box_xyxy=(0.0, 0.0, 30.0, 30.0))
    [[first, second], [tagged]] = make_teacher().label(
        [sample(1, proposals=(OFFERED, other)), sample(2, tags=(2,), proposals=(OFFERED, other))]
    )
    assert [first.class_id, second.class_id, tagged.class_id] == [1, 2, 2]
    assert [first.weak_kind, tagged.weak_kind] == [WeakKind.NONE, WeakKind.CLASS]
    assert (first.prompt, first.human_id, first.box_xyxy) == (other, None, None)
    assert first.score == pytest.approx(0.9 * (first.pred_iou or 0))


def test_order_and_neighbours(make_teacher: Made) -> None:
    teacher = make_teacher("box", "point", "point_box")
    mixed = sample(1, CLICKED, BOXED, CLICKED, tags=(1, 2), proposals=(OFFERED,))
    others = [sample(2, BOXED), sample(3), sample(4, proposals=(OFFERED,))]
    [alone] = teacher.label([mixed])
    assert [made.human_id for made in alone] == [8, 7, 8]
    batch = teacher.label([*others, mixed])
    assert [len(made) for made in batch] == [1, 0, 1, 3]
    assert batch[-1] == alone
    assert teacher.label([]) == []


@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_boxes_are_compared_as_they_were_tuned_with(
    make_teacher: Made, asked: list[list[Question]], jitter: float
) -> None:
    disc = np.zeros((80, 100), bool)
    disc[20:50, 30:70] = True
    teacher = make_teacher("box", "point", class_aware=True, box_jitter=jitter)
    teacher.compare([sample(1, Instance(Source.HUMAN, 1, rle=encode(disc)))], seed=0)
    tuned, zero_shot = ([question.prompt.box_xyxy for question in own] for own in asked[:2])
    assert tuned == zero_shot
    assert (tuned == [(30.0, 20.0, 70.0, 50.0)]) is (jitter == 0)
    assert [question.prompt.box_xyxy for question in asked[2]] == [None]


@pytest.mark.parametrize(
    ("class_aware", "variants"),
    [(True, ["box", "box"]), (False, ["box", "box"]), ("no_box", ["plain_box", "box"])],
)
def test_human_boxes_have_their_own_head_with_no_box(
    make_teacher: Made, asked: list[list[Question]], class_aware: bool | str, variants: list[str]
) -> None:
    make_teacher(class_aware=class_aware).label([sample(1, BOXED, tags=(1, 2), proposals=(OFFERED,))])
    assert [question.variant for question in asked[-1]] == variants


def test_select_and_compare(make_teacher: Made) -> None:
    teacher, plain = make_teacher("box", "point", class_aware=True), make_teacher()
    assert isinstance(teacher, GatedTeacher)
    disc = np.zeros((80, 100), bool)
    disc[20:50, 30:70] = True
    truth = Instance(Source.HUMAN, 1, rle=encode(disc))
    batch = [sample(1, truth), sample(2), sample(3, truth, truth)]
    scores = teacher.compare(batch, seed=0)
    assert set(scores) == {"box", "point"}
    assert len(scores["box"].tuned) == len(scores["box"].zero_shot) == 3
    assert scores["box"].tuned != scores["box"].zero_shot
    alone = teacher.compare([sample(3, truth, truth)], seed=0)
    assert scores["point"].tuned[1:] == alone["point"].tuned  # prompts do not depend on the other images
    assert scores["point"].zero_shot[1:] == alone["point"].zero_shot
    boxed = [sample(2, BOXED)]
    [[one]] = teacher.label(boxed)
    teacher.select({"box": "zero_shot", "point": "tuned"})
    [[stepped_back]] = teacher.label(boxed)
    [[zero_shot]] = plain.label(boxed)
    assert stepped_back == zero_shot != one
    with pytest.raises(BadInput, match="'point_box' has no tuned head"):
        teacher.select({"point_box": "tuned"})


WEAK = {
    WeakKind.POINT: {"instances": (CLICKED,), "proposals": (OFFERED,)},
    WeakKind.BOX: {"instances": (BOXED,)},
    WeakKind.CLASS: {"tags": (2,), "proposals": (OFFERED,)},
    WeakKind.NONE: {"proposals": (OFFERED,)},
}


@pytest.mark.parametrize("class_aware", [True, "no_box"])
@pytest.mark.parametrize("refine", [True, False])
@pytest.mark.parametrize("kind", WEAK)
def test_a_kind_asks_the_variants_that_answer_when_it_is_labelled(
    make_teacher: Made, asked: list[list[Question]], kind: WeakKind, refine: bool, class_aware: bool | str
) -> None:
    teacher = make_teacher(class_aware=class_aware, refine=refine)
    teacher.label([sample(1, **WEAK[kind])])
    answered = dict.fromkeys(question.variant for call in asked for question in call)
    assert teacher.asked(kind) == tuple(answered)
    assert teacher.asked(WeakKind.INSTRUCTION) == ()


def test_labelling_by_choices_is_labelling_after_each_was_selected(
    make_teacher: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [sample(1, CLICKED), sample(2, BOXED)]
    choices = [
        {},
        {"point": "zero_shot"},
        {"box": "zero_shot", "point": "tuned"},
        {"point": "zero_shot", "box": "zero_shot"},
    ]
    settings = {"class_aware": True, "refine": False}
    teacher = make_teacher("point", "box", **settings)
    expected = []
    for chosen in choices:
        teacher.select(chosen)
        expected.append(teacher.label(batch))
    assert all(one != other for i, one in enumerate(expected) for other in expected[:i])
    embedded: list[int] = []
    embed = SamPredictor.embed

    def counted(self: SamPredictor, images: Sequence[np.ndarray], windows: object = None) -> object:
        embedded.append(len(images))
        return embed(self, images, windows)

    monkeypatch.setattr(SamPredictor, "embed", counted)
    teacher.select({"box": "zero_shot"})
    assert teacher.label_by(batch, choices) == expected
    assert sum(embedded) == 2  # each image once
    assert teacher.answerer.choices == {"box": "zero_shot"}
    with pytest.raises(BadInput, match="'plain_box' has no tuned head"):
        teacher.label_by(batch, [{"point": "zero_shot"}, {"plain_box": "tuned"}])
    assert teacher.answerer.choices == {"box": "zero_shot"}


def test_score_is_the_iou_of_the_answer(make_teacher: Made) -> None:
    teacher, plain = make_teacher("box"), make_teacher()
    [[made]] = plain.label([sample(1, BOXED)])
    assert made.rle is not None
    box = tight_box(made.rle)
    truth = Instance(Source.HUMAN, 1, rle=made.rle)
    view = plain.answerer.look([sample(1)])
    [answer] = plain.answerer.answer(view, [Question("box", 0, Prompt(Origin.HUMAN, box))])
    assert answer.rle is not None
    both = (decode(answer.rle) & decode(made.rle)).sum()
    expected = both / (area(answer.rle) + area(made.rle) - both)
    scores = teacher.compare([sample(1, truth)], seed=0)
    assert scores["box"].zero_shot == [pytest.approx(expected)]


def test_plain_sam_cannot_be_tuned(small_sam: Sam) -> None:
    teacher = SamTeacher(Answerer(SamPredictor(small_sam), {}, None, zoom=NO_ZOOM), SamSettings(), IDENTITY)
    assert len(teacher.label([sample(1, BOXED)])[0]) == 1
    with pytest.raises(BadInput, match="nothing to tune"):
        teacher.fit([], None)
