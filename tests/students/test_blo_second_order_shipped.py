"""The second order as it is shipped: float32, the embedded SAM, the default step of the difference, scenes of toyworld.

Beside autograd through the unrolled step in float64. Phi are the boxes themselves, near those of the objects: what a
detector makes of its weights is the same factor of both.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from told_boxes import Told
from torch import Tensor
from torch.func import functional_call

from pipeline.toyworld.scene import Scene, render
from students.blo_objective import (
    AlignedSam,
    Choice,
    Images,
    Keeping,
    Weights,
    boxes_loss,
    choose,
    losses,
    total,
)
from students.blo_settings import LR, RANK
from teachers.bilevel import Level, hypergradient
from teachers.detector import Targets
from teachers.sam.load import load_sam
from teachers.sam.predictor import SamPredictor
from teachers.targets import low_res_masks

MATTERS = 1.0  # a rate of the virtual step by which the implicit term is as large as the direct one
ERRORS = {
    MATTERS: 1e-3,
    LR: 2e-3,
}  # of the implicit term alone, by rate; at LR it is 1/2000 of the direct one
SCENES = 3  # of each half
SIDE, GRID = 256, 16
WEIGHTS = Weights(0, 0, 0, 0.7)  # the losses of `Told` are nothing that an image teaches
KEEPING = Keeping(0.25, 0.9, 300)
LEAST = 400  # pixels of an object


class Boxes(Told):
    """`Told` of squares as large as the embedded SAM's."""

    side = SIDE


def half(first: int) -> tuple[Images, Boxes]:
    """Scenes and boxes that are some pixels off their objects'."""
    scenes = [render("demo", 0, index) for index in range(first, first + SCENES)]
    seen = [_objects(scene) for scene in scenes]
    features = SamPredictor(load_sam("tiny")).embed([scene.image for scene in scenes]).features
    targets = tuple(
        Targets(boxes, torch.zeros(len(boxes)).long(), torch.ones(len(boxes))) for boxes, _ in seen
    )
    masks = tuple(low_res_masks(own, 4 * GRID) for _, own in seen)
    extents = torch.tensor([[SIDE, SIDE]] * SCENES)
    images = Images(torch.zeros(SCENES, 3, SIDE, SIDE), features, targets, masks, extents)
    most = max(len(boxes) for boxes, _ in seen)
    draw = torch.Generator().manual_seed(first)
    said = [torch.cat([boxes, boxes[:1].expand(most - len(boxes), 4)]) for boxes, _ in seen]
    moved = torch.stack(said) + 6 * torch.rand(SCENES, most, 4, generator=draw) - 3
    logits = [[[2.0]] * len(boxes) + [[-9.0]] * (most - len(boxes)) for boxes, _ in seen]
    return images, Boxes(moved.clamp(0, SIDE).tolist(), logits)


def _objects(scene: Scene) -> tuple[Tensor, Tensor]:
    own = [o for o in scene.objects if o.class_id is not None and o.mask.sum() >= LEAST]
    return torch.tensor([o.box_xyxy for o in own]).float(), torch.from_numpy(np.stack([o.mask for o in own]))


class Problem:
    """Both halves in a dtype; what is chosen is chosen in float32, whatever that is."""

    def __init__(self, dtype: torch.dtype, sam: AlignedSam, halves: Sequence[tuple[Images, Boxes]]) -> None:
        self.sam = sam.to(dtype)
        self.halves = []
        for images, boxes in halves:
            single = deepcopy(boxes).float()
            choice = _chosen(choose(single, images, KEEPING), dtype)
            self.halves.append((_cast(images, dtype), single.to(dtype), choice))

    @property
    def phi(self) -> tuple[Tensor, ...]:
        """The boxes of both halves: one detector says them all."""
        return tuple(boxes.boxes for _, boxes, _ in self.halves)

    def lower(self, sam: AlignedSam) -> Tensor:
        """What of L1 depends on theta."""
        images, boxes, choice = self.halves[0]
        return WEIGHTS.seg * boxes_loss(sam, images, choice, boxes.predict(images.pixels))

    def upper(self, sam: AlignedSam) -> Tensor:
        images, boxes, choice = self.halves[1]
        return total(losses(boxes, sam, images, choice, WEIGHTS))

    def differences(self, rate: float) -> Tensor:
        theta = tuple(self.sam.trained().values())
        lower = Level(theta, torch.optim.SGD(theta, rate))
        upper = Level(self.phi, torch.optim.SGD(self.phi, 1.0))  # type: ignore[arg-type]
        found = hypergradient(lower, upper, lambda: self.lower(self.sam), lambda: self.upper(self.sam))
        return flat(found.implicit)

    def exact(self, rate: float) -> tuple[Tensor, Tensor]:
        """The direct term, and the implicit one: what is left if the step is held fixed."""
        theta = dict(self.sam.trained())
        lower = self.lower(self.sam)
        first = torch.autograd.grad(lower, tuple(theta.values()), create_graph=True, materialize_grads=True)
        moved = {name: p - rate * g for (name, p), g in zip(theta.items(), first, strict=True)}
        whole = flat(self._through(moved))
        direct = flat(self._through({name: value.detach() for name, value in moved.items()}))
        return direct, whole - direct

    def _through(self, theta: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """The upper loss's gradient with parameters of SAM's in place of its own."""

        def sam(*given: Tensor) -> object:
            return functional_call(self.sam, theta, given)

        sam.side = self.sam.side  # type: ignore[attr-defined]
        upper = self.upper(cast(AlignedSam, cast(Callable[..., object], sam)))
        return torch.autograd.grad(upper, self.phi, materialize_grads=True, retain_graph=True)


def _cast(images: Images, dtype: torch.dtype) -> Images:
    targets = tuple(Targets(own.boxes.to(dtype), own.labels, own.weights.to(dtype)) for own in images.targets)
    masks = tuple(own.to(dtype) for own in images.masks)
    return replace(
        images,
        pixels=images.pixels.to(dtype),
        features=images.features.to(dtype),
        targets=targets,
        masks=masks,
    )


def _chosen(choice: Choice, dtype: torch.dtype) -> Choice:
    return replace(choice, weights=choice.weights.to(dtype), boxes=choice.boxes.to(dtype))


def flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.detach().flatten().double() for part in parts])


@pytest.fixture(scope="module")
def halves() -> list[tuple[Images, Boxes]]:
    return [half(0), half(SCENES)]


@pytest.mark.parametrize("rate", ERRORS)
def test_the_implicit_term_alone_is_right(halves: list[tuple[Images, Boxes]], rate: float) -> None:
    torch.manual_seed(0)
    plain = AlignedSam(load_sam("tiny"), rank=RANK)
    start = {name: value.clone() for name, value in plain.state_dict().items()}
    exact = Problem(torch.float64, plain, halves)
    direct, implicit = exact.exact(rate)
    assert all(int((choice.weights > 0).sum()) >= 2 * SCENES for _, _, choice in exact.halves)
    if rate == MATTERS:
        assert implicit.norm() > 0.2 * direct.norm()
    single = AlignedSam(load_sam("tiny"), rank=RANK)
    single.load_state_dict(start)
    found = Problem(torch.float32, single, halves).differences(rate)
    assert (found - implicit).norm() / implicit.norm() < ERRORS[rate]
