"""The predictor answers as segment-anything does, and an answer depends on nothing that shares its batch."""

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch
from segment_anything import build_sam_vit_b
from segment_anything.modeling import Sam

from pipeline.data.records import Origin, Point, Prompt
from teachers.class_aware import ClassAwarePrompts
from teachers.sam.attention import use_fast_attention
from teachers.sam.predictor import Answer, Ask, Embeddings, Head, SamPredictor

BOX = Prompt(Origin.HUMAN, (10.0, 20.0, 70.0, 90.0))
BOXES = [BOX, Prompt(Origin.HUMAN, (0.0, 0.0, 30.0, 30.0)), Prompt(Origin.HUMAN, (50.5, 3.25, 99.0, 60.0))]
CLICK = Prompt(Origin.HUMAN, points=(Point(40.5, 33.5),))
CLICKS = Prompt(Origin.HUMAN, points=(Point(40.5, 33.5), Point(60.5, 80.5, 0)))
BOTH = Prompt(Origin.HUMAN, (10.0, 20.0, 70.0, 90.0), (Point(40.5, 33.5),))


def photo(seed: int, size: tuple[int, int] = (100, 120)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def answers(predictor: SamPredictor, head: Head, images: list[np.ndarray], asks: list[Ask]) -> list[Answer]:
    found = dict(predictor.decode(head, predictor.embed(images), asks))
    return [found[index] for index in range(len(asks))]


def official(sam: Sam, image: np.ndarray, prompts: list[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
    """segment-anything's own modules from encoder to low-res logits, all prompts of one image at once."""
    predictor = SamPredictor(sam)
    embeddings = predictor.embed([image])
    pixels = sam.image_encoder(_square(sam, image))
    assert torch.equal(pixels, embeddings.features)
    points, boxes = predictor._coordinates(embeddings, [Ask(0, prompt) for prompt in prompts])
    sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=None)
    logits, iou = sam.mask_decoder(
        image_embeddings=pixels,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return logits[:, 0], iou[:, 0]


def _square(sam: Sam, image: np.ndarray) -> torch.Tensor:
    from segment_anything.utils.transforms import ResizeLongestSide

    resized = ResizeLongestSide(sam.image_encoder.img_size).apply_image(image)
    return sam.preprocess(torch.from_numpy(resized.copy()).permute(2, 0, 1).float())[None]


def check_against_official(sam: Sam, prompts: list[Prompt]) -> None:
    """Bit-equal with the original attention, within 1e-4 on the fast path."""
    image = photo(0)
    logits, iou = official(sam, image, prompts)
    asks = [Ask(0, prompt) for prompt in prompts]
    predictor = SamPredictor(sam, chunk=len(prompts))
    for row, answer in enumerate(answers(predictor, predictor.plain_head(), [image], asks)):
        assert np.array_equal(answer.low_res_logits, logits[row].numpy())
        assert answer.pred_iou == iou[row].item()
    use_fast_attention(sam.image_encoder)
    for row, answer in enumerate(answers(predictor, predictor.plain_head(), [image], asks)):
        np.testing.assert_allclose(answer.low_res_logits, logits[row].numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("prompts", [BOXES, [CLICK], [CLICKS, CLICKS], [BOTH]])
def test_equals_official(small_sam: Sam, prompts: list[Prompt]) -> None:
    check_against_official(small_sam, prompts)


@pytest.mark.slow
def test_equals_official_vit_b_at_full_size() -> None:
    torch.manual_seed(0)
    sam = build_sam_vit_b().requires_grad_(False)
    for (
        block
    ) in sam.image_encoder.blocks:  # official weights have them; fresh ones are zero and would hide a mistake
        torch.nn.init.normal_(block.attn.rel_pos_h, std=0.02)
        torch.nn.init.normal_(block.attn.rel_pos_w, std=0.02)
    check_against_official(sam, BOXES)


def asks_of_two_images(text: torch.Tensor | None = None) -> list[Ask]:
    mixed = [BOX, CLICK, BOTH, *BOXES, CLICKS, CLICK]
    return [Ask(index % 2, prompt, text) for index, prompt in enumerate(mixed)]


def trained_branch(sam: Sam) -> ClassAwarePrompts:
    torch.manual_seed(1)
    branch = ClassAwarePrompts(sam.prompt_encoder, 6)
    torch.nn.init.normal_(branch.zero.weight, std=0.1)
    return branch


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("embed_batch", [1, 3])
@pytest.mark.parametrize("with_class", [False, True])
def test_answers_do_not_depend_on_neighbours(
    small_sam: Sam, chunk: int, embed_batch: int, with_class: bool
) -> None:
    predictor = SamPredictor(small_sam, chunk=chunk, embed_batch=embed_batch)
    head = Head(small_sam.mask_decoder, trained_branch(small_sam) if with_class else None)
    text = torch.linspace(-1, 1, 6) if with_class else None
    images, asks = [photo(1), photo(2, (64, 200))], asks_of_two_images(text)
    together = answers(predictor, head, images, asks)
    for image in (0, 1):  # each image alone; then behind another one
        rows = [index for index, ask in enumerate(asks) if ask.image == image]
        for extra in ([], [photo(7)]):
            own = [Ask(len(extra), asks[row].prompt, text) for row in rows]
            others = [Ask(0, CLICK, text), Ask(0, BOX, text)] if extra else []
            alone = answers(predictor, head, [*extra, images[image]], [*others, *own])[len(others) :]
            for row, answer in zip(rows, alone, strict=True):
                assert np.array_equal(answer.low_res_logits, together[row].low_res_logits)
                assert answer.pred_iou == together[row].pred_iou


@pytest.mark.parametrize("chunk", [1, 3, 4, 8])
def test_shared_chunks_give_every_prompt_its_own_image(small_sam: Sam, chunk: int) -> None:
    head, text = Head(small_sam.mask_decoder, trained_branch(small_sam)), torch.linspace(-1, 1, 6)
    images, asks = [photo(1), photo(2, (64, 200))], asks_of_two_images(text)
    apart, shared = (
        answers(SamPredictor(small_sam, chunk=chunk, share=share), head, images, asks)
        for share in (False, True)
    )
    for one, other in zip(apart, shared, strict=True):
        np.testing.assert_allclose(one.low_res_logits, other.low_res_logits, rtol=0, atol=1e-5)
        assert one.pred_iou == pytest.approx(other.pred_iou, abs=1e-5)


def test_chunks_have_one_size_and_sharing_needs_fewer(
    small_sam: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    forward = SamPredictor.forward

    def spy(self: SamPredictor, head: Head, embeddings: Embeddings, asks: list[Ask]) -> object:
        rows.append(len(asks))
        return forward(self, head, embeddings, asks)

    monkeypatch.setattr(SamPredictor, "forward", spy)
    asks = [Ask(image, BOX) for image in (0, 1, 1)]
    for share, expected in ((True, [3]), (False, [3, 3])):
        rows.clear()
        predictor = SamPredictor(small_sam, chunk=3, share=share)
        answers(predictor, predictor.plain_head(), [photo(1), photo(2)], asks)
        assert rows == expected


@pytest.mark.parametrize("embed_batch", [1, 2])
def test_an_encoder_in_bfloat16_gives_nearly_the_same_features(small_sam: Sam, embed_batch: int) -> None:
    images = [photo(1), photo(2, (64, 200))]
    exact = SamPredictor(small_sam, embed_batch=embed_batch).embed(images).features
    found = SamPredictor(small_sam, embed_batch=embed_batch, encoder_bf16=True).embed(images).features
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    assert (found - exact).norm() < 0.02 * exact.norm()


def test_class_aware_at_initialisation_is_plain_sam_to_the_bit(small_sam: Sam) -> None:
    torch.manual_seed(2)
    head = Head(deepcopy(small_sam.mask_decoder), ClassAwarePrompts(small_sam.prompt_encoder, 6))
    predictor = SamPredictor(small_sam)
    text = torch.randn(6)
    plain = answers(predictor, predictor.plain_head(), [photo(1), photo(2)], asks_of_two_images())
    aware = answers(predictor, head, [photo(1), photo(2)], asks_of_two_images(text))
    for one, other in zip(plain, aware, strict=True):
        assert np.array_equal(one.low_res_logits, other.low_res_logits)
        assert one.pred_iou == other.pred_iou


def test_the_class_changes_a_trained_answer(small_sam: Sam) -> None:
    predictor, head = SamPredictor(small_sam), Head(small_sam.mask_decoder, trained_branch(small_sam))
    one, other = answers(
        predictor, head, [photo(1)], [Ask(0, BOX, torch.ones(6)), Ask(0, BOX, -torch.ones(6))]
    )
    assert not np.array_equal(one.low_res_logits, other.low_res_logits)


def test_no_images_no_prompts(small_sam: Sam) -> None:
    predictor = SamPredictor(small_sam)
    assert predictor.embed([]).features.shape == (0, 32, 8, 8)
    assert list(predictor.decode(predictor.plain_head(), predictor.embed([photo(1)]), [])) == []


def test_a_class_aware_head_needs_class_vectors(small_sam: Sam) -> None:
    predictor, head = SamPredictor(small_sam), Head(small_sam.mask_decoder, trained_branch(small_sam))
    with pytest.raises(ValueError, match="class vector"):
        answers(predictor, head, [photo(1)], [Ask(0, BOX)])


def test_different_sams_differ(make_sam: Callable[[int], Sam]) -> None:
    one, other = (SamPredictor(make_sam(seed)) for seed in (0, 1))
    first, second = (answers(p, p.plain_head(), [photo(1)], [Ask(0, BOX)])[0] for p in (one, other))
    assert not np.array_equal(first.low_res_logits, second.low_res_logits)
