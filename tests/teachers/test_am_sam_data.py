"""AM-SAM's halves, the shares of its low-res pixels, and the Dice that judges."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from few_shots import ONTOLOGY, shot
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.masks import encode
from pipeline.data.records import Instance, Record, Role, Source
from teachers.am_sam_data import Shots, Truth, classes_of, halves, mean_dice, truth_of
from teachers.losses import semantic_loss

INDEX = {class_id: place for place, class_id in enumerate(ONTOLOGY.ids)}
IMAGES = st.lists(st.frozensets(st.integers(0, 4), max_size=3), min_size=2, max_size=16).filter(
    lambda images: sum(map(bool, images)) >= 2
)


@given(IMAGES, st.integers(0, 2**32 - 1))
def test_halves_share_no_image_and_hold_all(images: list[frozenset[int]], seed: int) -> None:
    found = halves(images, seed)
    assert sorted(found.lower + found.upper) == list(range(len(images)))
    assert len(found.lower) - len(found.upper) in (0, 1)
    assert found == halves(images, seed)
    assert any(images[place] for place in found.lower)
    assert any(images[place] for place in found.upper)


def test_another_seed_draws_other_halves() -> None:
    images = [frozenset({0})] * 8
    assert len({halves(images, seed) for seed in range(10)}) > 5


@pytest.mark.parametrize("seed", range(8))
def test_a_class_with_a_single_mask_is_in_the_half_that_the_decoder_learns_from(seed: int) -> None:
    images = [frozenset({0})] * 7 + [frozenset({0, 1})]
    assert 7 in halves(images, seed).lower


def test_only_human_masked_records_are_shots(tmp_path: Path) -> None:
    records = [shot(i, tmp_path, role=role) for i, role in enumerate(Role)]
    assert [record.role for record in Shots(tuple(records))] == [Role.HUMAN_MASKED]  # type: ignore[arg-type]


def test_classes_of_images(tmp_path: Path) -> None:
    records = [shot(0, tmp_path), shot(1, tmp_path, classes=(8,)), shot(2, tmp_path, classes=())]
    assert classes_of(records, INDEX) == [frozenset({0, 1}), frozenset({1}), frozenset()]


def full(mask: np.ndarray, class_id: int | None, **more: object) -> Instance:
    return Instance(Source.HUMAN, class_id, rle=encode(mask), human_id=1, **more)  # type: ignore[arg-type]


def record_of(*instances: Instance, crowd: tuple[Instance, ...] = ()) -> Record:
    """Of 32 x 64 pixels, so that the lower half of SAM's square is padding."""
    return Record(1, "x.png", "0" * 64, 64, 32, "train", Role.HUMAN_MASKED, instances=instances, crowd=crowd)


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((32, 64), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_shares_say_how_much_of_a_pixel_is_of_which_class() -> None:
    truth = truth_of(record_of(full(box(0, 0, 1, 64), 3)), INDEX, side=64, low=32)
    assert truth.shares.shape == (1, 3, 32, 32)
    assert torch.allclose(truth.shares.sum(1), torch.ones(1, 32, 32))
    assert torch.equal(truth.known[0, :16], torch.ones(16, 32))
    assert not truth.known[0, 16:].any()  # padding
    assert torch.equal(truth.shares[0, 1, 0], torch.full((32,), 0.5))  # a line of half a low-res pixel
    assert not truth.shares[0, 1, 1:].any()


def test_the_smaller_mask_is_on_top_and_open_regions_are_not_known() -> None:
    large, small = full(box(0, 0, 32, 32), 3), full(box(8, 8, 8, 8), 8)
    for order in ((large, small), (small, large)):
        truth = truth_of(record_of(*order), INDEX, side=64, low=32)
        assert truth.shares[0, :, 5, 5].tolist() == [0, 0, 1]
        assert truth.shares[0, :, 1, 1].tolist() == [0, 1, 0]
    nameless = replace(full(box(0, 48, 32, 16), None), phrase="something")
    truth = truth_of(record_of(large, crowd=(nameless,)), INDEX, side=64, low=32)
    assert not truth.known[0, :16, 24:].any()
    assert truth.known[0, :16, :24].all()


def test_an_image_without_a_mask_is_background() -> None:
    truth = truth_of(record_of(), INDEX, side=64, low=32)
    assert truth.shares[0, 0].all()
    assert truth.known[0, :16].all()


def logits_of(classes: torch.Tensor, count: int = 3) -> torch.Tensor:
    return 20.0 * torch.nn.functional.one_hot(classes, count).permute(0, 3, 1, 2).float()


def test_the_loss_of_the_truth_is_nothing_and_padding_does_not_count() -> None:
    truth = truth_of(record_of(full(box(0, 0, 32, 32), 3), full(box(8, 40, 8, 8), 8)), INDEX, side=64, low=32)
    best = logits_of(truth.shares.argmax(1))
    assert float(semantic_loss(best, truth.shares, truth.known, dice=0.8)) == pytest.approx(0, abs=1e-3)
    wrong = best.clone()
    wrong[:, :, 16:] = wrong[:, :, 16:].roll(1, 1)
    assert torch.equal(
        semantic_loss(best, truth.shares, truth.known, dice=0.8),
        semantic_loss(wrong, truth.shares, truth.known, dice=0.8),
    )
    assert float(semantic_loss(wrong.roll(1, 1), truth.shares, truth.known, dice=0.8)) > 1


def test_the_loss_is_that_of_blo_sam_for_crisp_masks() -> None:
    """Its dice: sums over the batch, squared denominators, smooth 1e-5, mean over all classes."""
    drawn = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=drawn)
    labels = torch.randint(3, (2, 4, 4), generator=drawn)
    shares = torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    entropy = torch.nn.functional.cross_entropy(logits, labels)
    found, each = logits.softmax(1), []
    for c in range(3):
        p, g = found[:, c], shares[:, c]
        each.append(1 - (2 * (p * g).sum() + 1e-5) / ((p * p).sum() + (g * g).sum() + 1e-5))
    wanted = 0.2 * entropy + 0.8 * torch.stack(each).mean()
    assert torch.allclose(semantic_loss(logits, shares, torch.ones(2, 4, 4), dice=0.8), wanted)


def test_dice_is_the_mean_over_classes_that_are_there_or_found() -> None:
    true = torch.zeros(3, 4, 4, dtype=torch.int64)
    true[0, :2], true[0, 2, :2] = 1, 2
    found = true.clone()
    found[0, 2, :2] = 0  # class 2 is missed
    found[1, 0, 0] = 1  # nothing is there
    truth = Truth(logits_of(true) / 20, torch.ones(3, 4, 4))
    assert mean_dice(logits_of(found), truth) == [0.5, 0.0, 1.0]
    unknown = Truth(truth.shares, torch.zeros(3, 4, 4))
    assert mean_dice(logits_of(found), unknown) == [1.0, 1.0, 1.0]
