"""FCOS (Tian et al. 2019) as a detector that a mask loss can go through: torchvision's own network, our losses.

Assignments depend on the true boxes alone, so that they stay the same at other parameters; batch norms are frozen, or
asked in eval mode, and learn no statistics. The gradient of a gradient is linear in the loss's weights, as it must be
(`tests/teachers/test_fcos_gradients.py`), which is not so of every detector: transformers' RT-DETR gives wrong ones
without a word.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FCOS, fcos_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from teachers.box_losses import ciou_loss, focal_loss
from teachers.detector import Assignment, DetectorNetwork, Raw, Targets, gathered, ignored, lost
from teachers.tiny.pyramid import PIXEL_MEAN, PIXEL_STD, PYRAMID, STRIDES, Pyramid

RADIUS = 1.5  # strides around an object's centre whose locations learn it (Tian et al. 2019)
LEAST_REACH, MOST_REACH = 4.0, 8.0  # strides: the longest of the four distances that a level learns


class FcosDetector(DetectorNetwork):
    """Around torchvision's FCOS, whose own resizing, losses and suppression are not used."""

    model: FCOS
    class_part = "head.classification_head.cls_logits."

    def __init__(self, model: FCOS, *, focal: bool = True) -> None:
        super().__init__(model)
        self.focal = focal

    def predict(self, pixels: Tensor) -> Raw:
        """Of images (B, 3, S, S), float in 0..255; S a multiple of the coarsest stride."""
        features = list(self.model.backbone(self._normalised(pixels)).values())
        found = self.model.head(features)
        anchors = self._anchors(pixels, features)
        return Raw(
            self.model.box_coder.decode(found["bbox_regression"], anchors),
            found["cls_logits"],
            found["bbox_ctrness"][..., 0],
            centres=(anchors[:, :2] + anchors[:, 2:]) / 2,
            strides=anchors[:, 2] - anchors[:, 0],
            side=int(pixels.shape[-1]),
        )

    def _normalised(self, pixels: Tensor) -> Tensor:
        mean = pixels.new_tensor(self.model.transform.image_mean)[:, None, None]
        std = pixels.new_tensor(self.model.transform.image_std)[:, None, None]
        return (pixels / 255 - mean) / std

    def _anchors(self, pixels: Tensor, features: list[Tensor]) -> Tensor:
        size = (int(pixels.shape[-2]), int(pixels.shape[-1]))
        anchors: list[Tensor] = self.model.anchor_generator(ImageList(pixels[:1], [size]), features)
        return anchors[0]

    @torch.no_grad()
    def assign(self, raw: Raw, targets: Sequence[Targets]) -> Assignment:
        """A location near an object's centre, in its box and of a level of its size learns the smallest such object."""
        found = [_learners(raw, own.boxes) for own in targets]
        image = [torch.full_like(location, index) for index, (location, _) in enumerate(found)]
        unsaid = [
            lost(raw, own.boxes, target) | ignored(raw, own)
            for own, (_, target) in zip(targets, found, strict=True)
        ]
        return Assignment(
            torch.cat(image),
            torch.cat([own for own, _ in found]),
            torch.cat([own for _, own in found]),
            torch.stack(unsaid),
        )

    def losses(self, raw: Raw, targets: Sequence[Targets], assignment: Assignment) -> dict[str, Tensor]:
        """`box` CIoU and `obj` centre-ness of assigned locations, `cls` of all, over the number of the assigned."""
        assert raw.object_logits is not None
        image, location = assignment.image, assignment.location
        true, labels, weights = gathered(targets, assignment, like=raw.boxes)
        total = max(len(location), 1)
        boxes = raw.boxes[image, location]
        classes = torch.zeros_like(raw.class_logits)
        counts = (~assignment.unsaid).to(raw.class_logits.dtype)
        classes[image, location, labels] = 1.0
        counts[image, location] = weights
        entropy = (
            focal_loss(raw.class_logits, classes)
            if self.focal
            else F.binary_cross_entropy_with_logits(raw.class_logits, classes, reduction="none")
        )
        objects = F.binary_cross_entropy_with_logits(
            raw.object_logits[image, location], _centreness(raw.centres[location], true), reduction="none"
        )
        return {
            "box": (ciou_loss(boxes, true) * weights).sum() / total,
            "obj": (objects * weights).sum() / total,
            "cls": (entropy.sum(-1) * counts).sum() / total,
        }


def _learners(raw: Raw, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The locations that learn an object of these boxes (G, 4), and which one."""
    if not len(boxes):
        none = torch.zeros(0, dtype=torch.int64, device=boxes.device)
        return none, none
    strides = raw.strides[:, None]
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = (raw.centres[:, None] - centre).abs().amax(-1) < RADIUS * strides
    reach = torch.cat([raw.centres[:, None] - boxes[:, :2], boxes[:, 2:] - raw.centres[:, None]], -1)
    longest = reach.amax(-1)
    least = torch.where(strides == raw.strides.min(), 0.0, LEAST_REACH * strides)
    most = torch.where(strides == raw.strides.max(), torch.inf, MOST_REACH * strides)
    possible = near & (reach.amin(-1) > 0) & (longest > least) & (longest <= most)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1).expand(possible.shape)
    smallest, target = torch.where(possible, areas, torch.inf).min(1)
    location = smallest.isfinite().nonzero()[:, 0]
    return location, target[location]


def _centreness(centres: Tensor, boxes: Tensor) -> Tensor:
    """How central each location (N, 2) is in its box (N, 4): 1 at the centre, 0 at a side."""
    low, high = centres - boxes[:, :2], boxes[:, 2:] - centres
    return (torch.minimum(low, high) / torch.maximum(low, high)).prod(-1).clamp(min=0).sqrt()


class TinyFeatures(nn.Module):
    """The tiny grounder's pyramid, all of its levels but the finest."""

    out_channels = PYRAMID

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = Pyramid()

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Normalised images (B, 3, S, S) to maps (B, C, S / stride, S / stride)."""
        levels = self.pyramid.levels(x)[1:]
        return OrderedDict((str(stride), level) for stride, level in zip(STRIDES[1:], levels, strict=True))


def build_fcos_tiny(num_classes: int, *, focal: bool = True) -> FcosDetector:
    """0.8 M parameters for S = 256, randomly initialised; as batch norms are asked in eval mode it wants weights."""
    strides = STRIDES[1:]
    anchors = AnchorGenerator(
        sizes=tuple((stride,) for stride in strides), aspect_ratios=((1.0,),) * len(strides)
    )
    head = FCOSHead(PYRAMID, anchors.num_anchors_per_location()[0], num_classes, num_convs=2)
    model = FCOS(
        TinyFeatures(),
        num_classes,
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
        anchor_generator=anchors,
        head=head,
    )
    return FcosDetector(model, focal=focal)


def build_fcos_r50(num_classes: int, *, focal: bool = True) -> FcosDetector:
    """torchvision's FCOS with a ResNet-50, randomly initialised; its batch norms are frozen: it wants weights."""
    model = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=num_classes)
    return FcosDetector(_frozen_norms(model), focal=focal)


def _frozen_norms(model: FCOS) -> FCOS:
    """Batch norms replaced by ones that keep their statistics, as torchvision has them in a pretrained backbone."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(child.num_features, child.eps)
                state = {
                    key: value for key, value in child.state_dict().items() if key in frozen.state_dict()
                }
                frozen.load_state_dict(state)
                setattr(parent, name, frozen)
    return model
