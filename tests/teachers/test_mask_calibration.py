"""The mask calibration of AM-SAM: equations 9-12 word by word, what they come to, and the learned form."""

import pytest
import torch
from torch import Tensor

from teachers.mask_calibration import ALPHA, MaskCalibration, Scope

C = 8


def factors(images: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(images)
    weights = torch.randn(images, classes, C, generator=drawn, dtype=torch.float64)
    return weights, torch.randn(images, C, 5, 6, generator=drawn, dtype=torch.float64)


def as_written(weights: Tensor, upscaled: Tensor, alpha: float) -> Tensor:
    """Equations 9-12 as they stand in the paper."""
    original = torch.einsum("bnc,bchw->bnhw", weights, upscaled)
    channels = [upscaled[:, i : i + 1] * weights[:, :, i, None, None] for i in range(C)]  # eq. 9
    joined = torch.cat(channels, dim=0)  # eq. 10: (b * c, n, h, w)
    new = joined.mean(dim=0, keepdim=True).repeat(len(weights), 1, 1, 1)  # eq. 11
    return alpha * original + (1 - alpha) * new  # eq. 12


def calibrated(scope: Scope, weights: Tensor, upscaled: Tensor, alpha: float = ALPHA) -> Tensor:
    found = MaskCalibration(scope, C, alpha=alpha).double()(weights, upscaled)
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_batch_is_as_the_paper_writes_it(images: int, alpha: float) -> None:
    given = factors(images)
    assert torch.allclose(calibrated("batch", *given, alpha=alpha), as_written(*given, alpha))


def test_of_one_image_it_is_the_same_logits_rescaled() -> None:
    given = factors(1)
    plain = calibrated("off", *given)
    factor = ALPHA + (1 - ALPHA) / C
    for scope in ("batch", "sample", "learned"):
        found = calibrated(scope, *given)  # type: ignore[arg-type]
        assert torch.allclose(found, factor * plain), scope
        assert torch.equal(found.argmax(1), plain.argmax(1)), scope
    assert pytest.approx(0.709, abs=5e-4) == ALPHA + (1 - ALPHA) / 32


def test_a_batch_leaks_into_its_images_and_samples_do_not() -> None:
    weights, upscaled = factors(2)
    others = weights.clone()
    others[1] += 1
    for scope, same in (("off", True), ("sample", True), ("learned", True), ("batch", False)):
        one, two = (calibrated(scope, w, upscaled)[0] for w in (weights, others))  # type: ignore[arg-type]
        assert torch.allclose(one, two) == same, scope


def test_the_learned_one_weighs_channels() -> None:
    """Its weight is a 1x1 convolution over the Hadamard channels, the same for every class."""
    weights, upscaled = factors(2)
    learned = MaskCalibration("learned", C).double()
    assert {name for name, _ in learned.named_parameters()} == {"weight", "bias"}
    with torch.no_grad():
        learned.weight.copy_(torch.arange(C))
        assert learned.bias is not None
        learned.bias.fill_(2.0)
    hadamard = weights[..., None, None] * upscaled[:, None]  # (b, n, c, h, w)
    kernel = torch.arange(C, dtype=torch.float64)[None, :, None, None]
    new = torch.nn.functional.conv2d(hadamard.flatten(0, 1), kernel)[:, 0].unflatten(0, (2, 3)) + 2
    plain = calibrated("off", weights, upscaled)
    assert torch.allclose(learned(weights, upscaled), ALPHA * plain + (1 - ALPHA) * new)
    for scope in ("off", "sample", "batch"):
        assert not list(MaskCalibration(scope, C).parameters())  # type: ignore[arg-type]


def test_prompts_of_an_image_are_apart() -> None:
    """(images, prompts, ...): a batch averages over images, prompt by prompt."""
    weights, upscaled = (torch.stack([one, 2 * one], dim=1) for one in factors(2))
    for scope in ("sample", "batch"):
        both = calibrated(scope, weights, upscaled)  # type: ignore[arg-type]
        each = [calibrated(scope, weights[:, p], upscaled[:, p]) for p in range(2)]  # type: ignore[arg-type]
        assert torch.allclose(both, torch.stack(each, dim=1))
