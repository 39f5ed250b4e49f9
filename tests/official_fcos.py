"""Torchvision's FCOS with a ResNet-50 as it publishes it, with random weights that say something of an image."""

import torch
from torch import nn
from torchvision.models.detection import FCOS, fcos_resnet50_fpn
from torchvision.ops import FrozenBatchNorm2d

COCO_CLASSES = 91


def official_fcos(classes: int = COCO_CLASSES) -> FCOS:
    """With frozen norms, as torchvision has it where weights are given; what begins as zero or one is random."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=classes)
        for parent in list(model.backbone.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    norm = FrozenBatchNorm2d(child.num_features)
                    norm.weight.uniform_(0.3, 0.9)
                    norm.running_var.uniform_(0.5, 1.5)
                    norm.running_mean.normal_(std=0.2)
                    norm.bias.normal_(std=0.2)
                    setattr(parent, name, norm)
        for name, value in model.head.named_parameters():
            if value.ndim == 4:
                nn.init.normal_(value, std=0.05 if "conv" in name else 0.02)
    return model.eval().requires_grad_(False)
