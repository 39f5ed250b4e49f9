"""YOLOv8, 11 and 26 as detectors that a mask loss can go through: ultralytics' own network and assigner, our losses.

A combined work with ultralytics is under the terms of the AGPL-3.0; this module imports it when a network is built.

What differs from how ultralytics trains them:

- YOLOs from 8 on do not say whether something is an object: the class says it, as far as the box is right. So `Raw` has
  no `object_logits`, a confidence is the class's, and the loss `obj` is 0.
- YOLO26 is built with its one-to-many head alone. Its other head, which needs no suppression, gives an object one
  location, and its gradients are kept from the backbone; here boxes are suppressed, and mask losses go all the way.
- The box loss is CIoU alone. What the distances of YOLOv8 and 11 are expected to be depends smoothly on all of their
  distribution, so CIoU reaches it without the distribution's own loss, and the objective stays the paper's.
- Batch norms keep their statistics in any mode, as a step asks for the same loss several times. A new network's have
  none, and without any it says the same of all images to nine digits: it should `meet` some before it learns.

Legend: B images of S x S pixels, A locations, K classes, R numbers that a distance is expected from.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from teachers import yolo_package
from teachers.box_losses import ciou_loss, focal_loss
from teachers.detector import Assignment, DetectorNetwork, Raw, Targets, gathered, ignored, lost

FOLDERS = {"yolov8": "v8", "yolo11": "11", "yolo26": "26"}
TOP, ALPHA, BETA = 10, 0.5, 6.0  # of the task-aligned assigner (Feng et al. 2021), as ultralytics has them

Assigner = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]


class YoloDetector(DetectorNetwork):
    """Around a DetectionModel of ultralytics, whose own losses and suppression are not used."""

    def __init__(self, model: nn.Module, assigner: Assigner, *, focal: bool = False) -> None:
        super().__init__(model)
        self.assigner, self.focal = assigner, focal
        self.class_part = f"model.{len(self._layers) - 1}.cv3."  # its widths depend on the number of classes
        # Its weights are 0, 1, 2 ... and take no gradient, which a level of a training expects of all parameters.
        self._head.dfl = nn.Identity()
        self.eval()

    @property
    def _layers(self) -> nn.Sequential:
        layers = self.model.get_submodule("model")
        assert isinstance(layers, nn.Sequential)
        return layers

    @property
    def _head(self) -> nn.Module:
        return self._layers[-1]

    def train(self, mode: bool = True) -> "YoloDetector":
        """Batch norms stay in eval mode. The head alone is told to train: it then gives what it says undecoded."""
        del mode
        super().train(False)
        self._head.training = True
        return self

    @torch.no_grad()
    def meet(self, pixels: Tensor) -> None:
        """Norms that have no statistics take those of images (B, 3, S, S), layer by layer (Mishkin and Matas 2016)."""
        new = [m for m in self.modules() if isinstance(m, nn.BatchNorm2d) and not m.num_batches_tracked]
        before = [norm.momentum for norm in new]
        for norm in new:
            norm.train().momentum = None
        self.predict(pixels)
        for norm, momentum in zip(new, before, strict=True):
            norm.eval().momentum = momentum

    def predict(self, pixels: Tensor) -> Raw:
        """Of images (B, 3, S, S), RGB, float in 0..255; S a multiple of 32."""
        said = self.model(pixels / 255)
        side = int(pixels.shape[-1])
        centres, strides = _cells(said["feats"], side)
        apart = _distances(said["boxes"]) * strides[:, None]
        return Raw(
            torch.cat([centres - apart[..., :2], centres + apart[..., 2:]], -1),
            said["scores"].transpose(1, 2),
            None,
            centres=centres,
            strides=strides,
            side=side,
        )

    @torch.no_grad()
    def assign(self, raw: Raw, targets: Sequence[Targets]) -> Assignment:
        """An object is learned where class and box are best already (Feng et al. 2021), so as they are in `raw`.

        `quality` is how good they are there, next to the object's best. An object that no box overlaps has no location.
        """
        boxes = _padded([own.boxes for own in targets], like=raw.boxes)
        labels = _padded([own.labels[:, None] for own in targets], like=raw.boxes)
        there = _padded([torch.ones_like(own.labels[:, None]) for own in targets], like=raw.boxes)
        found = self.assigner(raw.scores(), raw.boxes.detach(), raw.centres, labels, boxes, there)
        quality, target = found[2].sum(-1), found[4].long()
        image, location = (quality > 0).nonzero().unbind(1)
        chosen = target[image, location]
        unsaid = [
            lost(raw, own.boxes.to(raw.boxes), chosen[image == index]) | ignored(raw, own)
            for index, own in enumerate(targets)
        ]
        return Assignment(image, location, chosen, torch.stack(unsaid), quality[image, location])

    def losses(self, raw: Raw, targets: Sequence[Targets], assignment: Assignment) -> dict[str, Tensor]:
        """`box` CIoU of assigned locations by their quality, `cls` of all, over the assigned quality; `obj` is 0."""
        assert assignment.quality is not None
        image, location, quality = assignment.image, assignment.location, assignment.quality
        true, labels, weights = gathered(targets, assignment, like=raw.boxes)
        total = quality.sum().clamp(min=1)
        classes = torch.zeros_like(raw.class_logits)
        counts = (~assignment.unsaid).to(raw.class_logits.dtype)
        classes[image, location, labels] = quality
        counts[image, location] = weights
        entropy = (
            focal_loss(raw.class_logits, classes)
            if self.focal
            else F.binary_cross_entropy_with_logits(raw.class_logits, classes, reduction="none")
        )
        return {
            "box": (ciou_loss(raw.boxes[image, location], true) * quality * weights).sum() / total,
            "obj": raw.boxes.new_zeros(()),
            "cls": (entropy.sum(-1) * counts).sum() / total,
        }


def _distances(said: Tensor) -> Tensor:
    """Of a location to the left, top, right and bottom, in its strides: (B, 4 R, A) to (B, A, 4)."""
    parts = said.reshape(len(said), 4, -1, said.shape[-1])
    if parts.shape[2] > 1:
        steps = torch.arange(parts.shape[2], device=said.device, dtype=said.dtype)
        parts = (parts.softmax(2) * steps[:, None]).sum(2, keepdim=True)
    return parts[:, :, 0].transpose(1, 2)


def _cells(maps: Sequence[Tensor], side: int) -> tuple[Tensor, Tensor]:
    """Centres (A, 2) and widths (A,) in pixels of the cells of square maps (B, C, n, n), row by row, map by map."""
    centres, strides = [], []
    for level in maps:
        count = level.shape[-1]
        middles = (torch.arange(count, device=level.device, dtype=level.dtype) + 0.5) * (side / count)
        centres.append(torch.stack([middles.repeat(count), middles.repeat_interleave(count)], -1))
        strides.append(middles.new_full((count * count,), side / count))
    return torch.cat(centres), torch.cat(strides)


def _padded(parts: Sequence[Tensor], *, like: Tensor) -> Tensor:
    """Rows (G, n) of each image to (B, most G, n), zeros after the last."""
    return pad_sequence([part.to(like) for part in parts], batch_first=True)


def build_yolo(name: str, num_classes: int, *, focal: bool = False) -> YoloDetector:
    """A family and a size, as `yolo11n`, randomly initialised; BadInput if ultralytics is missing."""
    family, size = name[:-1], name[-1]
    wanted_by = f"detector: {name}"
    tasks = yolo_package.part("nn.tasks", wanted_by=wanted_by)
    assigner = yolo_package.part("utils.tal", wanted_by=wanted_by).TaskAlignedAssigner(
        topk=TOP, num_classes=num_classes, alpha=ALPHA, beta=BETA
    )
    # From the package's own folder: by its name alone, a file of the working folder would come first.
    file = yolo_package.folder() / "cfg" / "models" / FOLDERS[family] / f"{family}.yaml"
    plan = {**yaml.safe_load(file.read_text()), "scale": size, "nc": num_classes, "end2end": False}
    model = tasks.DetectionModel(plan, nc=num_classes, verbose=False)
    return YoloDetector(model, assigner, focal=focal)
