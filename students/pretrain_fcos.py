"""Pretrains the tiny FCOS on boxes and names of both worlds, from the embedded grounder's pyramid; resumable.

It is where BLO-Inst's detector begins, as the paper's begins with what COCO names; its class layer is new in each
student.

python -m students.pretrain_fcos --workdir W --bf16
python -m students.pretrain_fcos --workdir W --evaluate  # one JSON line, three seeds of unseen scenes
python -m students.pretrain_fcos --evaluate              # the same of the embedded weights
python -m students.pretrain_fcos --workdir W --export    # fp16 weights and their facts, into teachers/tiny/weights
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.data.errors import BadInput
from pipeline.toyworld.scene import Scene, render
from pipeline.toyworld.world import classes
from students.pretrain_scenes import NAMES, WorldScenes, worlds_seen
from teachers.detector import Targets, keep
from teachers.fcos import FcosDetector, build_fcos_tiny
from teachers.tiny import command, listing
from teachers.tiny.command import EVALUATION_SEED, WORLD, Options, parse, parser, run
from teachers.tiny.proposer import Detections
from teachers.tiny.recipe import Recipe, step_rng, train
from teachers.tiny.scores import score_weights
from teachers.tiny.train_grounder import score_boxes, varied
from teachers.tiny.weights import load_weights

EVALUATION_SCENES = 200  # of each seed
CONFIDENCE, OVERLAP, MOST = 0.05, 0.6, 100  # of what is scored

Seen = tuple[Tensor, list[Targets]]


@dataclass(frozen=True)
class Steps:
    """What each step sees: scenes zoomed, moved, mirrored and lit anew, drawn by the step's own random numbers."""

    worlds: Sequence[WorldScenes]
    seed: int
    batch: int

    def __getitem__(self, step: int) -> Seen:
        """Images (B, 3, S, S), float in 0..255, and their objects; labels are numbers below NAMES."""
        rng = step_rng(self.seed, step)
        drawn = [self._example(rng) for _ in range(self.batch)]
        return torch.stack([image for image, _ in drawn]).float(), [targets for _, targets in drawn]

    def _example(self, rng: np.random.Generator) -> tuple[Tensor, Targets]:
        scenes, first = self.worlds[int(rng.integers(len(self.worlds)))]
        image, found = varied(scenes[int(rng.integers(len(scenes)))], rng)
        return image, Targets(found.boxes, found.names + first, torch.ones(len(found.boxes)))


def begin(detector: FcosDetector) -> FcosDetector:
    """Give a tiny FCOS the embedded grounder's pyramid."""
    pyramid = detector.model.backbone.pyramid
    grounder = load_weights(listing.GROUNDER)
    pyramid.load_state_dict({name: grounder[name] for name in pyramid.state_dict()})
    return detector


class Learner(nn.Module):
    """A detector that is asked in eval mode, as a student's is: its batch norms keep the grounder's statistics."""

    def __init__(self, detector: FcosDetector) -> None:
        super().__init__()
        self.detector = detector

    def train(self, mode: bool = True) -> "Learner":
        super().train(mode)
        self.detector.train(False)
        return self

    def losses(self, seen: Seen) -> dict[str, Tensor]:
        """`box`, `obj` and `cls` of a batch."""
        pixels, targets = seen
        raw = self.detector.predict(pixels)
        return self.detector.losses(raw, targets, self.detector.assign(raw, targets))


def evaluate(detector: FcosDetector, *, scenes: int, seed: int = EVALUATION_SEED) -> dict[str, float]:
    """Box AP50 and AP of objects of at least 100 px on unseen scenes of the demo world, by its classes."""
    detector.eval()
    rendered = [render(WORLD, seed, index) for index in range(scenes)]
    return score_boxes(rendered, [_found(detector, scene) for scene in rendered])


@torch.inference_mode()
def _found(detector: FcosDetector, scene: Scene) -> Detections:
    """What is found of the demo's classes: theirs are the first names."""
    raw = detector.predict(torch.from_numpy(scene.image.copy()).permute(2, 0, 1)[None].float())
    kept = keep(raw, confidence=CONFIDENCE, overlap=OVERLAP, most=MOST)
    own = kept.label < len(classes(WORLD))
    return Detections(
        kept.boxes(raw)[own].double().numpy(), kept.score[own].double().numpy(), kept.label[own].numpy()
    )


def main() -> int:
    options = parse(parser(__doc__, steps=4000, batch=8, lr=1e-3, scenes=EVALUATION_SCENES), Options)
    if options.muon:
        raise BadInput(f"--muon {options.muon:g}: an FCOS has no linear layer for it to move; expected 0")
    torch.manual_seed(options.seed)
    detector = build_fcos_tiny(NAMES)
    if options.scores:
        scenes = options.evaluate or EVALUATION_SCENES
        score_weights(
            detector.model,
            options,
            name=listing.DETECTOR,
            evaluate=lambda seed: evaluate(detector, scenes=scenes, seed=seed),
        )
        return 0
    learner = Learner(begin(detector))
    steps = Steps(worlds_seen(options), options.seed, options.batch)
    trained = train(
        learner,
        loss_fn=lambda step: learner.losses(steps[step]),
        recipe=Recipe(
            steps=options.steps, lr=options.lr, seed=options.seed, ema=0.998, bf16=options.bf16, clip=5.0
        ),
        workdir=options.workdir,
        data=options.data,
    )
    command.keep(options, trained.under("detector.model."), needs={})
    return 0


if __name__ == "__main__":
    run(main)
