"""A tiny FCOS in float64, and what it is shown."""

import torch
from torch import Tensor, nn

from teachers.detector import Targets
from teachers.fcos import FcosDetector, build_fcos_tiny

CLASSES = 3


def tiny(seed: int = 0, *, focal: bool = True) -> FcosDetector:
    """In float64; boxes of some strides, as torchvision's own first ones have no area."""
    torch.manual_seed(seed)
    detector = build_fcos_tiny(CLASSES, focal=focal).double().eval()
    nn.init.constant_(detector.model.head.regression_head.bbox_reg.bias, 2.0)
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return detector


def pixels(count: int = 2, side: int = 64) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return 255 * torch.rand(count, 3, side, side, generator=draw, dtype=torch.float64)


def objects(*boxes: list[float], weights: list[float] | None = None, region: Tensor | None = None) -> Targets:
    where = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    labels = torch.arange(len(where)) % CLASSES
    return Targets(where, labels, torch.tensor(weights or [1.0] * len(where)), region)


def total(detector: FcosDetector, images: Tensor, targets: list[Targets]) -> Tensor:
    raw = detector.predict(images)
    return torch.stack(list(detector.losses(raw, targets, detector.assign(raw, targets)).values())).sum()


SOME = [objects([10.0, 12.0, 30.0, 40.0], [30.0, 5.0, 60.0, 50.0]), objects([0.0, 0.0, 64.0, 64.0])]
