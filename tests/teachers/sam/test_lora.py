"""Low-rank adaptation: it starts as SAM, trains few numbers, and a saved head answers as the trained one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from segment_anything.modeling import Sam

from pipeline.data.errors import BadInput
from teachers.heads import fill, load_head, new_head, save_head, trained_parameters
from teachers.sam.lora import TRAINED_WHOLE, LoRALinear, adapt
from teachers.sam.predictor import Head
from teachers.settings import ClassAwareSettings

SETTINGS = ClassAwareSettings(lora=2)
ATTENTIONS = 7  # three in each of two layers, and the last


def answer(head: Head, sam: Sam) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    size = sam.prompt_encoder.image_embedding_size
    width = sam.prompt_encoder.embed_dim
    features = torch.randn(1, width, *size, generator=generator)
    sparse = torch.randn(3, 2, width, generator=generator)
    dense = sam.prompt_encoder.no_mask_embed.weight.detach().reshape(1, -1, 1, 1).expand(3, -1, *size)
    masks, quality = head.decoder.predict_masks(features, sam.prompt_encoder.get_dense_pe(), sparse, dense)
    return torch.cat([masks.flatten(), quality.flatten()])


def trained(sam: Sam) -> Head:
    """A head whose every trained number was moved."""
    head = new_head(sam, "box", SETTINGS, text_width=4, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained_parameters(head).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return head


def test_it_starts_as_sam_and_only_its_own_numbers_train(make_sam: Callable[[int], Sam]) -> None:
    sam = make_sam(0)
    head = new_head(sam, "plain_box", SETTINGS, text_width=4, seed=0)
    assert torch.equal(answer(head, sam), answer(Head(sam.mask_decoder), sam))
    names = set(trained_parameters(head))
    deltas = {name for name in names if name.endswith((".up", ".down"))}
    assert len(deltas) == 2 * 2 * ATTENTIONS
    assert all(".q_proj." in name or ".v_proj." in name for name in deltas)
    assert {name.split(".")[1] for name in names - deltas} == set(TRAINED_WHOLE)
    torch.autograd.backward(answer(head, sam).square().sum())
    for name, parameter in head.decoder.named_parameters():
        moves = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        # B starts at zero, so the first step moves B alone.
        assert moves is (f"decoder.{name}" in names and not name.endswith(".down")), name


def test_a_saved_head_answers_as_the_trained_one(make_sam: Callable[[int], Sam], tmp_path: Path) -> None:
    sam = make_sam(0)
    head = trained(sam)
    save_head(head, tmp_path, "box")
    whole = sum(value.numel() for value in sam.mask_decoder.parameters())
    saved = load_file(tmp_path / "box.safetensors")
    assert sum(v.numel() for name, v in saved.items() if name.startswith("decoder.")) < whole / 2
    loaded = load_head(sam, tmp_path, "box", settings=SETTINGS, text_width=4)
    assert not any(isinstance(module, LoRALinear) for module in loaded.decoder.modules())
    assert not any(value.requires_grad for value in loaded.decoder.parameters())
    torch.testing.assert_close(answer(loaded, sam), answer(head, sam), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(answer(loaded, sam), answer(Head(sam.mask_decoder), sam), atol=1e-3)


@pytest.mark.parametrize("other", [None, 3])
def test_a_head_of_other_settings_is_refused(
    make_sam: Callable[[int], Sam], tmp_path: Path, other: int | None
) -> None:
    sam = make_sam(0)
    save_head(trained(sam), tmp_path, "box")
    settings = SETTINGS.model_copy(update={"lora": other})
    with pytest.raises(BadInput, match="not weights of this model"):
        load_head(sam, tmp_path, "box", settings=settings, text_width=4)


def test_the_branch_starts_from_the_same_numbers_with_and_without_it(make_sam: Callable[[int], Sam]) -> None:
    sam = make_sam(0)
    whole = SETTINGS.model_copy(update={"lora": None})
    one, other = (
        trained_parameters(new_head(sam, "box", s, text_width=4, seed=3)) for s in (SETTINGS, whole)
    )
    assert torch.equal(one["branch.project.weight"], other["branch.project.weight"])


def test_a_delta_is_that_of_its_definition() -> None:
    layer = LoRALinear(torch.nn.Linear(5, 4), 2)
    with torch.no_grad():
        layer.up.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    expected = x @ (layer.base.weight + layer.up @ layer.down).T + layer.base.bias
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.merged()(x), expected)


def test_a_rank_is_the_same_on_every_layer(make_sam: Callable[[int], Sam]) -> None:
    decoder = make_sam(0).mask_decoder
    adapt(decoder, 3)
    layers = [module for module in decoder.modules() if isinstance(module, LoRALinear)]
    assert {module.down.shape[0] for module in layers} == {3} == {module.up.shape[1] for module in layers}
    with pytest.raises(ValueError, match="not in both"):
        fill(dict(decoder.named_parameters()), {})
