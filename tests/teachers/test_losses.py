"""Point-sampled losses against their definitions."""

import math

import pytest
import torch

from teachers.losses import PointSampling, choose_points, mask_losses, point_sample, weighed


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_point_sample_reads_pixel_centres_and_mixes_between_them() -> None:
    maps = torch.arange(12.0).reshape(1, 3, 4)
    centres = torch.tensor([[[(x + 0.5) / 4, (y + 0.5) / 3] for y in range(3) for x in range(4)]])
    torch.testing.assert_close(point_sample(maps, centres), maps.reshape(1, 12))
    between = torch.tensor([[[1 / 4, 0.5 / 3], [0.0, 0.0], [1.0, 1.0]]])
    torch.testing.assert_close(point_sample(maps, between), torch.tensor([[0.5, 0.0, 11.0]]))


def test_points_gather_where_the_mask_is_unsure() -> None:
    logits = torch.full((2, 16, 16), 20.0)
    logits[0, :, 8:10] = 0.1  # a strip of an eighth of the map
    sampling = PointSampling(n_points=400, oversample=10.0)
    points = choose_points(logits, sampling, generator())
    assert points.shape == (2, 400, 2)
    inside = ((points[..., 0] > 7 / 16) & (points[..., 0] < 11 / 16)).float().mean(dim=1)
    assert inside[0] > 0.75
    assert inside[1] < 0.4
    uniform = points[0, 300:]  # the quarter that is not sought
    assert (uniform[:, 0] < 7 / 16).float().mean() > 0.3


def test_points_stay_within_the_extent() -> None:
    extent = torch.tensor([[1.0, 0.5], [0.25, 1.0]])
    points = choose_points(torch.randn(2, 8, 8), PointSampling(n_points=200), generator(), extent=extent)
    assert (points <= extent[:, None]).all()
    assert (points[0, :, 0] > 0.9).any()
    assert (points[0, :, 1] > 0.4).any()


def test_points_depend_on_the_seed_alone() -> None:
    logits = torch.randn(2, 8, 8)
    one, same, other = (
        choose_points(logits, PointSampling(n_points=50), generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("logits", "labels", "cross_entropy", "dice"),
    [
        ([0.0, 0.0], [1.0, 0.0], math.log(2), 1 - 2 / 3),
        ([100.0, -100.0], [1.0, 0.0], 0.0, 0.0),
        ([-100.0, 100.0], [1.0, 0.0], 100.0, 1 - 1 / 3),
        (
            [-100.0, -100.0],
            [0.0, 0.0],
            0.0,
            0.0,
        ),  # nothing to find, nothing found: smoothing makes it no loss
    ],
)
def test_mask_losses(logits: list[float], labels: list[float], cross_entropy: float, dice: float) -> None:
    found = mask_losses(torch.tensor([logits]), torch.tensor([labels]))
    torch.testing.assert_close(torch.cat(found), torch.tensor([cross_entropy, dice]), atol=1e-6, rtol=1e-6)


def loss_of(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    points = choose_points(logits.detach(), PointSampling(), generator())
    return weighed(point_sample(logits, points), point_sample(masks, points))


def test_whole_loss_weighs_both_and_falls_with_the_error() -> None:
    masks = torch.zeros(2, 32, 32)
    masks[:, 8:24, 8:24] = 1
    small = torch.nn.functional.interpolate(masks[:, None], (16, 16))[:, 0]
    losses = [loss_of((small * 2 - 1) * scale, masks).item() for scale in (-5.0, 0.0, 5.0)]
    assert losses[0] > losses[1] > losses[2]
    zero = loss_of(torch.zeros(2, 16, 16), masks).item()
    share = point_sample(masks, choose_points(torch.zeros(2, 16, 16), PointSampling(), generator())).mean(1)
    n = PointSampling().n_points
    dice = 1 - (share * n + 1) / (n / 2 + share * n + 1)
    assert zero == pytest.approx(5 * math.log(2) + 5 * dice.mean().item(), rel=1e-5)


def test_gradient_reaches_the_logits() -> None:
    logits = torch.zeros(1, 8, 8, requires_grad=True)
    loss_of(logits, torch.ones(1, 8, 8)).backward()
    assert logits.grad is not None
    assert (logits.grad < 0).all()
