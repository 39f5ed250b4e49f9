"""What the tiny SAM is worth on objects it has not seen: boxes, a point, clicks; nothing is tuned here.

Objects of at least 100 px of the demo world, in scenes of seeds that no training and no report has.
"""

import statistics
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from pipeline.data.masks import decode as decode_rle
from pipeline.data.records import Origin, Prompt, Record, Role
from pipeline.toyworld.scene import Scene, render
from teachers.answerer import Answerer, Question
from teachers.protocols import Sample
from teachers.sam.predictor import SamPredictor
from teachers.sam.zoom import Zoom
from teachers.settings import PLAIN_BOX, TINY_ZOOM
from teachers.tiny.clicks import central_clicks
from teachers.tiny.command import EVALUATION_SEED, WORLD
from teachers.tiny.recipe import step_rng
from teachers.tiny.sam import IMAGE_SIZE
from teachers.tiny.sam_objective import decode, sparse_prompts

MIN_OBJECT_PIXELS = 100
CLICKS = 3
SEEDS = (EVALUATION_SEED, EVALUATION_SEED + 100_000, EVALUATION_SEED + 200_000)


@dataclass(frozen=True)
class Answers:
    """IoU of N objects' masks: `box` and `point` (N,) of output 0, `clicks` (N,) after three of them.

    `zoomed_box`: as labelling asks, on an enlarged part of the image; `ceiling`: of the true mask itself, brought to
    the low-res grid and back.
    `outputs` and `predicted` (N, 3): true and estimated IoU of the point's three outputs.
    """

    box: Tensor
    zoomed_box: Tensor
    ceiling: Tensor
    point: Tensor
    outputs: Tensor
    predicted: Tensor
    clicks: Tensor


@torch.no_grad()
def evaluate(sam: Sam, *, scenes: int, seed: int = EVALUATION_SEED) -> dict[str, float]:
    """Mean IoU with a tight box, one random point (output 0, and the best of the other three), and three clicks.

    The point's mask of the best estimate is what the second click corrects. `iou_correlation` is that of estimated and
    true IoU over the point's three outputs.
    """
    sam.eval()
    found = [answers(sam, render(WORLD, seed, index), step_rng(seed, index)) for index in range(scenes)]
    every = _joined([one for one in found if one is not None])
    both = torch.stack([every.predicted.flatten(), every.outputs.flatten()])
    means = {
        "box": every.box.mean(),
        "zoomed_box": every.zoomed_box.mean(),
        "ceiling": every.ceiling.mean(),
        "point": every.point.mean(),
        "point_best_of_3": every.outputs.max(1).values.mean(),
        "three_clicks": every.clicks.mean(),
        "iou_correlation": torch.corrcoef(both)[0, 1],
    }
    return {"objects": len(every.box), **{name: round(float(mean), 4) for name, mean in means.items()}}


def evaluate_seeds(sam: Sam, *, scenes: int) -> dict[str, float]:
    """Means of `evaluate` over SEEDS; `NAME_spread` is the standard deviation over them."""
    runs = [evaluate(sam, scenes=scenes, seed=seed) for seed in SEEDS]
    found: dict[str, float] = {"objects": sum(run.pop("objects") for run in runs)}
    for name in runs[0]:
        values = [run[name] for run in runs]
        found[name] = round(statistics.fmean(values), 4)
        found[f"{name}_spread"] = round(statistics.stdev(values), 4)
    return found


def answers(sam: Sam, scene: Scene, rng: np.random.Generator) -> Answers | None:
    """What SAM makes of a scene's objects; None if none is large enough."""
    objects = [o for o in scene.objects if o.class_id is not None and o.mask.sum() >= MIN_OBJECT_PIXELS]
    if not objects:
        return None
    pixels = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float()
    embedding = sam.image_encoder((pixels - sam.pixel_mean) / sam.pixel_std)
    truth = torch.from_numpy(np.stack([o.mask for o in objects]))
    picks = [np.argwhere(o.mask)[rng.integers(int(o.mask.sum()))][::-1] + 0.5 for o in objects]
    points = torch.from_numpy(np.stack(picks)).float()[:, None]
    labels = torch.ones(len(objects), 1, dtype=torch.int64)
    boxes = torch.tensor([o.box_xyxy for o in objects], dtype=torch.float32)

    def ask(
        points: Tensor, labels: Tensor, *, box: bool = False, previous: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        sparse = sparse_prompts(sam, points, labels, boxes, torch.full((len(objects),), box))
        return decode(sam, embedding, sparse, previous)

    boxed, _ = ask(points, torch.full_like(labels, -1), box=True)
    logits, predicted = ask(points, labels)
    chosen = logits[torch.arange(len(objects)), predicted[:, 1:].argmax(1) + 1]
    for _ in range(CLICKS - 1):
        click, label = central_clicks(chosen, truth)
        points, labels = torch.cat([points, click], 1), torch.cat([labels, label], 1)
        chosen = ask(points, labels, previous=chosen)[0][:, 0]
    small = F.interpolate(truth[:, None].float(), logits.shape[-1], mode="area") - 0.5
    ious = _ious(torch.cat([boxed[:, :1], logits, chosen[:, None], small], 1), truth)
    return Answers(
        box=ious[:, 0],
        zoomed_box=_zoomed(sam, scene.image, boxes, truth),
        ceiling=ious[:, 6],
        point=ious[:, 1],
        outputs=ious[:, 2:5],
        predicted=predicted[:, 1:],
        clicks=ious[:, 5],
    )


def _zoomed(sam: Sam, image: npt.NDArray[np.uint8], boxes: Tensor, truth: Tensor) -> Tensor:
    """IoU (N,) of what plain SAM answers to boxes (N, 4) as the teacher asks them."""
    answerer = Answerer(SamPredictor(sam), {}, None, zoom=Zoom(TINY_ZOOM, IMAGE_SIZE))
    record = Record(0, "", "", image.shape[1], image.shape[0], "val", Role.VAL)
    prompts = [Prompt(Origin.HUMAN, (x0, y0, x1, y1)) for x0, y0, x1, y1 in boxes.tolist()]
    view = answerer.look([Sample(record, image)])
    found = answerer.answer(view, [Question(PLAIN_BOX, 0, prompt) for prompt in prompts])
    masks = [np.zeros(image.shape[:2], bool) if one.rle is None else decode_rle(one.rle) for one in found]
    made = torch.from_numpy(np.stack(masks))
    return (made & truth).sum((1, 2)) / (made | truth).sum((1, 2))


def _joined(parts: list[Answers]) -> Answers:
    return Answers(
        box=torch.cat([part.box for part in parts]),
        zoomed_box=torch.cat([part.zoomed_box for part in parts]),
        ceiling=torch.cat([part.ceiling for part in parts]),
        point=torch.cat([part.point for part in parts]),
        outputs=torch.cat([part.outputs for part in parts]),
        predicted=torch.cat([part.predicted for part in parts]),
        clicks=torch.cat([part.clicks for part in parts]),
    )


def _ious(logits: Tensor, truth: Tensor) -> Tensor:
    """(P, M) of logits (P, M, S, S) with masks (P, H, W)."""
    hard = F.interpolate(logits, truth.shape[-1], mode="bilinear", align_corners=False) > 0
    both, either = (hard & truth[:, None]).sum((2, 3)), (hard | truth[:, None]).sum((2, 3))
    return both / either
