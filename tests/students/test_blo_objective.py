"""The objective of both levels: which boxes prompt, what they are matched with, and what reaches whom.

`Told` stands for a detector: its boxes and logits are its parameters. SAM is the small one of 64 px, its masks 32 x 32.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from small_models import WIDTH, build_small_sam
from torch import Tensor, nn

from students.blo_objective import (
    NOBODY,
    AlignedSam,
    Choice,
    Images,
    Keeping,
    Weights,
    choose,
    losses,
    mask_loss,
    missed,
    total,
)
from students.blo_settings import Match
from teachers.detector import Assignment, Kept, Raw, Targets
from teachers.sam.lora import TRAINED_WHOLE, LoRALinear
from teachers.targets import low_res_masks

SIDE, LOW = 64, 32
KEEPING = Keeping(0.5, 0.9, 10)
ALL = Weights(0.3, 0.7, 0.3, 0.7)
LEFT, RIGHT = [4.0, 4.0, 28.0, 60.0], [36.0, 4.0, 60.0, 60.0]


Object = tuple[int, list[float], float]  # class, box and weight


class Told(nn.Module):
    """Boxes (B, A, 4) and logits (B, A, K); its losses are one of each location it is asked about."""

    def __init__(
        self, boxes: Sequence[Sequence[Sequence[float]]], logits: Sequence[Sequence[Sequence[float]]]
    ) -> None:
        super().__init__()
        self.boxes = nn.Parameter(torch.tensor(boxes, dtype=torch.float64))
        self.logits = nn.Parameter(torch.tensor(logits, dtype=torch.float64))

    def predict(self, pixels: Tensor) -> Raw:
        assert len(pixels) == len(self.boxes)
        count = self.boxes.shape[1]
        return Raw(self.boxes, self.logits, None, torch.zeros(count, 2), torch.ones(count), SIDE)

    def assign(self, raw: Raw, _: Sequence[Targets]) -> Assignment:
        none = torch.zeros(0, dtype=torch.int64)
        return Assignment(none, none, none, torch.zeros(raw.boxes.shape[:2], dtype=torch.bool))

    def losses(self, raw: Raw, *_: object) -> dict[str, Tensor]:
        return {
            "box": raw.boxes.square().mean(),
            "obj": raw.boxes.mean() * 0 + 2.0,
            "cls": raw.class_logits.square().mean(),
        }


def aligned(rank: int = 2) -> AlignedSam:
    """In float64, its deltas no longer zero."""
    torch.manual_seed(3)
    sam = AlignedSam(build_small_sam(), rank=rank).double()
    for module in sam.modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.up, std=0.1)
    return sam


def filled(*boxes: list[float]) -> Tensor:
    """Low-res masks of boxes."""
    masks = torch.zeros(len(boxes), LOW, LOW, dtype=torch.float64)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[int(y0 / 2) : int(y1 / 2), int(x0 / 2) : int(x1 / 2)] = 1
    return masks


def images(*objects: list[Object]) -> Images:
    """An image each: class, box and weight of its objects, whose masks are the boxes."""
    draw = torch.Generator().manual_seed(7)
    features = torch.randn(len(objects), WIDTH, 8, 8, generator=draw, dtype=torch.float64)
    targets = tuple(
        Targets(
            torch.tensor([box for _, box, _ in own], dtype=torch.float64).reshape(-1, 4),
            torch.tensor([label for label, _, _ in own], dtype=torch.int64),
            torch.tensor([weight for _, _, weight in own], dtype=torch.float64),
        )
        for own in objects
    )
    masks = tuple(filled(*(box for _, box, _ in own)) for own in objects)
    return Images(torch.zeros(len(objects), 3, SIDE, SIDE), features, targets, masks)


def agree(sam: AlignedSam, own: Images, image: int, index: int, box: list[float]) -> None:
    """Make an object's mask what SAM says to a box."""
    logits, _ = sam(own.features[[image]], torch.tensor([box], dtype=torch.float64))
    own.masks[image][index] = (logits[0] > 0).double()


def moved(box: list[float], by: float) -> list[float]:
    return [box[0], box[1] + by, box[2], box[3] + by]


def test_a_new_one_answers_as_sam_does() -> None:
    sam = build_small_sam()
    pair = AlignedSam(sam, rank=4)
    features = torch.randn(3, WIDTH, 8, 8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([LEFT, RIGHT, [0.5, 1.25, 63.0, 20.75]])
    logits, quality = pair(features, boxes)
    for row in range(3):
        # SAM takes indices of pixels and adds half of one itself.
        sparse, dense = sam.prompt_encoder(points=None, boxes=boxes[row : row + 1] - 0.5, masks=None)
        low, iou = sam.mask_decoder(
            image_embeddings=features[row : row + 1],
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        torch.testing.assert_close(logits[row], low[0, 0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(quality[row], iou[0, 0], rtol=1e-4, atol=1e-5)


def test_what_is_trained_of_sam() -> None:
    sam = build_small_sam()
    pair = AlignedSam(sam, rank=3)
    trained = pair.trained()
    deltas = {name for name in trained if name.endswith((".down", ".up"))}
    layers = [
        n for n, m in sam.mask_decoder.named_modules() if n.endswith(("q_proj", "v_proj")) and m is not None
    ]
    assert deltas == {f"decoder.{layer}.{part}" for layer in layers for part in ("down", "up")}
    assert all(min(trained[name].shape) == 3 for name in deltas)
    rest = {name.split(".")[1] for name in trained.keys() - deltas}
    assert rest == {*TRAINED_WHOLE, "no_mask_embed"}
    # What it was made of is no part of it, and its tokens begin as SAM's.
    assert torch.equal(trained["decoder.mask_tokens.weight"], sam.mask_decoder.mask_tokens.weight)
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.add_(1.0)
    assert not torch.equal(trained["decoder.mask_tokens.weight"], sam.mask_decoder.mask_tokens.weight)
    assert not any(parameter.requires_grad for parameter in sam.parameters())


def test_a_box_beyond_the_image_is_its_part_within() -> None:
    sam, own = aligned(), images([], [])
    boxes = torch.tensor(
        [[-9.0, 5.0, 40.0, 99.0], [0.0, 5.0, 40.0, 64.0]], dtype=torch.float64, requires_grad=True
    )
    logits, _ = sam(own.features[:1].expand(2, -1, -1, -1), boxes)
    torch.testing.assert_close(logits[0], logits[1])
    (gradient,) = torch.autograd.grad(logits[0].sum(), boxes)
    assert gradient[0, [0, 3]].tolist() == [0, 0]
    assert gradient[0, [1, 2]].all()


NEAR, HALF, FAR = moved(LEFT, 4), moved(LEFT, 18), moved(LEFT, 30)  # IoU 0.87, 0.51, 0.3


@pytest.mark.parametrize(
    ("box", "label", "target", "instance", "union"),
    [
        (NEAR, 0, 0, [LEFT], [LEFT, RIGHT]),
        (HALF, 0, 0, [LEFT], [LEFT, RIGHT]),
        (FAR, 0, NOBODY, None, [LEFT, RIGHT]),
        (moved(RIGHT, 2), 0, 2, [RIGHT], [LEFT, RIGHT]),
        (NEAR, 1, NOBODY, None, [[0.0, 0.0, 8.0, 8.0]]),
        (NEAR, 2, NOBODY, None, []),
    ],
    ids=["near", "half", "far", "the other", "another class", "no such class"],
)
def test_what_a_box_is_matched_with(
    box: list[float], label: int, target: int, instance: list[list[float]] | None, union: list[list[float]]
) -> None:
    logits = [-5.0, -5.0, -5.0]
    logits[label] = 3.0
    own = images([(0, LEFT, 0.5), (1, [0.0, 0.0, 8.0, 8.0], 1.0), (0, RIGHT, 0.25)])
    found = choose(Told([[box]], [[logits]]), own, KEEPING)
    assert found.target.tolist() == [target]
    assert found.boxes.tolist() == [box]
    if instance is None:
        assert found.weights.tolist() == [0.0]
        assert not found.truth.any()
    else:
        assert found.weights.tolist() == [0.5 if target == 0 else 0.25]
        assert torch.equal(found.truth, filled(*instance))
    published = choose(Told([[box]], [[logits]]), own, KEEPING, match="class_union")
    assert published.target.tolist() == [target]
    assert published.weights.tolist() == [1.0]
    assert torch.equal(published.truth[0], filled(*union).sum(0))


def test_the_union_of_masks_that_overlap_is_a_mask() -> None:
    own = images([(0, LEFT, 1.0), (0, NEAR, 1.0)])
    found = choose(Told([[LEFT]], [[[3.0]]]), own, KEEPING, match="class_union")
    assert torch.equal(found.truth[0], filled([4.0, 4.0, 28.0, 64.0])[0])


def test_several_boxes_share_an_object_and_each_is_of_its_own_image() -> None:
    """Two of the first image's, of which one overlaps the other too much; one in an image without objects."""
    said = Told([[LEFT, NEAR, HALF], [LEFT, RIGHT, FAR]], [[[3.0], [2.0], [1.0]], [[2.0], [-9.0], [-9.0]]])
    own = images([(0, LEFT, 1.0)], [])
    found = choose(said, own, KEEPING)
    assert found.kept.image.tolist() == [0, 0, 0, 1]
    assert found.target.tolist() == [0, 0, 0, NOBODY]
    fewer = choose(said, own, Keeping(0.5, 0.8, 10))
    assert fewer.kept.location[fewer.kept.image == 0].tolist() == [0, 2]
    assert len(choose(said, own, Keeping(0.5, 0.9, 1)).kept.score) == 2
    assert not found.truth.requires_grad
    assert not found.boxes.requires_grad


def test_the_mask_loss_is_the_mean_of_what_was_matched_by_its_weight() -> None:
    sam, own = aligned(), images([(0, LEFT, 1.0), (0, RIGHT, 0.25)])
    every = Told([[NEAR, moved(RIGHT, 2), FAR]], [[[3.0], [2.0], [1.0]]])
    choice = choose(every, own, Keeping(0.5, 1.0, 10))
    assert choice.target.tolist() == [0, 1, NOBODY]
    single = [
        mask_loss(
            sam, own, choose(Told([[box]], [[[3.0]]]), own, KEEPING), torch.tensor([box], dtype=torch.float64)
        )
        for box in (NEAR, moved(RIGHT, 2))
    ]
    whole = mask_loss(sam, own, choice, choice.boxes)
    torch.testing.assert_close(whole, (single[0] + single[1]) / 2)
    certain = images([(0, LEFT, 1.0), (0, RIGHT, 1.0)])
    surely = mask_loss(sam, certain, choose(every, certain, KEEPING), choice.boxes)
    torch.testing.assert_close(surely, (single[0] + 4 * single[1]) / 2)


def test_each_box_is_asked_of_its_own_image() -> None:
    sam, both = aligned(), images([(0, LEFT, 1.0)], [(0, LEFT, 1.0)])
    for image in range(2):
        agree(sam, both, image, 0, NEAR)
    parts = [
        Images(both.pixels[:1], both.features[[i]], both.targets[i : i + 1], both.masks[i : i + 1])
        for i in range(2)
    ]
    alone, together = Told([[NEAR]], [[[3.0]]]), Told([[NEAR]] * 2, [[[3.0]]] * 2)
    every = [mask_loss(sam, part, found := choose(alone, part, KEEPING), found.boxes) for part in parts]
    assert every[0] != every[1]
    choice = choose(together, both, KEEPING)
    torch.testing.assert_close(mask_loss(sam, both, choice, choice.boxes), (every[0] + every[1]) / 2)
    sums = [missed(sam, part, choose(alone, part, KEEPING))[0] for part in parts]
    assert missed(sam, both, choice)[0] == pytest.approx(sum(sums))


def test_the_mask_loss_is_that_of_the_masks_pixels_in_the_box() -> None:
    sam, own = aligned(), images([(0, LEFT, 1.0)])
    box = torch.tensor([[4.0, 8.0, 28.0, 64.0]], dtype=torch.float64)
    found = mask_loss(sam, own, choose(Told([[NEAR]], [[[3.0]]]), own, KEEPING), box)
    logits, _ = sam(own.features, box)
    part = logits[0, 4:32, 2:14]
    truth = own.masks[0][0, 4:32, 2:14]
    torch.testing.assert_close(found, nn.functional.binary_cross_entropy_with_logits(part, truth))


def test_gradients_of_a_mask_loss_reach_the_boxes_as_finite_differences_do() -> None:
    sam, own = aligned(), images([(0, LEFT, 1.0)], [(0, RIGHT, 0.5)])
    said = Told([[moved(LEFT, 2), FAR], [moved(RIGHT, -2), FAR]], [[[3.0], [-9.0]]] * 2)
    choice = choose(said, own, KEEPING)

    def loss() -> Tensor:
        return losses(said, sam, own, choice, ALL)["seg"]

    (gradient,) = torch.autograd.grad(loss(), said.boxes)
    assert gradient[:, 1].abs().max() == 0  # not kept
    assert (gradient[:, 0] != 0).all()
    epsilon = 1e-5
    for image in range(2):
        for edge in range(4):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    before = said.boxes[image, 0, edge].clone()
                    said.boxes[image, 0, edge] += sign * epsilon
                    sides.append(loss().item())
                    said.boxes[image, 0, edge] = before
            difference = (sides[0] - sides[1]) / (2 * epsilon)
            assert gradient[image, 0, edge].item() == pytest.approx(difference, rel=1e-5, abs=1e-9)


def test_the_four_losses_have_their_weights() -> None:
    sam, own = aligned(), images([(0, LEFT, 1.0)])
    said = Told([[NEAR]], [[[3.0]]])
    choice = choose(said, own, KEEPING)
    found = losses(said, sam, own, choice, Weights(2.0, 3.0, 5.0, 7.0))
    expected = {
        "box": 2 * said.boxes.square().mean(),
        "obj": torch.tensor(6.0, dtype=torch.float64),
        "cls": 5 * said.logits.square().mean(),
        "seg": 7 * mask_loss(sam, own, choice, said.boxes[0]),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    torch.testing.assert_close(total(found), sum(expected.values(), torch.zeros(())))


def test_only_the_mask_loss_depends_on_sam() -> None:
    sam, own = aligned(), images([(0, LEFT, 1.0)])
    said = Told([[NEAR]], [[[3.0]]])
    found = losses(said, sam, own, choose(said, own, KEEPING), ALL)
    theta = list(sam.trained().values())
    for name, loss in found.items():
        gradients = torch.autograd.grad(loss, theta, allow_unused=True, retain_graph=True)
        reached = [gradient is not None and bool(gradient.any()) for gradient in gradients]
        assert any(reached) is (name == "seg"), name


@pytest.mark.parametrize(
    ("said", "objects"),
    [
        (Told([[NEAR]], [[[-9.0]]]), [(0, LEFT, 1.0)]),
        (Told([[NEAR]], [[[3.0]]]), []),
        (Told([[FAR]], [[[3.0]]]), [(0, LEFT, 1.0)]),
        (Told([[NEAR]], [[[3.0]]]), [(0, LEFT, 0.0)]),
    ],
    ids=["nothing found", "an empty image", "nothing matched", "nothing trusted"],
)
def test_where_no_mask_teaches_the_detector_still_learns(
    said: Told, objects: list[tuple[int, list[float], float]]
) -> None:
    sam, own = aligned(), images(objects)
    choice = choose(said, own, KEEPING)
    found = losses(said, sam, own, choice, ALL)
    assert found["seg"] == 0
    assert not found["seg"].requires_grad
    gradients = torch.autograd.grad(total(found), [said.boxes, said.logits])
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_what_a_pair_is_worth() -> None:
    """The first object is found twice, the second badly, the third by no box; an image without any beside it."""
    sam = aligned()
    own = images([(0, LEFT, 0.0), (0, RIGHT, 1.0), (1, LEFT, 1.0)], [])
    agree(sam, own, 0, 0, HALF)
    said = Told(
        [[NEAR, HALF, moved(RIGHT, 18)], [LEFT, LEFT, LEFT]], [[[3.0, -9.0], [2.0, -9.0], [1.0, -9.0]]] * 2
    )
    choice = choose(said, own, Keeping(0.5, 1.0, 10))
    assert choice.target[:3].tolist() == [0, 0, 1]
    each = []
    for box, index in ((NEAR, 0), (HALF, 0), (moved(RIGHT, 18), 1)):
        truth, mask = (LEFT, RIGHT)[index], own.masks[0][[index]]
        one = replace(images([(0, truth, 1.0)]), features=own.features[:1], masks=(mask,))
        found = choose(Told([[box]], [[[3.0]]]), one, KEEPING)
        each.append(mask_loss(sam, one, found, found.boxes).item())
    unknown = math.log(2)
    assert each[1] < each[0]
    assert each[1] < unknown < each[2]
    lost, found, count = missed(sam, own, choice)
    assert (found, count) == (2, 3)
    assert lost == pytest.approx(min(each[0], each[1], unknown) + min(each[2], unknown) + unknown)
    assert missed(sam, images([], []), choose(said, images([], []), KEEPING)) == (0, 0, 0)


def test_finding_less_is_not_better() -> None:
    sam, own = aligned(), images([(0, LEFT, 1.0), (0, RIGHT, 1.0)])
    nothing = missed(sam, own, choose(Told([[NEAR]], [[[-9.0]]]), own, KEEPING))
    assert nothing == (pytest.approx(2 * math.log(2)), 0, 2)
    assert missed(sam, own, choose(Told([[NEAR]], [[[3.0]]]), own, KEEPING))[0] <= nothing[0]


def test_many_boxes_are_judged_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sam, own = aligned(), images([(0, LEFT, 1.0), (0, RIGHT, 1.0)])
    boxes = [moved(box, by) for by in (0.0, 2.0, 4.0) for box in (LEFT, RIGHT)]
    choice = choose(Told([boxes], [[[3.0]] * 6]), own, Keeping(0.5, 1.0, 10))
    at_once = missed(sam, own, choice)
    monkeypatch.setattr("students.blo_objective.AT_ONCE", 2)
    assert missed(sam, own, choice) == (pytest.approx(at_once[0]), 2, 2)


def test_many_boxes_are_taught_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same loss and gradients, of SAM's part and of the boxes."""
    sam, own = aligned(), images([(0, LEFT, 1.0), (0, RIGHT, 0.5)])
    boxes = [moved(box, by) for by in (0.0, 2.0, 4.0) for box in (LEFT, RIGHT)]
    said = Told([boxes], [[[3.0]] * 6])
    choice = choose(said, own, Keeping(0.5, 1.0, 10))
    asked: list[int] = []
    sam.register_forward_hook(lambda _, given, __: asked.append(len(given[1])))

    def found() -> tuple[Tensor, ...]:
        loss = mask_loss(sam, own, choice, choice.kept.boxes(said.predict(own.pixels)))
        return (
            loss,
            *torch.autograd.grad(loss, [said.boxes, *sam.trained().values()], materialize_grads=True),
        )

    at_once = found()
    assert set(asked) == {6}
    asked.clear()
    monkeypatch.setattr("students.blo_objective.AT_ONCE", 4)
    torch.testing.assert_close(found(), at_once)
    assert set(asked) == {4, 2}


THIN = [LEFT[0] + 1.2, LEFT[1], LEFT[0] + 2.8, LEFT[3]]  # between the centres of two low-res pixels


@pytest.mark.parametrize("match", ["instance", "class_union"])
def test_a_box_without_a_pixel_finds_and_teaches_nothing(match: Match) -> None:
    sam, own = aligned(), images([(0, THIN, 1.0)])
    choice = choose(Told([[THIN]], [[[3.0]]]), own, KEEPING, match=match)
    assert (choice.target.tolist(), choice.weights.tolist()) == ([NOBODY], [0.0])
    assert missed(sam, own, choice) == (pytest.approx(math.log(2)), 0, 1)


def test_what_a_box_overlaps_counts_within_the_image() -> None:
    """SAM sees no more of it: the box is right, though it reaches far beyond."""
    own = images([(0, [0.0, 4.0, 28.0, 60.0], 1.0)])
    choice = choose(Told([[[-40.0, 4.0, 28.0, 60.0]]], [[[3.0]]]), own, KEEPING)
    assert choice.target.tolist() == [0]


def test_masks_as_the_decoder_sees_them() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4, :4] = True
    masks[0, 0, 4:6] = masks[0, 1, 4] = True  # three of the four pixels
    masks[1, 0, :2] = True  # two
    low = low_res_masks(masks, 4)
    assert low.dtype == torch.float32
    expected = torch.zeros(2, 4, 4)
    expected[0, :2, :2] = 1
    expected[0, 0, 2], expected[1, 0, 0] = 0.75, 0.5
    assert torch.equal(low, expected)
    assert low_res_masks(masks[:0], 4).shape == (0, 4, 4)


def test_a_choice_is_asked_again_at_other_parameters() -> None:
    """The same boxes, wherever they have gone, with the objects that they had."""
    sam, own = aligned(), images([(0, LEFT, 1.0)])
    said = Told([[NEAR, FAR]], [[[3.0], [2.0]]])
    choice: Choice = choose(said, own, Keeping(0.5, 1.0, 10))
    with torch.no_grad():
        said.boxes[0, 0] += 30.0
        said.boxes[0, 1] -= 30.0
    again = losses(said, sam, own, choice, ALL)["seg"] / ALL.seg
    torch.testing.assert_close(again, mask_loss(sam, own, choice, said.boxes[0]))
    assert isinstance(choice.kept, Kept)
