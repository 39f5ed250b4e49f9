"""The paper's numbers, one by one: methods 3.6 (Cheng et al. 2022; Das et al. 2024)."""

import pytest
import torch
from pydantic import ValidationError

from students.architecture import build, model_config
from students.layers import predictions
from students.settings import PAPER, TINY, Mask2FormerSettings
from students.trainer import drop_steps, learning_rate, make_optimizer

ARCHITECTURE = {
    "num_queries": 100,
    "encoder_layers": 6,
    "decoder_layers": 10,
    "class_weight": 2.0,
    "mask_weight": 5.0,
    "dice_weight": 5.0,
    "no_object_weight": 0.1,
    "train_num_points": 12544,
    "oversample_ratio": 3.0,
    "importance_sample_ratio": 0.75,
    "use_auxiliary_loss": True,
    "feature_size": 256,
    "mask_feature_size": 256,
    "hidden_dim": 256,
    "encoder_feedforward_dim": 1024,
    "dim_feedforward": 2048,
    "num_attention_heads": 8,
    "dropout": 0.0,
    "num_labels": 80,
}
BACKBONES = {
    "r50": {
        "model_type": "resnet",
        "depths": [3, 4, 6, 3],
        "hidden_sizes": [256, 512, 1024, 2048],
        "layer_type": "bottleneck",
        "downsample_in_bottleneck": False,
        "num_channels": 3,
    },
    "swin_t": {
        "model_type": "swin",
        "embed_dim": 96,
        "depths": [2, 2, 6, 2],
        "num_heads": [3, 6, 12, 24],
        "window_size": 7,
        "drop_path_rate": 0.3,
    },
}
TRAINING = {
    "size": 1024,
    "scale": (0.1, 2.0),
    "batch": 32,
    "steps": 184375,
    "lr": 1e-4,
    "backbone_lr": 0.1,
    "weight_decay": 0.05,
    "clip": 0.01,
    "warmup": 0,
    "schedule": "drops",
    "filter_empty": True,
}


@pytest.mark.parametrize("variant", ["r50", "swin_t"])
def test_architecture_of_the_paper(variant):
    config = model_config(variant, 80)
    assert {name: getattr(config, name) for name in ARCHITECTURE} == ARCHITECTURE
    backbone = config.backbone_config
    found = {name: getattr(backbone, name) for name in BACKBONES[variant]}
    assert {n: list(v) if isinstance(v, tuple) else v for n, v in found.items()} == BACKBONES[variant]
    assert backbone.out_features == ["stage1", "stage2", "stage3", "stage4"]


@pytest.mark.parametrize("variant", ["r50", "swin_t"])
def test_training_of_the_paper(variant):
    recipe = Mask2FormerSettings(variant=variant, weights="backbone.safetensors").recipe()
    assert recipe == PAPER
    assert {name: getattr(recipe, name) for name in TRAINING} == TRAINING


@pytest.mark.parametrize(("steps", "drops"), [(184375, (163889, 177546)), (368750, (327778, 355093))])
def test_learning_rate_drops(steps, drops):
    recipe = Mask2FormerSettings(variant="r50", from_scratch=True, steps=steps).recipe()
    # The official second drop is at 355092: 26/27 of 368750 is 355092.6.
    assert drop_steps(recipe) == drops
    rates = [learning_rate(recipe, step) for step in (0, drops[0] - 1, drops[0], drops[1])]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-6])


def test_tiny_warms_up_and_ends_at_zero():
    rates = [learning_rate(TINY, step) for step in range(TINY.steps)]
    assert max(rates) == pytest.approx(TINY.lr)
    assert rates[: TINY.warmup] == sorted(rates[: TINY.warmup])
    assert rates[-1] < 0.01 * TINY.lr


def optimizer_of(variant, recipe):
    """(factor, weight decay) of each parameter, by its name."""
    model = build(variant, 3)
    groups = make_optimizer(model, recipe).param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    settings = {id(p): (g["factor"], g["weight_decay"]) for g in groups for p in g["params"]}
    return {name: settings[id(parameter)] for name, parameter in model.named_parameters()}


def test_optimizer_groups_of_tiny():
    found = optimizer_of("tiny", Mask2FormerSettings().recipe())
    backbone = "model.pixel_level_module.encoder.pyramid."
    assert found[backbone + "stem.0.0.weight"] == (TINY.backbone_lr, 0.05)
    assert found["class_predictor.weight"] == (TINY.head_lr, 0.05)
    assert found["class_predictor.bias"] == (TINY.head_lr, 0.05)
    assert found["model.transformer_module.queries_features.weight"] == (1.0, 0.0)
    scratch = optimizer_of("tiny", Mask2FormerSettings(from_scratch=True).recipe())
    assert {factor for factor, _ in scratch.values()} == {1.0}


@pytest.mark.parametrize(
    ("settings", "head_lr", "lr", "frozen"),
    [
        ({}, TINY.head_lr, TINY.lr, True),
        ({"weights": "mine.safetensors"}, 1.0, TINY.lr, True),  # its class head may be trained already
        ({"from_scratch": True}, 1.0, 2e-3, False),  # there are no statistics worth keeping
        ({"from_scratch": True, "lr": 1e-4}, 1.0, 1e-4, False),
        ({"variant": "r50", "weights": "backbone.safetensors"}, 1.0, PAPER.lr, True),
        ({"variant": "r50", "from_scratch": True}, 1.0, PAPER.lr, False),
    ],
)
def test_what_it_starts_from_decides_how_it_learns(settings, head_lr, lr, frozen):
    recipe = Mask2FormerSettings.model_validate(settings).recipe()
    assert (recipe.head_lr, recipe.lr, recipe.frozen_norm) == (head_lr, lr, frozen)


def test_optimizer_groups_of_r50():
    found = optimizer_of("r50", PAPER)
    backbone = "model.pixel_level_module.encoder."
    assert found[backbone + "embedder.embedder.convolution.weight"] == (0.1, 0.05)
    assert found[backbone + "embedder.embedder.normalization.weight"] == (0.1, 0.0)
    assert found["model.transformer_module.queries_features.weight"] == (1.0, 0.0)
    assert found["model.transformer_module.decoder.layernorm.weight"] == (1.0, 0.0)
    assert found["class_predictor.weight"] == (1.0, 0.05)


@pytest.mark.parametrize(("variant", "size", "millions"), [("r50", 64, 44.0), ("tiny", 256, None)])
def test_forward_with_random_weights(variant, size, millions):
    torch.manual_seed(0)
    model = build(variant, 5).train(False)
    if millions is not None:
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    pixels = torch.randint(0, 255, (1, size, size, 3), dtype=torch.uint8)
    with torch.inference_mode():
        outputs = predictions(model, pixels, bf16=False)
        reference = model(_normalised(pixels)) if variant == "r50" else None
    assert len(outputs.class_logits) == len(outputs.mask_logits) == model.config.decoder_layers
    assert outputs.class_logits[-1].shape == (1, model.config.num_queries, 6)
    assert outputs.mask_logits[-1].shape == (1, model.config.num_queries, size // 4, size // 4)
    if reference is not None:
        torch.testing.assert_close(outputs.mask_logits[-1], reference.masks_queries_logits)
        torch.testing.assert_close(outputs.class_logits[-1], reference.class_queries_logits)


def _normalised(pixels):
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    return ((pixels - mean) / std).permute(0, 3, 1, 2)


def test_bf16_keeps_the_pixel_decoder_and_the_results_in_float32():
    model = build("tiny", 5).train(False)
    seen = []
    model.model.pixel_level_module.decoder.encoder.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.last_hidden_state.dtype)
    )
    with torch.inference_mode():
        outputs = predictions(model, torch.zeros(1, 256, 256, 3, dtype=torch.uint8), bf16=True)
    assert seen == [torch.float32]
    assert {logits.dtype for logits in (*outputs.class_logits, *outputs.mask_logits)} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"variant": "r101"}, "variant"),
        ({"steps": 0}, "steps"),
        ({"lr": -1.0}, "lr"),
        ({"queries": 9}, "queries"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"variant": "r50"}, "weights\n.*r50 needs .* pretrained backbone; `from_scratch: true`"),
        ({"variant": "swin_t", "weights": None}, "weights\n.*swin_t needs"),
        ({"variant": "r50", "weights": "x", "from_scratch": True}, "weights\n.*found both"),
    ],
)
def test_bad_settings_are_refused_by_name(settings, named):
    with pytest.raises(ValidationError, match=named):
        Mask2FormerSettings.model_validate(settings)
