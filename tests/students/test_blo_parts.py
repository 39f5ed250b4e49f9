"""Which part of SAM BLO-Inst trains, what a pair misses of its halves and of other images, what it leaves of both.

The detector here knows the little pictures' colours, so that every object has a box from the first step on.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from colours import take_the_place_of_fcos
from little_pictures import ONTOLOGY, MakeContext, draw
from PIL import Image
from safetensors.torch import load_file
from small_models import build_small_sam

from pipeline.data.errors import BadInput
from pipeline.data.records import Record
from pipeline.engine.stage import TrainContext
from students import catalog
from students.blo_artifact import save
from students.blo_inst import BloInst, open_artifact
from students.blo_objective import AlignedSam
from students.blo_settings import BloInstSettings, Part
from teachers.aligned_detector import load_aligned_detector
from teachers.catalog import ModelSpec
from teachers.protocols import Sample
from teachers.sam.load import load_sam

PARTS: tuple[Part, ...] = ("decoder", "prompt_encoder", "both")
PROMPTS = {"prompt_encoder.point_embeddings.2.weight", "prompt_encoder.point_embeddings.3.weight"}
DENSE = "prompt_encoder.no_mask_embed.weight"


class Records(tuple[Record, ...]):
    """In memory."""


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    take_the_place_of_fcos(monkeypatch)


@pytest.fixture
def records(images: Path) -> Records:
    return Records(draw(index, images) for index in range(1, 6))


def photo(record: Record, context: TrainContext) -> Sample:
    with Image.open(Path(str(context.images_root)) / record.uri) as image:
        return Sample(record, np.asarray(image))


def student(**settings: object) -> BloInst:
    given = {"pretrain_epochs": 0, "batch_size": 2, "steps": 2, "lr_sam": 0.05, **settings}
    return BloInst(BloInstSettings.model_validate(given), ontology=ONTOLOGY, device="cpu")


def names(part: Part) -> set[str]:
    return set(AlignedSam(build_small_sam().requires_grad_(True), rank=2, part=part).trained())


def test_the_parts() -> None:
    assert names("prompt_encoder") == PROMPTS | {DENSE}
    assert names("both") == names("decoder") | PROMPTS
    assert {name for name in names("decoder") if name.startswith("prompt")} == {DENSE}
    assert names("decoder") == set(AlignedSam(build_small_sam(), rank=2).trained())
    # 7 attentions, query and value, A and B; and the five small parts.
    assert sum("transformer" in name for name in names("decoder")) == 28


@pytest.mark.parametrize("part", PARTS)
def test_each_begins_as_sam_and_all_of_it_learns(part: Part) -> None:
    small = build_small_sam()
    aligned = AlignedSam(small, rank=2, part=part)
    features = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[5.0, 6, 40, 50], [10, 20, 60, 60]])
    logits, _ = aligned(features, boxes)
    for row in range(2):
        sparse, dense = small.prompt_encoder(points=None, boxes=boxes[row : row + 1] - 0.5, masks=None)
        expected, _ = small.mask_decoder(
            image_embeddings=features[row : row + 1],
            image_pe=small.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        torch.testing.assert_close(logits[row], expected[0, 0], rtol=1e-4, atol=1e-5)
    (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for name, value in aligned.named_parameters():
        assert (value.grad is not None) == value.requires_grad, name
        if value.grad is not None and not name.endswith("down"):  # it has none yet, as `up` is zero
            assert value.grad.abs().max() > 0, name


@pytest.mark.parametrize("part", PARTS)
def test_only_the_part_is_trained_and_kept(part: Part, records: Records, make_context: MakeContext) -> None:
    context = make_context(part)
    fitted = student(part=part)
    metrics = fitted.fit(records, context)
    saved = load_file(context.out / "model.safetensors")
    trained = {name.removeprefix("sam."): value for name, value in saved.items() if name.startswith("sam.")}
    plain = AlignedSam(load_sam("tiny"), rank=4, part=part)
    assert set(trained) == set(plain.trained())
    assert metrics["parameters_of_sam"] == sum(value.numel() for value in trained.values())
    before = {name: value.detach() for name, value in plain.named_parameters()}
    # Deltas begin at random, so what is compared are the parts that are trained whole.
    moved = {name for name in trained if not name.endswith(("up", "down"))}
    moved = {name for name in moved if not torch.equal(trained[name], before[name])}
    assert DENSE in moved
    assert (moved >= PROMPTS, bool(PROMPTS & moved)) == (part != "decoder",) * 2
    assert any(name.startswith("decoder.mask_tokens") for name in moved) == (part != "prompt_encoder")
    again = open_artifact(context.out, device="cpu")
    assert again.settings.part == part
    sample = photo(records[0], context)
    assert again.predict([sample]) == fitted.predict([sample])


def test_an_artifact_of_another_part_is_refused(records: Records, make_context: MakeContext) -> None:
    context = make_context("a")
    student().fit(records, context)
    card = context.out / "student.json"
    card.write_text(card.read_text().replace('"part": "decoder"', '"part": "both"'))
    with pytest.raises(BadInput, match="weights do not fit the settings"):
        open_artifact(context.out, device="cpu")


def test_what_a_pair_misses(records: Records, make_context: MakeContext) -> None:
    """Every image has two objects: a mean over all of them is that of the images."""
    context = make_context("a")
    fitted = student(split=0.4)
    metrics = fitted.fit(records, context)
    other = make_context("b")
    lower, upper = (float(metrics[f"missed_of_{half}"]) for half in ("sam", "detector"))
    assert 0 < lower < math.log(2)
    assert lower != upper
    judged = fitted.missed(records, other)
    assert judged.missed == pytest.approx((2 * lower + 3 * upper) / 5, abs=1e-6)
    found = (2 * float(metrics["found_of_sam"]) + 3 * float(metrics["found_of_detector"])) / 5
    assert judged.found == pytest.approx(found)
    assert judged.found > 0
    again = catalog.load_artifact(context.out, device="cpu")
    assert isinstance(again, BloInst)
    assert again.missed(records, other).missed == pytest.approx(judged.missed, abs=1e-6)
    # The state of a training is not for others to change, and theirs is not read.
    before = {path: path.stat().st_mtime_ns for path in context.scratch.glob("embeddings*")}
    assert before
    few = Records(records[:2])
    assert fitted.missed(few, context).missed == pytest.approx(fitted.missed(few, other).missed, abs=1e-6)
    assert {path: path.stat().st_mtime_ns for path in context.scratch.glob("embeddings*")} == before


def test_a_box_in_the_wrong_place_misses_all(records: Records, make_context: MakeContext) -> None:
    context = make_context("a")
    fitted = student()
    fitted.fit(records, context)
    assert fitted._pair is not None
    with torch.no_grad():
        fitted._pair.detector.shift += 100.0  # type: ignore[union-attr]
    judged = fitted.missed(records, make_context("b"))
    assert (judged.missed, judged.found) == (pytest.approx(math.log(2)), 0.0)


def test_nothing_is_missed_before_it_is_fitted(records: Records, make_context: MakeContext) -> None:
    with pytest.raises(RuntimeError, match="knows nothing yet"):
        student().missed(records, make_context("a"))


def test_its_detector_proposes_the_boxes_that_it_asks_sam(
    records: Records, make_context: MakeContext
) -> None:
    context = make_context("a")
    fitted = student()
    fitted.fit(records, context)
    proposer = load_aligned_detector(context.out, ontology=ONTOLOGY)
    for record in records:
        sample = photo(record, context)
        (prompts,) = proposer.propose([sample], [[3, 7]])
        (instances,) = fitted.predict([sample])
        assert [(p.class_id, p.score) for p in prompts] == [
            (i.class_id, pytest.approx(i.score)) for i in instances
        ]
        ((bar, _),) = proposer.propose([sample], [[7]])  # the disc is hardly one
        assert bar.class_id == 7
        assert bar.box_xyxy is not None
        assert bar.box_xyxy[2] - bar.box_xyxy[0] == pytest.approx(14, abs=1)
        assert bar.box_xyxy[3] - bar.box_xyxy[1] == pytest.approx(30, abs=1)


def test_its_boxes_end_where_the_image_does(
    records: Records, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """128 x 96 pixels fill three quarters of the square: a proposer's boxes are those that SAM is asked."""
    context = make_context("a")
    fitted = student()
    fitted.fit(records, context)
    assert fitted._pair is not None
    with torch.no_grad():
        fitted._pair.detector.shift += torch.tensor([-20.0, 0.0, 0.0, 250.0])  # type: ignore[union-attr]
    save(fitted._pair, fitted.settings, ONTOLOGY, context.out)
    asked, forward = [], AlignedSam.forward
    monkeypatch.setattr(
        AlignedSam,
        "forward",
        lambda own, features, boxes: asked.append(boxes) or forward(own, features, boxes),
    )
    proposer = load_aligned_detector(context.out, ontology=ONTOLOGY)
    for record in records:
        sample = photo(record, context)
        (prompts,) = proposer.propose([sample], [[3, 7]])
        fitted.predict([sample])
        scale = fitted.size / 128
        boxes = torch.tensor([prompt.box_xyxy for prompt in prompts]) * scale
        torch.testing.assert_close(boxes.float(), asked.pop().float(), rtol=1e-4, atol=1e-2)
        assert {round(float(low), 3) for low in boxes[:, 3]} == {96 * scale}


def test_the_setting_is_in_the_key() -> None:
    def told(part: str) -> object:
        return catalog.check(ModelSpec(name="s", use="blo_inst", settings={"part": part}))

    assert told("both") != told("decoder")
    with pytest.raises(BadInput, match="part"):
        told("encoder")
