"""The second order through the real objective: finite differences against autograd through the unrolled step.

SAM's small decoder and the tiny FCOS in float64; what is chosen stays fixed, and the step is large enough to matter.
The difference is taken over 1e-5, within which none of so small a decoder's ReLUs turn: what is shown is that the
formula is right. What is shipped, in float32: test_blo_second_order_shipped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from small_models import WIDTH, build_small_sam
from torch import Tensor, nn
from torch.func import functional_call

from students.blo_objective import AlignedSam, Images, Keeping, Weights, choose, losses, total
from teachers.bilevel import Hypergradient, Level, bilevel_step, hypergradient
from teachers.detector import Targets, keep
from teachers.fcos import FcosDetector, build_fcos_tiny
from teachers.sam.lora import LoRALinear

SIDE, LOW = 64, 32
RATE = 8.0  # of the virtual step: large enough to matter
NEAR = 1e-5
WEIGHTS = Weights(0.3, 0.7, 0.3, 0.7)
KEEPING = Keeping(0.1, 0.5, 4)


@dataclass
class Problem:
    """Both networks, a batch for each level, and what was chosen of it."""

    detector: FcosDetector
    sam: AlignedSam

    def __post_init__(self) -> None:
        self.batches = [batch(self.detector, seed) for seed in (1, 2)]
        self.choices = [choose(self.detector, own, KEEPING) for own in self.batches]

    @property
    def theta(self) -> dict[str, nn.Parameter]:
        return self.sam.trained()

    @property
    def phi(self) -> tuple[nn.Parameter, ...]:
        return tuple(self.detector.parameters())

    def loss(self, level: int, theta: dict[str, Tensor] | None = None) -> Tensor:
        """Of a level, with other parameters of SAM's if some are given."""
        sam: Callable[..., object] = self.sam
        if theta is not None:

            def sam(*given: Tensor) -> object:
                return functional_call(self.sam, theta, given)

            sam.side = self.sam.side  # type: ignore[attr-defined]
        parts = losses(self.detector, sam, self.batches[level], self.choices[level], WEIGHTS)  # type: ignore[arg-type]
        return total(parts)

    def differences(self, rate: float = RATE) -> Hypergradient:
        """What `second` goes by."""
        theta = tuple(self.theta.values())
        lower = Level(theta, torch.optim.SGD(theta, rate))
        upper = Level(self.phi, torch.optim.SGD(self.phi, 1.0))
        return hypergradient(lower, upper, lambda: self.loss(0), lambda: self.loss(1), epsilon=NEAR)

    def exact(self, rate: float = RATE) -> tuple[Tensor, Tensor]:
        """The direct and the implicit term by autograd."""
        theta = dict(self.theta)
        first = gradients(self.loss(0), tuple(theta.values()), create_graph=True)
        moved = {name: p - rate * g for (name, p), g in zip(theta.items(), first, strict=True)}
        whole = flat(gradients(self.loss(1, moved), self.phi))
        fixed = {name: value.detach() for name, value in moved.items()}
        direct = flat(gradients(self.loss(1, fixed), self.phi))
        return direct, whole - direct


def gradients(loss: Tensor, of: Sequence[Tensor], *, create_graph: bool = False) -> tuple[Tensor, ...]:
    """Zeros where the loss does not know a parameter, as what estimates IoU."""
    return torch.autograd.grad(loss, of, create_graph=create_graph, materialize_grads=True)


def flat(parts: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def batch(detector: FcosDetector, seed: int) -> Images:
    """Two images, whose objects are near some of the boxes that the detector finds in them."""
    draw = torch.Generator().manual_seed(seed)
    pixels = 255 * torch.rand(2, 3, SIDE, SIDE, generator=draw, dtype=torch.float64)
    features = torch.randn(2, WIDTH, 8, 8, generator=draw, dtype=torch.float64)
    raw = detector.predict(pixels)
    kept = keep(raw, confidence=KEEPING.confidence, overlap=KEEPING.overlap, most=KEEPING.most)
    rows, columns = torch.meshgrid(*(2 * [2.0 * torch.arange(LOW) + 1]), indexing="ij")
    targets, masks = [], []
    for image in range(2):
        own = kept.image == image
        shift = torch.rand(int(own.sum()), 4, generator=draw, dtype=torch.float64) - 0.5
        boxes = (kept.boxes(raw)[own].detach() + shift).clamp(0, SIDE)
        targets.append(Targets(boxes, kept.label[own], torch.ones(len(boxes), dtype=torch.float64)))
        x, y = ((boxes[:, axis] + boxes[:, axis + 2])[:, None, None] / 2 for axis in (0, 1))
        radius = (boxes[:, 2:] - boxes[:, :2]).amin(1)[:, None, None] / 2
        masks.append((((columns - x) ** 2 + (rows - y) ** 2) < radius**2).double())
    return Images(pixels, features, tuple(targets), tuple(masks), torch.tensor([[SIDE, SIDE]] * 2))


def new_problem(seed: int) -> Problem:
    torch.manual_seed(seed)
    detector = build_fcos_tiny(2).double().eval()
    nn.init.constant_(detector.model.head.regression_head.bbox_reg.bias, 1.5)
    nn.init.zeros_(detector.model.head.classification_head.cls_logits.bias)
    sam = AlignedSam(build_small_sam(), rank=2).double()
    for name, module in sam.named_modules():
        if isinstance(module, LoRALinear):
            nn.init.normal_(module.up, std=0.3)
        elif isinstance(module, nn.Linear) and "hypernetworks" in name:
            module.weight.data *= 3  # so that a mask says something
    return Problem(detector, sam)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return new_problem(0)


@pytest.mark.parametrize("seed", range(5))
def test_the_implicit_term_alone_is_the_exact_one(seed: int) -> None:
    problem = new_problem(seed)
    before = [p.detach().clone() for p in (*problem.theta.values(), *problem.phi)]
    found = problem.differences()
    direct, implicit = problem.exact()
    assert all(int((choice.weights > 0).sum()) >= 2 for choice in problem.choices)
    error = (flat(found.implicit) - implicit).norm() / implicit.norm()
    assert error < 1e-6
    torch.testing.assert_close(flat(found.direct), direct)
    # It matters: beside the direct term, and beside what the step does to that.
    still, _ = problem.exact(0.0)
    assert implicit.norm() > 0.2 * direct.norm()
    assert (direct - still).norm() > 0.1 * direct.norm()
    after = [p.detach() for p in (*problem.theta.values(), *problem.phi)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in (*problem.theta.values(), *problem.phi))


def test_the_first_order_is_the_direct_term() -> None:
    """Where the lower level descends plainly; momentum and clipping take it elsewhere than the virtual step."""
    problem = new_problem(0)
    direct, _ = problem.exact()
    theta, phi = tuple(problem.theta.values()), problem.phi
    before = flat(tuple(p.detach().clone() for p in phi))
    lower, upper = Level(theta, torch.optim.SGD(theta, RATE)), Level(phi, torch.optim.SGD(phi, 1.0))
    bilevel_step(lower, upper, lambda: problem.loss(0), lambda: problem.loss(1))
    torch.testing.assert_close(before - flat(tuple(p.detach() for p in phi)), direct)


def test_without_a_step_there_is_no_implicit_term(problem: Problem) -> None:
    found = problem.differences(rate=0.0)
    assert not flat(found.implicit).any()
    torch.testing.assert_close(flat(found.direct), problem.exact(0.0)[0])
