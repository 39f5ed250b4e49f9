"""The loss against transformers' own where nothing is ignored, and what ignore regions change where something is."""

from dataclasses import replace

import pytest
import torch
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from students.architecture import model_config
from students.criterion import (
    Match,
    class_losses,
    lookup,
    mask2former_loss,
    mask_losses,
    match_layer,
    on_ignored,
    uncertain_points,
)
from students.layers import Predictions
from teachers.targets import Batch

SIZE, QUERIES, CLASSES = 64, 6, 3


def make_batch(*, ignore=None, weights=None, counts=(2, 1)):
    """Squares in different corners: two in image 0, one in image 1."""
    masks = torch.zeros(sum(counts), SIZE, SIZE, dtype=torch.bool)
    for index, corner in enumerate([(0, 0), (32, 32), (8, 24)][: len(masks)]):
        masks[index, corner[0] : corner[0] + 24, corner[1] : corner[1] + 24] = True
    nothing = torch.zeros(len(counts), SIZE, SIZE, dtype=torch.bool)
    return Batch(
        pixels=torch.zeros(len(counts), SIZE, SIZE, 3, dtype=torch.uint8),
        masks=masks,
        classes=torch.tensor([0, 2, 1][: len(masks)], dtype=torch.int64),
        counts=counts,
        ignore=nothing if ignore is None else ignore,
        weights=torch.ones(len(masks)) if weights is None else torch.tensor(weights),
    )


def make_outputs(layers=2, seed=0):
    torch.manual_seed(seed)
    return Predictions(
        [torch.randn(2, QUERIES, CLASSES + 1) for _ in range(layers)],
        [3 * torch.randn(2, QUERIES, SIZE // 4, SIZE // 4) for _ in range(layers)],
    )


@pytest.fixture
def config():
    result = model_config("tiny", CLASSES)
    result.train_num_points = 12544
    return result


def matched(config, batch, outputs):
    points = torch.rand(2, config.train_num_points, 2)
    return match_layer(
        outputs.class_logits[-1], outputs.mask_logits[-1], batch=batch, points=points, config=config
    )


def test_equals_the_reference_without_ignore_regions(config):
    batch, outputs = make_batch(), make_outputs()
    for layer in range(2):  # a clear best match, so that both assign alike
        for image, query, target in ((0, 4, 0), (0, 1, 1), (1, 5, 2)):
            outputs.mask_logits[layer][image, query] += 4 * batch.masks[target, 2::4, 2::4]
    weights = {
        "loss_cross_entropy": config.class_weight,
        "loss_mask": config.mask_weight,
        "loss_dice": config.dice_weight,
    }
    reference = Mask2FormerLoss(config, weights)
    reference.empty_weight[:-1] = 1.0
    reference.empty_weight[-1] = config.no_object_weight
    parts = reference(
        outputs.mask_logits[-1],
        outputs.class_logits[-1],
        [batch.masks[:2].float(), batch.masks[2:].float()],
        [batch.classes[:2], batch.classes[2:]],
        [{"masks_queries_logits": outputs.mask_logits[0], "class_queries_logits": outputs.class_logits[0]}],
    )
    expected = sum(
        value * next(w for key, w in weights.items() if key in name) for name, value in parts.items()
    )
    found = mask2former_loss(outputs, batch, config)
    # Points are drawn differently: 12544 of them leave less than a percent of difference.
    assert float(found) == pytest.approx(float(expected), rel=0.01)


def test_matches_are_the_best_masks(config):
    batch, outputs = make_batch(), make_outputs()
    small = batch.masks.float()[:, 2::4, 2::4]
    outputs.mask_logits[-1][0, 4] = 20 * small[0] - 10
    outputs.mask_logits[-1][0, 1] = 20 * small[1] - 10
    outputs.mask_logits[-1][1, 5] = 20 * small[2] - 10
    match = matched(config, batch, outputs)
    pairs = set(zip(match.image.tolist(), match.query.tolist(), match.target.tolist(), strict=True))
    assert pairs == {(0, 4, 0), (0, 1, 1), (1, 5, 2)}


def test_pixels_of_ignore_regions_count_in_no_mask_loss(config):
    """What a matched query says within the ignore region changes neither its losses nor its gradient there."""
    ignore = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    ignore[0, 40:, :24] = True
    batch, outputs = make_batch(ignore=ignore), make_outputs()
    match = Match(torch.tensor([0]), torch.tensor([3]), torch.tensor([0]))
    losses = []
    for logit in (-9.0, 9.0):
        logits = outputs.mask_logits[-1].clone()
        logits[0, 3, 10:, :6] = logit
        logits.requires_grad_()
        torch.manual_seed(1)
        bce, dice = mask_losses(logits, match, batch=batch, config=config)
        (bce + dice).backward()
        # Stride-4 cells wholly inside, away from the bilinear border.
        assert not logits.grad[0, 3, 11:, :5].any()
        assert logits.grad[0, 3, :6, :6].any()
        losses.append((bce.item(), dice.item()))
    # The region's cells differ, so other points are drawn, but the loss of the rest is the same up to sampling.
    assert losses[0] == pytest.approx(losses[1], rel=0.1)
    plain = [
        mask_losses(x, match, batch=replace(batch, ignore=torch.zeros_like(ignore)), config=config)
        for x in (_filled(outputs, -9.0), _filled(outputs, 9.0))
    ]
    assert plain[1][0].item() > 1.3 * plain[0][0].item()


def _filled(outputs, logit):
    logits = outputs.mask_logits[-1].clone()
    logits[0, 3, 10:, :6] = logit
    return logits


@pytest.mark.parametrize("trust", [0.0, 0.3, 1.0])
def test_a_target_counts_as_much_as_its_weight(config, trust):
    outputs = make_outputs()
    match = Match(torch.tensor([0, 0]), torch.tensor([3, 1]), torch.tensor([0, 1]))
    found = {}
    for name, weights in (
        ("whole", [1.0, 1.0, 1.0]),
        ("first", [trust, 1.0, 1.0]),
        ("none", [0.0, 1.0, 1.0]),
    ):
        batch = make_batch(weights=weights)
        torch.manual_seed(1)
        masks = mask_losses(outputs.mask_logits[-1], match, batch=batch, config=config)
        logits = outputs.class_logits[-1].detach().clone().requires_grad_()
        class_losses(logits, outputs.mask_logits[-1], match=match, batch=batch, config=config).backward()
        sums = [float(value) * sum(weights) for value in masks]
        found[name] = sums, logits.grad[0, 3].norm() / logits.grad[0, 1].norm()
    for whole, first, none in zip(*(found[name][0] for name in ("whole", "first", "none")), strict=True):
        assert first == pytest.approx(none + trust * (whole - none))
        assert whole > none
    assert found["first"][1] == pytest.approx(trust * found["whole"][1])


def test_masks_that_are_all_doubted_alike_weigh_as_much_beside_the_classes(config):
    outputs = make_outputs()
    match = Match(torch.tensor([0, 0]), torch.tensor([3, 1]), torch.tensor([0, 1]))
    found = []
    for trust in (1.0, 0.5):
        torch.manual_seed(1)
        batch = make_batch(weights=[trust] * 3)
        found.append(
            [float(v) for v in mask_losses(outputs.mask_logits[-1], match, batch=batch, config=config)]
        )
    assert found[0] == pytest.approx(found[1])
    torch.manual_seed(1)
    batch = make_batch(weights=[0.1, 0.1, 0.0])
    alone = [float(v) for v in mask_losses(outputs.mask_logits[-1], match, batch=batch, config=config)]
    assert all(
        a < 0.5 * f for a, f in zip(alone, found[0], strict=True)
    )  # a batch of doubts does not count as one of masks


def test_points_are_drawn_outside_ignore_regions_as_long_as_there_are_others(config):
    ignore = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    ignore[0, :, :32] = True
    logits = torch.full((1, 1, 16, 16), 5.0)
    logits[:, :, :, :8] = 0.0  # the network doubts most where nobody knows
    points = uncertain_points(logits, torch.tensor([0]), ignore=ignore, config=config)
    chosen = points[:, : int(0.75 * config.train_num_points)]
    assert not lookup(ignore, torch.tensor([0]), chosen).any()


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        (slice(8, 12), slice(0, 4), True),  # inside the region
        (slice(8, 12), slice(2, 10), False),  # mostly outside
        (slice(0, 4), slice(8, 12), False),  # elsewhere
        (slice(0, 0), slice(0, 0), False),  # an empty mask found nothing
    ],
)
def test_a_query_is_on_ignored_ground_if_most_of_its_mask_is(rows, columns, expected):
    ignore = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    ignore[0, 32:, :16] = True
    logits = torch.full((1, 1, 16, 16), -4.0)
    logits[0, 0, rows, columns] = 4.0
    assert on_ignored(logits, ignore).item() is expected


def test_unmatched_queries_on_ignored_ground_are_not_told_they_found_nothing(config):
    ignore = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    ignore[0, 32:, :16] = True
    batch, outputs = make_batch(ignore=ignore), make_outputs()
    logits = torch.full_like(outputs.mask_logits[-1], -4.0)
    logits[0, 2, 8:, :4] = 4.0  # unmatched, on the region
    logits[0, 3, :6, :6] = 4.0  # unmatched, elsewhere
    logits[0, 5, 8:, :4] = 4.0  # on the region too, but matched
    match = Match(torch.tensor([0]), torch.tensor([5]), torch.tensor([1]))
    classes = outputs.class_logits[-1].requires_grad_()
    class_losses(classes, logits, match=match, batch=batch, config=config).backward()
    moved = classes.grad.abs().sum(-1)
    assert moved[0, 2] == 0
    assert (moved[0, [0, 1, 3, 4, 5]] > 0).all()
    assert (moved[1] > 0).all()


@pytest.mark.parametrize("counts", [(0, 0), (2, 0), (0, 1)])
def test_images_without_targets_teach_only_the_classes(config, counts):
    batch, outputs = make_batch(counts=counts), make_outputs()
    for logits in (*outputs.class_logits, *outputs.mask_logits):
        logits.requires_grad_()
    loss = mask2former_loss(outputs, batch, config)
    loss.backward()
    assert torch.isfinite(loss)
    for image, count in enumerate(counts):
        assert outputs.class_logits[-1].grad[image].any()
        assert bool(outputs.mask_logits[-1].grad[image].any()) is (count > 0)


def test_predictions_that_are_not_finite_are_an_error(config):
    outputs = make_outputs()
    outputs.mask_logits[0][0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        mask2former_loss(outputs, make_batch(), config)
