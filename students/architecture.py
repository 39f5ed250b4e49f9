"""The architectures behind the variants of `students.settings`, built offline with random weights."""

from transformers import (
    AutoBackbone,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    ResNetConfig,
    SwinConfig,
)

from students.settings import Variant
from students.tiny_backbone import STAGES, TinyBackbone, TinyBackboneConfig
from teachers.quiet import quiet


def model_config(variant: Variant, num_classes: int) -> Mask2FormerConfig:
    """The architecture of a variant for `num_classes` classes (the no-object class is not counted)."""
    with quiet():
        config = {"tiny": _tiny, "r50": _r50, "swin_t": _swin_t}[variant]()
    config.num_labels = num_classes
    return config


def build(variant: Variant, num_classes: int) -> Mask2FormerForUniversalSegmentation:
    """A new model with random weights from torch's global generator; asks no network."""
    # transformers makes a model's backbone by its config's class.
    AutoBackbone.register(TinyBackboneConfig, TinyBackbone, exist_ok=True)
    config = model_config(variant, num_classes)
    with quiet():
        return Mask2FormerForUniversalSegmentation(config)


def _r50() -> Mask2FormerConfig:
    # ResNetConfig's default is ResNet-50 with the stride in the 3x3 convolution, as the official STRIDE_IN_1X1: False.
    return _paper(ResNetConfig())


def _swin_t() -> Mask2FormerConfig:
    backbone = SwinConfig(
        embed_dim=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        window_size=7,
        drop_path_rate=0.3,
    )
    return _paper(backbone)


def _paper(backbone: ResNetConfig | SwinConfig) -> Mask2FormerConfig:
    """Methods 3.6: 100 queries, 6 pixel-decoder layers, 9 + 1 decoder layers, losses 2 / 5 / 5, no-object 0.1."""
    backbone.out_features = STAGES
    return Mask2FormerConfig(
        backbone_config=backbone,
        num_queries=100,
        feature_size=256,
        mask_feature_size=256,
        hidden_dim=256,
        num_attention_heads=8,
        encoder_layers=6,
        encoder_feedforward_dim=1024,
        decoder_layers=10,  # transformers counts the prediction from the bare queries as a layer: 9 + 1
        dim_feedforward=2048,
        dropout=0.0,
        class_weight=2.0,
        mask_weight=5.0,
        dice_weight=5.0,
        no_object_weight=0.1,
        train_num_points=112 * 112,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        use_auxiliary_loss=True,
    )


def _tiny() -> Mask2FormerConfig:
    return Mask2FormerConfig(
        backbone_config=TinyBackboneConfig(),
        num_queries=32,
        feature_size=64,  # the pixel decoder's group norm has 32 groups
        mask_feature_size=64,
        hidden_dim=64,
        num_attention_heads=4,
        encoder_layers=0,  # the backbone's levels have been told of each other
        decoder_layers=4,
        dim_feedforward=256,
        dropout=0.0,
        train_num_points=1024,
    )
