"""What a student learns from one record: masks with classes to find, and regions about which nothing is said.

S side of the square canvas, T targets of one image, N targets of a batch, B images of a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.data.errors import BadInput
from pipeline.data.masks import decode
from pipeline.data.paths import Place
from pipeline.data.photos import read_unchanged
from pipeline.data.records import RLE, Box, Instance, Record
from teachers.trust import trust_of
from teachers.window import Window, canvas_image, canvas_masks

BoolMask = npt.NDArray[np.bool_]
AT_ONCE = 32  # masks that are float together: what bounds the memory


@dataclass(frozen=True)
class Target:
    """A mask, the index of its class in the ontology, and how far it is trusted (`teachers.trust`)."""

    rle: RLE
    class_index: int
    trust: float


@dataclass(frozen=True)
class Labels:
    """`found` targets; `ignored` masks or, lacking one, boxes."""

    found: tuple[Target, ...]
    ignored: tuple[RLE | Box, ...]


@dataclass(frozen=True)
class Example:
    """One image on its canvas: `pixels` (S, S, 3) uint8, `masks` (T, S, S), `classes` (T,) int64, `ignore` (S, S).

    `weights` (T,) float32: what share of a target's losses counts.
    """

    pixels: npt.NDArray[np.uint8]
    masks: BoolMask
    classes: npt.NDArray[np.int64]
    ignore: BoolMask
    weights: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """`pixels` (B, S, S, 3) uint8; `masks` (N, S, S) bool, all images' targets one after the other, `counts` of each.

    `classes` (N,) int64 in [0, number of classes); `weights` (N,) in [0, 1] of their losses; `ignore` (B, S, S) bool,
    of what is neither a target nor background.
    """

    pixels: Tensor
    masks: Tensor
    classes: Tensor
    counts: tuple[int, ...]
    ignore: Tensor
    weights: Tensor

    def to(self, device: str) -> "Batch":
        return Batch(
            pixels=self.pixels.to(device),
            masks=self.masks.to(device),
            classes=self.classes.to(device),
            counts=self.counts,
            ignore=self.ignore.to(device),
            weights=self.weights.to(device),
        )


def labels_of(record: Record, class_index: Mapping[int, int]) -> Labels:
    """Sorts a record's instances into targets and ignore regions.

    A target has a mask, a class and was not dropped. Dropped instances, crowd regions, instances of an open phrase and
    those with a box but no mask are ignore regions: something is there, so it is not background. `BadInput` for a class
    that the ontology lacks.
    """
    found: list[Target] = []
    ignored: list[RLE | Box] = []
    for instance in record.instances:
        if instance.class_id is not None and instance.class_id not in class_index:
            raise BadInput(
                f"image {record.image_id} ({record.uri}): class id {instance.class_id} is not in the ontology "
                f"{sorted(class_index)}"
            )
        if instance.rle is not None and instance.class_id is not None and instance.dropped is None:
            found.append(Target(instance.rle, class_index[instance.class_id], trust_of(instance)))
        else:
            ignored.extend(_region(instance))
    for crowd in record.crowd:
        ignored.extend(_region(crowd))
    return Labels(tuple(found), tuple(ignored))


def load_example(
    record: Record,
    *,
    images_root: Place,
    class_index: Mapping[int, int],
    size: int,
    window: Window,
    trust_weights: bool,
) -> Example:
    """Reads an image and its masks onto the canvas; targets of which the window shows nothing are left out.

    `BadInput` if the image cannot be read, is no longer that of ingest, or its size is not the record's.
    """
    path = images_root / record.uri
    image = read_unchanged(path, record.sha256)
    if image.shape[:2] != (record.height, record.width):
        raise BadInput(
            f"{path}: image is {image.shape[1]}x{image.shape[0]}, its record says {record.width}x{record.height}"
        )
    labels = canvas_labels(record, class_index, size=size, window=window)
    weights = labels.trust if trust_weights else np.ones_like(labels.trust)
    return Example(canvas_image(image, window, size), labels.masks, labels.classes, labels.ignore, weights)


@dataclass(frozen=True)
class CanvasLabels:
    """What an `Example` has besides its pixels; `trust` (T,) float32 of each target."""

    masks: BoolMask
    classes: npt.NDArray[np.int64]
    ignore: BoolMask
    trust: npt.NDArray[np.float32]


def canvas_labels(
    record: Record, class_index: Mapping[int, int], *, size: int, window: Window
) -> CanvasLabels:
    """A record's targets and ignore region on a canvas; the photo is not read. Errors as of `labels_of`."""
    labels = labels_of(record, class_index)
    full = [decode(target.rle) for target in labels.found]
    ignore = _ignore_region(labels.ignored, full, shape=(record.height, record.width))
    masks = canvas_masks([*full, ignore], window, size)
    seen = masks[:-1].any(axis=(1, 2))
    classes = np.asarray([target.class_index for target in labels.found], np.int64)
    trust = np.asarray([target.trust for target in labels.found], np.float32)
    return CanvasLabels(masks[:-1][seen], classes[seen], masks[-1], trust[seen])


def collate(examples: Sequence[Example]) -> Batch:
    """Stacks examples of one canvas size."""
    return Batch(
        pixels=torch.from_numpy(np.stack([example.pixels for example in examples])),
        masks=torch.from_numpy(np.concatenate([example.masks for example in examples])),
        classes=torch.from_numpy(np.concatenate([example.classes for example in examples])),
        counts=tuple(len(example.classes) for example in examples),
        ignore=torch.from_numpy(np.stack([example.ignore for example in examples])),
        weights=torch.from_numpy(np.concatenate([example.weights for example in examples])),
    )


def low_res_masks(masks: Tensor, size: int) -> Tensor:
    """Masks (G, S, S) bool as the decoder sees them: (G, size, size), the share of each pixel that is covered.

    (ours) Rounded, an object of less than half a pixel's width would teach SAM to answer nothing.
    """
    if not len(masks):
        return torch.zeros(0, size, size, device=masks.device)
    some = [
        nn.functional.interpolate(part[:, None].float(), size, mode="area")[:, 0]
        for part in torch.split(masks, AT_ONCE)
    ]
    return torch.cat(some)


def _region(instance: Instance) -> list[RLE | Box]:
    if instance.rle is not None:
        return [instance.rle]
    return [] if instance.box_xyxy is None else [instance.box_xyxy]


def _ignore_region(
    regions: Sequence[RLE | Box], targets: Sequence[BoolMask], *, shape: tuple[int, int]
) -> BoolMask:
    """Union of the regions without the targets' pixels: a pixel of a target is known to be no other target's."""
    union = np.zeros(shape, np.bool_)
    for region in regions:
        if isinstance(region, RLE):
            union |= decode(region)
        else:
            x0, y0, x1, y1 = region
            rows = slice(max(int(np.floor(y0)), 0), max(int(np.ceil(y1)), 0))
            union[rows, max(int(np.floor(x0)), 0) : max(int(np.ceil(x1)), 0)] = True
    for target in targets:
        union &= ~target
    return union
