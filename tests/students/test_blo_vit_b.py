"""One whole bi-level step of BLO-Inst at its real size: SAM ViT-B and FCOS R-50 at 1024 px on the CPU.

Official architectures with random weights in the published formats, in a process of its own, whose memory is looked at.
"""

import multiprocessing
import resource
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from official import sha256
from official_fcos import official_fcos
from PIL import Image
from safetensors.torch import load_file
from segment_anything import build_sam_vit_b

from pipeline.data.masks import encode
from pipeline.data.records import Category, Instance, Ontology, Record, Role, Source
from pipeline.engine.context import TrainContext
from students.blo_inst import BloInst
from students.blo_objective import AlignedSam
from students.blo_pair import Pair
from students.blo_settings import BloInstSettings
from teachers.detector import keep
from teachers.detector_weights import new_detector
from teachers.sam.load import load_sam

pytestmark = pytest.mark.slow
SIDE = 1024
MOST_MEMORY = 10e9
ONTOLOGY = Ontology((Category(1, "thing"),))
OBJECTS, LEAST_SIDE = 6, 16.0  # the most of each photo; pixels


@dataclass(frozen=True)
class Done:
    metrics: dict[str, float]
    peak: float  # bytes
    saved: dict[str, torch.Tensor]


class Records(tuple[Record, ...]):
    """In memory."""


def settings(folder: Path, order: str) -> BloInstSettings:
    sam, detector = folder / "sam.pth", folder / "fcos.pth"
    return BloInstSettings.model_validate(
        {
            "sam": "vit_b",
            "checkpoint": sam,
            "sha256": sha256(sam),
            "detector": "fcos_r50",
            "detector_weights": detector,
            "detector_sha256": sha256(detector),
            "order": order,
            "pretrain_epochs": 0,
            "steps": 1,
            "batch_size": 1,
            "confidence": 0.0,
        }
    )


def photos(folder: Path) -> Records:
    """Two photos with objects where a detector that knows nothing has its boxes, so that masks are learned."""
    own = settings(folder, "first")
    detector = new_detector(
        "fcos_r50", 1, focal=True, weights=own.detector_weights, sha256=own.detector_sha256
    )
    records = []
    for number in (1, 2):
        coarse = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        image = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        image.save(folder / f"{number}.png")
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            raw = detector.eval().predict(pixels)
            boxes = keep(raw, confidence=0.0, overlap=own.overlap, most=300).boxes(raw)
        inside = (boxes[:, :2] >= 0).all(1) & (boxes[:, 2:] <= SIDE).all(1)
        boxes = boxes[inside & ((boxes[:, 2:] - boxes[:, :2]).amin(1) >= LEAST_SIDE)][:OBJECTS]
        assert len(boxes)
        masks = np.zeros((len(boxes), SIDE, SIDE), bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes.round().int().tolist(), strict=True):
            mask[top:bottom, left:right] = True
        found = tuple(Instance(Source.HUMAN, 1, rle=encode(mask)) for mask in masks)
        digest = sha256(folder / f"{number}.png")
        record = Record(
            number, f"{number}.png", digest, SIDE, SIDE, "train", Role.HUMAN_MASKED, instances=found
        )
        records.append(record)
    return Records(records)


def fit(folder: Path, order: str) -> Done:
    torch.set_num_threads(2)
    Pair.take_best = lambda _: None  # type: ignore[method-assign] # the step counts, not whether it was a good one
    for name in ("work", "out"):
        (folder / order / name).mkdir(parents=True)
    context = TrainContext(
        device="cpu",
        ontology=ONTOLOGY,
        images_root=folder,
        artifacts={},
        seed=0,
        workdir=folder / order / "work",
        out=folder / order / "out",
        progress=lambda *_: None,
        should_stop=lambda: False,
    )
    student = BloInst(settings(folder, order), ontology=ONTOLOGY, device="cpu")
    metrics = student.fit(photos(folder), context)
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    return Done(numbers, peak, load_file(context.out / "model.safetensors"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit_b")
    with torch.random.fork_rng([]):
        torch.manual_seed(0)  # as it begins: smaller weights would leave no gradient that float32 can add
        torch.save(build_sam_vit_b().state_dict(), folder / "sam.pth")
    torch.save(official_fcos(1).state_dict(), folder / "fcos.pth")
    return folder


@pytest.fixture(scope="module")
def done(weights: Path) -> dict[str, Done]:
    """A step in either order, each in a process of its own, as the peak of its memory is the process's."""
    found = {}
    for order in ("first", "second"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[order] = pool.apply(fit, (weights, order))
        own = found[order]
        print(f"{order}: {own.metrics['seconds']:.0f} s, {own.peak / 1e9:.1f} GB")  # noqa: T201
    return found


@pytest.mark.parametrize("order", ["first", "second"])
def test_a_step_at_the_real_size(weights: Path, done: dict[str, Done], order: str) -> None:
    own = done[order]
    assert own.peak < MOST_MEMORY
    assert all(np.isfinite(value) for value in own.metrics.values())
    assert (own.metrics["images_of_sam"], own.metrics["images_of_detector"]) == (1, 1)
    assert own.metrics["found_of_sam"] > 0.5
    assert own.metrics["found_of_detector"] > 0.5
    plain = AlignedSam(load_sam("vit_b", weights / "sam.pth", sha256=sha256(weights / "sam.pth")), rank=4)
    given = torch.load(weights / "fcos.pth", weights_only=True)
    before = {f"sam.{name}": value.detach() for name, value in plain.trained().items()}
    before |= {f"detector.model.{name}": value for name, value in given.items()}
    moved = {name for name, value in own.saved.items() if not torch.equal(value, before[name])}
    assert "detector.model.backbone.body.conv1.weight" in moved
    # A new delta's `down` is random, and gets no gradient in the first step, as `up` is zero.
    sam = {name for name in before if name.startswith("sam.") and not name.endswith(".down")}
    assert sam <= moved


def test_the_second_order_reaches_the_detector(done: dict[str, Done]) -> None:
    first, second = (done[order].saved for order in ("first", "second"))
    # From the same step of SAM's part, to the rounding of how its gradient came to be.
    for name in first:
        if name.startswith("sam."):
            torch.testing.assert_close(second[name], first[name], rtol=1e-3, atol=1e-5)
    assert any(not torch.equal(second[name], first[name]) for name in first if name.startswith("detector."))
