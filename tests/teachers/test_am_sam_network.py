"""AM-SAM's network: what it begins as, which level owns what, where gradients reach, and how classes are prompted."""

import numpy as np
import pytest
import torch
from small_models import WIDTH, build_small_sam
from torch import Tensor

from teachers.am_sam_network import AmSamNetwork, PlainSam
from teachers.sam.decode import decode_masks
from teachers.sam.load import load_sam
from teachers.sam.predictor import SamPredictor

GRID = 8


def network(classes: int = 1, **settings: object) -> AmSamNetwork:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return AmSamNetwork(build_small_sam(), classes=classes, rank=2, **settings)  # type: ignore[arg-type]


def features(images: int = 1) -> Tensor:
    return torch.randn(images, WIDTH, GRID, GRID, generator=torch.Generator().manual_seed(3))


def boxes(*several: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor([several])


BOX = (5.0, 8.0, 40.0, 50.0)
OTHER = (20.0, 4.0, 60.0, 30.0)


def sams_own(given: Tensor, box: Tensor) -> Tensor:
    """Plain SAM's mask of a box."""
    sam = build_small_sam()
    sparse, dense = sam.prompt_encoder(points=None, boxes=box.flatten(0, 1), masks=None)
    position = sam.prompt_encoder.get_dense_pe()
    return decode_masks(sam.mask_decoder, given, position, sparse=sparse, dense=dense)[0]


def test_plain_sam_says_its_own_masks() -> None:
    given, pair = features(), boxes(BOX, OTHER)
    found = PlainSam(build_small_sam(), classes=2)(given, pair)
    assert found.shape == (1, 3, 32, 32)
    assert not found[:, 0].any()
    for row, box in enumerate((BOX, OTHER)):
        assert torch.allclose(found[:, row + 1], sams_own(given, boxes(box)), atol=1e-5)
    together = PlainSam(build_small_sam(), classes=2)(given, boxes(BOX))
    assert torch.equal(together[:, 1], together[:, 2])
    assert PlainSam(build_small_sam(), classes=2)(features(2), None).shape == (2, 3, 32, 32)


def test_one_class_begins_near_sams_own_mask() -> None:
    """Of the embedded SAM: its other tokens are missing, which a random one would miss more."""
    sam = load_sam("tiny")
    net = AmSamNetwork(sam, classes=1, rank=2, scope="off")
    image = np.full((256, 256, 3), 110, np.uint8)
    image[60:180, 80:200] = (220, 40, 40)
    given = SamPredictor(sam).embed([image]).features
    box = boxes((79.5, 59.5, 199.5, 179.5))
    found, own = net(given, box), PlainSam(sam, classes=1)(given, box)[:, 1]
    assert torch.allclose(found[:, 0], -found[:, 1], atol=1e-4)
    drawn, there = found.argmax(1) == 1, own > 0
    assert (drawn & there).sum() > 0.9 * (drawn | there).sum()


def test_new_tokens_begin_at_random() -> None:
    found = network(scope="off", tokens="new")(features(), boxes(BOX))
    assert not torch.allclose(found[:, 1], -found[:, 0], atol=1e-2)
    assert torch.isfinite(found).all()


def test_each_class_is_asked_with_its_own_box() -> None:
    net, given = network(2, scope="off"), features()
    both = net(given, boxes(BOX, OTHER))
    first, second = net(given, boxes(BOX, BOX)), net(given, boxes(OTHER, OTHER))
    assert torch.allclose(both[:, 1], first[:, 1], atol=1e-5)
    assert torch.allclose(both[:, 2], second[:, 2], atol=1e-5)
    assert torch.allclose(both[:, 0], (first[:, 0] + second[:, 0]) / 2, atol=1e-5)
    assert not torch.allclose(first[:, 1], second[:, 1], atol=1e-2)


def test_all_classes_may_be_asked_together_or_without_a_box() -> None:
    net = network(3)
    assert net(features(2), boxes(BOX).expand(2, 1, 4)).shape == (2, 4, 32, 32)
    assert net(features(2), None).shape == (2, 4, 32, 32)


def test_images_do_not_see_each_other() -> None:
    net, given = network(2), features(2)
    pair = net(given, boxes(BOX, OTHER).expand(2, 2, 4))
    alone = net(given[:1], boxes(BOX, OTHER))
    assert torch.allclose(pair[:1], alone, atol=1e-5)


@pytest.mark.parametrize(("corners", "owned"), [(False, 1), (True, 3)])
def test_levels_own_their_parameters_and_all_of_them_are_reached(corners: bool, owned: int) -> None:
    net = network(2, scope="learned", learn_corners=corners)
    theta, phi = net.theta(), net.phi()
    assert len(phi) == owned
    assert phi[-1] is net.prompt_encoder.no_mask_embed.weight or corners
    assert not {id(p) for p in theta} & {id(p) for p in phi}
    assert {id(p) for p in (*theta, *phi)} == {id(p) for p in net.parameters() if p.requires_grad}
    loss = net(features(), boxes(BOX, OTHER)).square().sum()
    found = torch.autograd.grad(loss, (*theta, *phi), allow_unused=True)
    assert all(gradient is not None for gradient in found)  # weight decay would move what is not


def test_what_is_trained_is_little_and_sams_own_parts_are_copies() -> None:
    sam = build_small_sam()
    net = AmSamNetwork(sam, classes=1, rank=2)
    names = set(net.trained())
    kinds = ("lora", "down", "up", "iou_token", "mask_tokens", "output_", "no_mask_embed")
    assert all(any(kind in name for kind in kinds) for name in names)
    assert not any("iou_prediction_head" in name for name in names)
    assert not any("transformer" in name and not name.endswith((".down", ".up")) for name in names)
    with torch.no_grad():
        for value in net.trained().values():
            value.add_(1.0)
    same = build_small_sam()
    assert all(torch.equal(a, b) for a, b in zip(sam.parameters(), same.parameters(), strict=True))
