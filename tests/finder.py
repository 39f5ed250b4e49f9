"""A detector that finds the objects of some scenes of toyworld, trained on them in a few steps by one thread."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.toyworld.scene import Scene
from pipeline.toyworld.world import classes
from students.pretrain_fcos import begin
from teachers.detector import Targets
from teachers.fcos import FcosDetector, build_fcos_tiny

BATCH = 4


def write_finder(path: Path, scenes: Sequence[Scene], *, steps: int) -> Path:
    """A tiny FCOS of toyworld's classes; `steps` of four scenes, from the grounder's pyramid on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        detector = begin(build_fcos_tiny(len(classes("demo")))).eval()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    seen = [(_pixels(scene), _targets(scene)) for scene in scenes]
    for step in range(steps):
        some = [seen[(step * BATCH + slot) % len(seen)] for slot in range(BATCH)]
        _learn(detector, optimizer, torch.stack([p for p, _ in some]), [own for _, own in some])
    torch.set_num_threads(threads)
    save_file(detector.model.state_dict(), path)
    return path


def _learn(
    detector: FcosDetector, optimizer: torch.optim.Optimizer, pixels: Tensor, targets: Sequence[Targets]
) -> None:
    raw = detector.predict(pixels)
    parts = detector.losses(raw, targets, detector.assign(raw, targets))
    optimizer.zero_grad()
    torch.stack(list(parts.values())).sum().backward()
    optimizer.step()


def _pixels(scene: Scene) -> Tensor:
    return torch.from_numpy(np.array(scene.image)).permute(2, 0, 1).float()


def _targets(scene: Scene) -> Targets:
    own = [thing for thing in scene.objects if thing.class_id is not None]
    boxes = torch.tensor([thing.box_xyxy for thing in own]).float().reshape(-1, 4)
    labels = torch.tensor([(thing.class_id or 1) - 1 for thing in own])
    return Targets(boxes, labels, torch.ones(len(own)))
