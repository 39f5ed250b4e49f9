"""What the tiny SAM is worth on objects it has not seen: boxes, a point, clicks; nothing is tuned here.

Objects of at least 100 px of the demo world, in scenes of seeds that no training and no report has.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from pipeline.data.masks import decode as decode_rle
from pipeline.data.records import Origin, Point, Prompt, Record, Role
from pipeline.toyworld.scene import Scene, render
from teachers.answerer import Answerer, Question
from teachers.protocols import Sample
from teachers.sam.masks import PredictedMask
from teachers.sam.predictor import SamPredictor
from teachers.sam.zoom import Zoom
from teachers.settings import PLAIN_BOX, POINT, POINT_BOX, TINY_ZOOM
from teachers.tiny.clicks import central_clicks
from teachers.tiny.command import EVALUATION_SEED, WORLD
from teachers.tiny.recipe import step_rng
from teachers.tiny.sam import IMAGE_SIZE
from teachers.tiny.sam_objective import Asked, answer

MIN_OBJECT_PIXELS = 100
CLICKS = 3


@dataclass(frozen=True)
class Clicked:
    """IoU of N objects' masks from a first click: `single` (N,) output 0, `outputs` (N, 3) the others, `three` (N,)
    after two corrections; `predicted` (N, 3): what SAM takes the outputs for. `labelled` (N,): three clicks as
    labelling asks them, each where the mask so far is wrong.
    """

    single: Tensor
    outputs: Tensor
    predicted: Tensor
    three: Tensor
    labelled: Tensor


@dataclass(frozen=True)
class Answers:
    """IoU (N,) of N objects' masks: `box` of output 0, `labelled_box` as labelling asks, on an enlarged part.

    `ceiling`: of the true mask itself, brought to the low-res grid and back. `random`, `central`: where the first
    click is.
    """

    box: Tensor
    labelled_box: Tensor
    ceiling: Tensor
    random: Clicked
    central: Clicked


@torch.no_grad()
def evaluate(sam: Sam, *, scenes: int, seed: int = EVALUATION_SEED) -> dict[str, float]:
    """Mean IoU with a tight box, one point (output 0, and the best of the other three), and three clicks.

    A first click is anywhere on the object or, as in Kirillov et al. 2023, 7.1, where it is deepest (`central_`). The
    mask of the best estimate is what the second click corrects. `iou_correlation` is that of estimated and true IoU
    over the three outputs of a random point.
    """
    sam.eval()
    found = [answers(sam, render(WORLD, seed, index), step_rng(seed, index)) for index in range(scenes)]
    every = [one for one in found if one is not None]

    def mean(value: Callable[[Answers], Tensor]) -> float:
        return round(float(torch.cat([value(one) for one in every]).mean()), 4)

    outputs = torch.cat([one.random.outputs for one in every]).flatten()
    predicted = torch.cat([one.random.predicted for one in every]).flatten()
    return {
        "objects": sum(len(one.box) for one in every),
        "box": mean(lambda one: one.box),
        "labelled_box": mean(lambda one: one.labelled_box),
        "ceiling": mean(lambda one: one.ceiling),
        "point": mean(lambda one: one.random.single),
        "point_best_of_3": mean(lambda one: one.random.outputs.max(1).values),
        "three_clicks": mean(lambda one: one.random.three),
        "labelled_three_clicks": mean(lambda one: one.random.labelled),
        "central_point_best_of_3": mean(lambda one: one.central.outputs.max(1).values),
        "central_three_clicks": mean(lambda one: one.central.three),
        "central_labelled_three_clicks": mean(lambda one: one.central.labelled),
        "iou_correlation": round(float(torch.corrcoef(torch.stack([predicted, outputs]))[0, 1]), 4),
    }


def answers(sam: Sam, scene: Scene, rng: np.random.Generator) -> Answers | None:
    """What SAM makes of a scene's objects; None if none is large enough."""
    objects = [o for o in scene.objects if o.class_id is not None and o.mask.sum() >= MIN_OBJECT_PIXELS]
    if not objects:
        return None
    pixels = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float()
    embedding = sam.image_encoder((pixels - sam.pixel_mean) / sam.pixel_std)
    truth = torch.from_numpy(np.stack([o.mask for o in objects]))
    boxes = torch.tensor([o.box_xyxy for o in objects], dtype=torch.float32)
    nowhere = torch.zeros(len(objects), 1, 2)
    boxed, _ = answer(sam, embedding, _asked(nowhere, torch.full((len(objects), 1), -1), boxes))
    small = F.interpolate(truth[:, None].float(), boxed.shape[-1], mode="area") - 0.5
    picks = [np.argwhere(o.mask)[rng.integers(int(o.mask.sum()))][::-1] + 0.5 for o in objects]
    centres, _ = central_clicks(torch.full_like(boxed[:, 0], -1.0), truth)
    labelling = _Labelling(sam, scene.image)

    def clicked(first: Tensor) -> Clicked:
        return _clicked(first, truth, sam=sam, embedding=embedding, labelling=labelling)

    return Answers(
        box=_ious(boxed[:, :1], truth)[:, 0],
        labelled_box=_overlap(labelling.boxes(boxes), truth),
        ceiling=_ious(small, truth)[:, 0],
        random=clicked(torch.from_numpy(np.stack(picks)).float()[:, None]),
        central=clicked(centres),
    )


def _clicked(
    first: Tensor, truth: Tensor, *, sam: Sam, embedding: Tensor, labelling: "_Labelling"
) -> Clicked:
    """What comes of first clicks (N, 1, 2) and the corrections of an annotator who clicks where an error is deepest."""
    asked = _asked(first, torch.ones(len(first), 1, dtype=torch.int64), None)
    logits, predicted = answer(sam, embedding, asked)
    chosen = logits[torch.arange(len(first)), predicted[:, 1:].argmax(1) + 1]
    for _ in range(CLICKS - 1):
        asked = asked.followed_by(*central_clicks(chosen, truth))
        chosen = answer(sam, embedding, asked, chosen)[0][:, 0]
    ious = _ious(torch.cat([logits, chosen[:, None]], 1), truth)
    labelled = _overlap(labelling.clicks(first, truth), truth)
    return Clicked(ious[:, 0], ious[:, 1:4], predicted[:, 1:], ious[:, 4], labelled)


def _asked(points: Tensor, labels: Tensor, boxes: Tensor | None) -> Asked:
    """Prompts on the one image, with boxes or without."""
    count = len(points)
    return Asked(
        image=torch.zeros(count, dtype=torch.int64),
        points=points,
        labels=labels,
        boxes=torch.zeros(count, 4) if boxes is None else boxes,
        box_on=torch.full((count,), boxes is not None),
    )


class _Labelling:
    """Plain SAM as the teacher asks it about one image; masks (N, H, W) bool."""

    def __init__(self, sam: Sam, image: npt.NDArray[np.uint8]) -> None:
        self._answerer = Answerer(SamPredictor(sam), {}, None, zoom=Zoom(TINY_ZOOM, IMAGE_SIZE))
        record = Record(0, "", "", image.shape[1], image.shape[0], "val", Role.VAL)
        self._view = self._answerer.look([Sample(record, image)])
        self._size = image.shape[:2]

    def boxes(self, boxes: Tensor) -> Tensor:
        """For boxes (N, 4)."""
        prompts = [Prompt(Origin.HUMAN, (x0, y0, x1, y1)) for x0, y0, x1, y1 in boxes.tolist()]
        return self._asked(PLAIN_BOX, prompts)

    def clicks(self, first: Tensor, truth: Tensor) -> Tensor:
        """For a first click (N, 1, 2) and the corrections of what came of the clicks before.

        As Algorithm 1 has it where nothing is proposed: asked with the clicks, then with the box that came of them too.
        """
        clicks = [[Point(x, y)] for [[x, y]] in first.tolist()]
        for _ in range(CLICKS - 1):
            points, labels = central_clicks(self._clicked(clicks).float() - 0.5, truth)
            for given, [[x, y]], [label] in zip(clicks, points.tolist(), labels.tolist(), strict=True):
                given.append(Point(x, y, label))
        return self._clicked(clicks)

    def _clicked(self, clicks: list[list[Point]]) -> Tensor:
        prompts = [Prompt(Origin.HUMAN, points=tuple(given)) for given in clicks]
        boxes = [found.box for found in self._answers(POINT, prompts)]
        boxed = [replace(prompt, box_xyxy=box) for prompt, box in zip(prompts, boxes, strict=True)]
        return self._asked(POINT_BOX, boxed)

    def _asked(self, variant: str, prompts: list[Prompt]) -> Tensor:
        found = self._answers(variant, prompts)
        masks = [np.zeros(self._size, bool) if one.rle is None else decode_rle(one.rle) for one in found]
        return torch.from_numpy(np.stack(masks))

    def _answers(self, variant: str, prompts: list[Prompt]) -> list[PredictedMask]:
        return self._answerer.answer(self._view, [Question(variant, 0, prompt) for prompt in prompts])


def _overlap(made: Tensor, truth: Tensor) -> Tensor:
    """IoU (N,) of masks (N, H, W)."""
    return (made & truth).sum((1, 2)) / (made | truth).sum((1, 2))


def _ious(logits: Tensor, truth: Tensor) -> Tensor:
    """(P, M) of logits (P, M, S, S) with masks (P, H, W)."""
    hard = F.interpolate(logits, truth.shape[-1], mode="bilinear", align_corners=False) > 0
    both, either = (hard & truth[:, None]).sum((2, 3)), (hard | truth[:, None]).sum((2, 3))
    return both / either
