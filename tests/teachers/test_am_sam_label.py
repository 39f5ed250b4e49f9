"""What AM-SAM labels: whole classes or their parts, what tags allow, what artifacts it takes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from few_shots import DISC, ONTOLOGY, Attempts, Listed, new_teacher, sample_of, shot, write_boxes
from pydantic import ValidationError
from small_models import build_small_sam

from pipeline.data.errors import BadInput
from pipeline.data.masks import area, decode, encode, iou_matrix
from pipeline.data.records import Category, Instance, Ontology, Origin, Prompt, Source, WeakKind
from teachers.am_sam import AmSam
from teachers.am_sam_settings import AmSamSettings
from teachers.fitted_detector import WEIGHTS
from teachers.sam.masks import to_mask
from teachers.sam.pixels import Frame
from teachers.sam.predictor import Ask, SamPredictor
from teachers.sam.upsample import Upsampler
from teachers.semantic_masks import Labelled, labelled

BOX = Prompt(Origin.DINO, (10.0, 5.0, 50.0, 40.0), class_id=3, score=0.5)


def given(*proposals: Prompt) -> dict[str, object]:
    return {"proposals": proposals}


def asking(ontology: Ontology = ONTOLOGY, artifact: Path | None = None, **settings: object) -> AmSam:
    return new_teacher(ontology, artifact, **{"mode": "am_sam", "boxes": "proposals", **settings})


def test_untuned_it_is_plain_sam_on_the_same_box(tmp_path: Path) -> None:
    sample = sample_of(shot(1, tmp_path), tmp_path, **given(BOX))
    (found,) = asking(DISC).label([sample])[0]
    predictor = SamPredictor(build_small_sam())
    embeddings = predictor.embed([sample.image])
    ((_, answer),) = predictor.decode(predictor.plain_head(), embeddings, [Ask(0, BOX)])
    own = to_mask(answer, Upsampler(embeddings.frames[0], predictor.low_res))
    assert found.rle is not None
    assert own.rle is not None
    assert iou_matrix([found.rle], [own.rle])[0, 0] > 0.99
    assert found.prompt == BOX
    assert (found.source, found.class_id, found.semantic) == (Source.TEACHER, 3, True)
    assert found.weak_kind is WeakKind.NONE
    assert found.score is not None
    assert 0.25 <= found.score <= 0.5  # a mean probability of more than a half, times the box's


def test_masks_of_classes_share_no_pixel_and_neighbours_do_not_matter(tmp_path: Path) -> None:
    teacher = asking()
    batch = [
        sample_of(shot(1, tmp_path), tmp_path, **given(BOX)),
        sample_of(shot(2, tmp_path, size=(30, 70)), tmp_path),
    ]
    both = teacher.label(batch)
    for found, sample in zip(both, batch, strict=True):
        masks = [decode(i.rle) for i in found if i.rle is not None]
        assert all(mask.shape == sample.image.shape[:2] for mask in masks)
        assert np.sum(masks, axis=0).max(initial=0) <= 1
    assert both == [teacher.label([sample])[0] for sample in batch]
    assert both == list(reversed(teacher.label(batch[::-1])))


def test_without_a_box_the_whole_image_is_asked_and_said(tmp_path: Path) -> None:
    sample = sample_of(shot(1, tmp_path), tmp_path, **given(replace(BOX, score=0.1)))
    found = asking(DISC).label([sample])[0]
    assert all(i.prompt == Prompt(Origin.IMAGE, (0.0, 0.0, 64.0, 48.0), class_id=3) for i in found)


class Fixed(torch.nn.Module):
    """A network that says the same of every image: logits (n, 32, 32)."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, *_: object) -> torch.Tensor:
        return self.logits[None]


def saying(*places: tuple[int, slice, slice], **settings: object) -> AmSam:
    """A teacher that sees classes (rows of the ontology from 1) at low-res places."""
    teacher = new_teacher(**settings)
    logits = torch.zeros(3, 32, 32)
    logits[0] = 4.0
    for index, rows, columns in places:
        logits[index, rows, columns] = 9.0
    teacher.network = Fixed(logits)  # type: ignore[assignment]
    return teacher


TWO_DISCS = ((1, slice(2, 8), slice(2, 8)), (1, slice(14, 20), slice(20, 30)))


def test_parts_become_instances(tmp_path: Path) -> None:
    sample = sample_of(shot(1, tmp_path), tmp_path)
    (whole,) = saying(*TWO_DISCS).label([sample])[0]
    parts = saying(*TWO_DISCS, split="components").label([sample])[0]
    assert whole.rle is not None
    assert whole.semantic
    assert len(parts) == 2
    assert not any(part.semantic for part in parts)
    each = [decode(part.rle) for part in parts if part.rle is not None]
    assert np.array_equal(each[0] | each[1], decode(whole.rle))
    assert not (each[0] & each[1]).any()
    assert each[0][:20, :20].any()  # by their first pixels
    least = area(parts[0].rle) + 1  # type: ignore[arg-type]
    (kept,) = saying(*TWO_DISCS, split="components", min_area=least).label([sample])[0]
    assert kept == parts[1]


@pytest.mark.parametrize(
    ("known", "ids", "kind"),
    [
        ({}, [3], WeakKind.NONE),
        ({"tags": (3, 8)}, [3, 8], WeakKind.CLASS),
        ({"tags": (8,)}, [8], WeakKind.CLASS),
        ({"tags": ()}, [], None),
    ],
)
def test_tags_say_what_is_there(
    tmp_path: Path, known: dict[str, object], ids: list[int], kind: WeakKind | None
) -> None:
    """A class that should be there and is not found is an instance without a mask."""
    found = saying(*TWO_DISCS).label([sample_of(shot(1, tmp_path), tmp_path, **known)])[0]
    assert [instance.class_id for instance in found] == ids
    assert {instance.weak_kind for instance in found} <= {kind}
    for instance in found:
        there = instance.class_id == 3
        assert (instance.rle is not None, instance.dropped) == (there, None if there else "empty mask")
        assert (instance.score or 0.0) > 0.5 or not there


def test_what_has_a_mask_already_is_not_labelled_again(tmp_path: Path) -> None:
    mask = encode(np.ones((48, 64), bool))
    there = Instance(Source.TEACHER, 3, rle=mask)
    record = shot(1, tmp_path)
    for tags, ids in ((None, []), ((3, 8), [8])):
        sample = sample_of(record, tmp_path, tags=tags, instances=(there,))
        assert [i.class_id for i in saying(*TWO_DISCS).label([sample])[0]] == ids


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tuned")
    records = [shot(i, root) for i in range(1, 5)]
    context = Attempts(root, root).context()
    settings = {"mode": "am_sam", "boxes": "file", "box_file": write_boxes(root / "boxes.json", records)}
    new_teacher(**settings).fit(Listed(records), context)
    return context.out


def test_an_artifact_is_asked_as_it_was_tuned(artifact: Path, tmp_path: Path) -> None:
    sample = sample_of(shot(7, tmp_path), tmp_path, **given(BOX))
    tuned, plain = asking(artifact=artifact), asking()
    (first, *_), (second, *_) = (teacher.label([sample])[0] for teacher in (tuned, plain))
    assert first.model != second.model
    assert tuned.label([sample]) == asking(artifact=artifact).label([sample])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rank": 3}, "tuned with rank 2, expected 3"),
        ({"prompt": "image"}, "tuned with prompt class, expected image"),
        ({"calibration": "learned"}, "tuned with calibration sample, expected learned"),
        ({"mode": "blo_sam", "boxes": "none"}, "tuned with mode am_sam, expected blo_sam"),
    ],
)
def test_an_artifact_of_other_settings_is_refused(
    artifact: Path, settings: dict[str, object], told: str
) -> None:
    with pytest.raises(BadInput, match=rf"teacher .*teacher\.json: {told}"):
        asking(artifact=artifact, **settings)


def test_an_artifact_of_other_classes_or_a_damaged_one_is_refused(artifact: Path, tmp_path: Path) -> None:
    other = Ontology((Category(3, "disc"), Category(9, "bar")))
    with pytest.raises(BadInput, match="tuned with the classes"):
        asking(other, artifact)
    with pytest.raises(BadInput, match=r"teacher .*teacher\.json: not a tuned am_sam"):
        asking(artifact=tmp_path)
    (tmp_path / "teacher.json").write_bytes((artifact / "teacher.json").read_bytes())
    (tmp_path / WEIGHTS).write_bytes((artifact / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(BadInput, match=rf"teacher .*{WEIGHTS}: not weights of this model"):
        asking(artifact=tmp_path)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"boxes": "file"}, "expected a box_file with boxes: file, found none"),
        ({"box_file": "x.json"}, "expected a box_file with boxes: file, found one with boxes: detector"),
        ({"boxes": "none"}, "mode am_sam wants boxes"),
        ({"mode": "blo_sam", "learn_corners": True}, "learn_corners does nothing without boxes"),
        ({"mode": "blo_sam", "score": 0.5}, "score does nothing without boxes: expected it unset, or 0.25"),
        ({"mode": "blo_sam", "prompt": "image"}, "prompt does nothing without boxes"),
        ({"mode": "single_level", "order": "second"}, "order does nothing in mode single_level"),
        ({"boxes": "proposals", "detector": "fcos_r50"}, "detector does nothing with boxes: proposals"),
        ({"mode": "blo_sam", "detector_epochs": 3}, "detector_epochs does nothing with boxes: none"),
        (
            {"calibration": "off", "calibration_alpha": 0.5},
            "calibration_alpha does nothing with calibration: off",
        ),
        ({"min_area": 5}, "min_area does nothing with split: none"),
        ({"detector": "fcos"}, "no detector 'fcos'; nearest: fcos_"),
        ({"detector_sha256": "0" * 64}, "detector_sha256 is that of detector_weights"),
        ({"stepps": 3}, "Extra inputs"),
    ],
)
def test_settings_without_an_effect_are_refused(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        AmSamSettings.model_validate(settings)


@pytest.mark.parametrize(
    ("mode", "boxes", "finds"),
    [("am_sam", "detector", True), ("blo_sam", "none", True), ("single_level", "none", True)],
)
def test_a_mode_says_where_its_boxes_are_from(mode: str, boxes: str, finds: bool) -> None:
    settings = AmSamSettings.model_validate({"mode": mode})
    assert (settings.boxes, settings.finds) == (boxes, finds)
    assert not AmSamSettings.model_validate({"mode": mode, "boxes": "proposals"}).finds


def test_each_pixel_is_of_its_likeliest_class() -> None:
    frame = Frame(20, 40, 64)
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(16, 16)).astype(np.float32) for _ in range(4)]
    upsampler = Upsampler(frame, (16, 16))
    whole = np.stack([upsampler.whole(one).logits for one in maps])
    assert whole.shape == (4, 20, 40)
    found = labelled(maps, upsampler)
    assert np.array_equal(found.classes, whole.argmax(0))
    probability = torch.from_numpy(whole).softmax(0).amax(0).numpy()
    assert np.allclose(found.probability, probability, atol=1e-6)
    for one in maps:  # the same bits as of a crop
        crop = upsampler.above(one, 0.0)
        assert crop is not None
        rows, columns = crop.logits.shape
        part = upsampler.whole(one).logits[crop.top : crop.top + rows, crop.left : crop.left + columns]
        assert np.array_equal(part, crop.logits)


def test_parts_touch_at_corners() -> None:
    classes = np.zeros((4, 6), np.int64)
    classes[0, 0] = classes[1, 1] = classes[3, 4:] = 1
    found = Labelled(classes, np.full((4, 6), 0.75, np.float32))
    parts = list(found.components(1, least=1))
    assert [area(part.rle) for part in parts] == [2, 2]
    assert [part.probability for part in parts] == [0.75, 0.75]
    assert list(found.components(1, least=3)) == []
    assert found.whole(2) is None
