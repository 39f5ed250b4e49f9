"""What phases and judges of a small BLO-Inst work with: five pictures, two of them SAM's half."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from small_blo import Places, loader
from small_models import build_small_sam
from torch import Tensor, nn

from pipeline.data.records import Record
from students.blo_bench import Bench
from students.blo_objective import AlignedSam
from students.blo_pair import Pair
from students.blo_settings import BloInstSettings
from teachers.detector import DetectorNetwork
from teachers.detector_weights import new_detector
from teachers.pool import Halves

MakeBench = Callable[..., Bench]
States = tuple[dict[str, Tensor], dict[str, Tensor]]  # of SAM's part and of the detector
SPLIT = Halves((0, 2), (1, 3, 4))
GIVEN = {"batch_size": 2, "epochs": 2, "pretrain_epochs": 1}


def new_bench(
    pictures: Sequence[Record], folder: Path, detector_weights: Path, settings: dict[str, object]
) -> Bench:
    """On pictures in a folder; what the settings would be refused for is set all the same."""
    own = BloInstSettings.model_validate({**GIVEN, "detector_weights": detector_weights})
    own = own.model_copy(update=settings)
    torch.manual_seed(0)
    detector = new_detector(own.detector, 2, focal=own.focal, weights=own.detector_weights)
    pair = Pair(detector, AlignedSam(build_small_sam(), rank=2)).eval()
    whole = loader(pictures, folder)
    jittered = replace(whole, scale=(0.8, 1.2))
    return Bench(pair, own, SPLIT, jittered, whole, Places(), "cpu")  # type: ignore[arg-type]


def new_pair() -> Pair:
    """Two linear layers stand for the networks."""
    torch.manual_seed(0)
    return Pair(cast(DetectorNetwork, nn.Linear(2, 1)), cast(AlignedSam, nn.Linear(3, 1)))


def weights(bench: Bench) -> States:
    """As they are now, buffers too."""
    found = bench.pair.sam.state_dict(), bench.pair.detector.state_dict()
    return tuple({n: v.clone() for n, v in state.items()} for state in found)  # type: ignore[return-value]


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Names of what is no longer the same."""
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def unwatched(done: int, whole: int) -> None:
    """Nobody looks on while a pair is judged."""
