"""A small box is asked on an enlarged part of its image, with the answer of that part as an image of its own.

Several points are asked once more around the mask that came of them, with that mask as a prompt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam

from pipeline.data.errors import BadInput
from pipeline.data.masks import decode, encode
from pipeline.data.records import Box, Origin, Point, Prompt, Record, Role
from teachers import answerer
from teachers.answerer import Answerer, Question
from teachers.catalog import ModelSpec, check
from teachers.protocols import Sample
from teachers.sam.masks import PredictedMask
from teachers.sam.pixels import Frame, Window
from teachers.sam.predictor import Answer, Ask, Embeddings, Head, SamPredictor
from teachers.sam.reframe import reframed
from teachers.sam.upsample import Upsampler
from teachers.sam.zoom import Zoom
from teachers.settings import ClassAwareSettings, SamSettings
from teachers.training_set import Target

ZOOM = Zoom(share=0.5, side=64)
NO_ZOOM = Zoom(share=0.0, side=64)
SMALL = Prompt(Origin.HUMAN, (70.0, 30.0, 86.0, 40.0))  # seen in 32 x 32 pixels
OTHER = Prompt(Origin.HUMAN, (2.0, 60.0, 20.0, 79.0), (Point(10.5, 70.5),))
LARGE = Prompt(Origin.HUMAN, (10.0, 5.0, 90.0, 75.0))
CLICK = Prompt(Origin.HUMAN, points=(Point(75.5, 35.5),))
CLICKS = Prompt(Origin.HUMAN, points=(Point(75.5, 35.5), Point(70.5, 30.5, 0)))


def sample(seed: int, size: tuple[int, int] = (80, 100)) -> Sample:
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return Sample(Record(seed, "a.png", "0" * 64, size[1], size[0], "train", Role.WEAK), image)


def answer(
    sam: Sam, samples: list[Sample], *asked: tuple[int, Prompt], zoom: Zoom = ZOOM, together: bool = False
) -> list[PredictedMask]:
    asker = Answerer(SamPredictor(sam, chunk=3, share=together), {}, None, zoom=zoom)
    return asker.answer(asker.look(samples), [Question("box", *question) for question in asked])


@pytest.mark.parametrize(
    ("box", "size", "window"),
    [
        ((40.0, 30.0, 60.0, 40.0), (80, 100), Window(15, 30, 40, 40)),
        ((0.0, 0.0, 20.0, 10.0), (80, 100), Window(0, 0, 40, 40)),  # moved inside the image
        ((85.0, 70.0, 100.0, 80.0), (80, 100), Window(50, 70, 30, 30)),
        ((40.0, 10.0, 60.0, 20.0), (30, 100), Window(0, 30, 30, 40)),  # no higher than the image
        ((50.2, 40.2, 50.9, 40.4), (80, 100), Window(36, 47, 8, 8)),  # enlarged eight times at most
        ((0.0, 0.0, 33.0, 10.0), (80, 100), Window(0, 0, 66, 66)),
        ((0.0, 0.0, 34.0, 10.0), (80, 100), None),  # enlarged by less than a half
        ((0.0, 0.0, 0.5, 0.5), (6, 7), None),
        (None, (80, 100), None),
    ],
)
def test_window(box: Box | None, size: tuple[int, int], window: Window | None) -> None:
    prompt = Prompt(Origin.HUMAN, box, () if box else CLICK.points)
    assert ZOOM.window(prompt, *size) == window
    assert NO_ZOOM.window(prompt, *size) is None


@pytest.mark.parametrize(
    ("points", "window"),
    [
        ([(45.5, 35.5, 1)], Window(15, 30, 40, 40)),
        ([(39.5, 35.5, 1), (64.5, 35.5, 0)], Window(10, 27, 50, 50)),  # beside the box: seen too
        ([(99.5, 79.5, 0)], None),
    ],
)
def test_a_window_holds_the_points_too(points: list[tuple[float, float, int]], window: Window | None) -> None:
    prompt = Prompt(Origin.SAM, (40.0, 30.0, 60.0, 40.0), tuple(Point(*point) for point in points))
    assert ZOOM.window(prompt, 80, 100) == window


@pytest.mark.parametrize("share", [0.1, 0.35, 0.8])
def test_a_window_lies_in_the_image_and_holds_the_box(share: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(1000):
        height, width = (int(side) for side in rng.integers(8, 300, 2))
        x, y = np.sort(rng.uniform(0, width, 2)), np.sort(rng.uniform(0, height, 2))
        box = (x[0], y[0], x[1], y[1])
        window = Zoom(share, 64).window(Prompt(Origin.HUMAN, box), height, width)
        if window is None:
            continue
        assert 0 <= window.top <= y[0]
        assert 0 <= window.left <= x[0]
        assert y[1] <= window.top + window.height <= height
        assert x[1] <= window.left + window.width <= width


@pytest.mark.parametrize("prompt", [SMALL, OTHER])
def test_the_answer_is_that_of_the_part_as_an_image_of_its_own(small_sam: Sam, prompt: Prompt) -> None:
    whole = sample(1)
    window = ZOOM.window(prompt, 80, 100)
    assert window is not None
    assert prompt.box_xyxy is not None
    shift = np.array([window.left, window.top] * 2)
    x0, y0, x1, y1 = (np.array(prompt.box_xyxy) - shift).tolist()
    points = tuple(replace(p, x=p.x - window.left, y=p.y - window.top) for p in prompt.points)
    alone = replace(prompt, box_xyxy=(x0, y0, x1, y1), points=points)
    part = replace(whole, image=np.ascontiguousarray(window.of(whole.image)))
    asker = Answerer(SamPredictor(small_sam, chunk=1), {}, None, zoom=NO_ZOOM)
    [expected] = asker.answer(asker.look([part]), [Question("box", 0, alone)])
    [found] = answer(small_sam, [whole], (0, prompt))
    assert expected.rle is not None
    assert expected.box is not None
    assert found.rle is not None
    pasted = np.zeros((80, 100), bool)
    window.of(pasted)[:] = decode(expected.rle)
    assert np.array_equal(decode(found.rle), pasted)
    assert found.box == tuple((np.array(expected.box) + shift).tolist())
    assert (found.pred_iou, found.stability) == (expected.pred_iou, expected.stability)


@pytest.mark.parametrize("prompt", [LARGE, CLICK])
def test_large_boxes_and_clicks_see_the_whole_image(small_sam: Sam, prompt: Prompt) -> None:
    assert answer(small_sam, [sample(1)], (0, prompt)) == answer(
        small_sam, [sample(1)], (0, prompt), zoom=NO_ZOOM
    )


def test_an_answer_does_not_depend_on_its_neighbours(small_sam: Sam) -> None:
    asked = [(0, SMALL), (1, SMALL), (1, LARGE), (0, OTHER), (1, OTHER), (0, CLICK), (0, CLICKS), (1, CLICKS)]
    together = answer(small_sam, [sample(1), sample(2)], *asked)
    for (image, prompt), found in zip(asked, together, strict=True):
        assert [found] == answer(small_sam, [sample(image + 1)], (0, prompt))
    assert together[0] != together[1]
    shared = answer(small_sam, [sample(1), sample(2)], *asked, together=True)
    assert [mask.box for mask in shared] == [mask.box for mask in together]


def test_what_is_asked_about_is_embedded_once_and_nothing_else(
    small_sam: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[int] = []
    original = SamPredictor.embed

    def spy(
        self: SamPredictor, images: list[np.ndarray], windows: list[Window | None] | None = None
    ) -> object:
        embedded.append(len(images))
        return original(self, images, windows)

    monkeypatch.setattr(SamPredictor, "embed", spy)
    asker = Answerer(SamPredictor(small_sam), {}, None, zoom=ZOOM)
    view = asker.look([sample(1), sample(2)])
    questions = [Question(v, 1, p) for v in ("box", "point_box") for p in (SMALL, OTHER, LARGE)]
    asker.answer(view, questions)
    asker.answer(view, questions, zero_shot=True)
    assert sum(embedded) == 1 + 2  # of the second image the whole and two parts, of the first nothing


def test_what_is_learnt_from_is_what_is_answered_on() -> None:
    mask = np.zeros((80, 100), bool)
    mask[30:40, 70:86] = True
    target = Target(3, encode(mask), (70.0, 30.0, 86.0, 40.0), 160, 1, None)
    rng = np.random.default_rng(0)
    for variant, seen in (("box", True), ("plain_box", True), ("point_box", True), ("point", False)):
        window = ZOOM.window(target.prompt(variant, rng), 80, 100)
        assert target.part(variant, ZOOM) == (3, window)
        assert (window is not None) is seen


def test_with_jitter_the_part_seen_does_not_show_where_the_tight_box_is() -> None:
    mask = np.zeros((80, 100), bool)
    mask[30:40, 60:70] = True
    targets = [Target(n, encode(mask), (60.0, 30.0, 70.0, 40.0), 100, 1, None) for n in range(30)]
    rng = np.random.default_rng(0)
    parts = [target.part("box", ZOOM, jitter=0.2) for target in targets]
    assert parts == [target.part("box", ZOOM, jitter=0.2) for target in targets]
    assert len({part[1] for part in parts}) > 5
    assert {target.part("point", ZOOM, jitter=0.2)[1] for target in targets} == {None}
    boxes = np.array([targets[0].prompt("point_box", rng, jitter=0.1).box_xyxy for _ in range(400)])
    moved = (boxes - [60, 30, 70, 40]) / 10
    assert np.abs(moved.mean(0)).max() < 0.02
    assert moved.std(0) == pytest.approx([0.1] * 4, rel=0.15)
    wide = np.array([targets[0].prompt("box", rng, jitter=0.2).box_xyxy for _ in range(400)])
    assert (wide[:, :2] < wide[:, 2:]).all()
    assert wide.min() >= 0
    edge = Target(0, encode(np.ones((80, 100), bool)), (0.0, 0.0, 100.0, 80.0), 8000, 1, None)
    assert edge.prompt("box", rng, jitter=0.2).box_xyxy[2] <= 100


@pytest.mark.parametrize(
    ("points", "box", "found", "window"),
    [
        (CLICKS.points, None, (70.0, 30.0, 86.0, 40.0), Window(19, 62, 32, 32)),
        ((CLICKS.points[0], Point(60.5, 35.5, 0)), None, (70.0, 30.0, 86.0, 40.0), Window(10, 48, 51, 51)),
        (CLICKS.points, None, (10.0, 5.0, 90.0, 75.0), None),  # large enough already
        (CLICKS.points, None, None, None),  # nothing was found
        (CLICKS.points[:1], None, (70.0, 30.0, 86.0, 40.0), None),
        (CLICKS.points, (70.0, 30.0, 86.0, 40.0), (70.0, 30.0, 86.0, 40.0), None),  # was seen enlarged
    ],
)
def test_what_is_looked_at_again(
    points: tuple[Point, ...], box: Box | None, found: Box | None, window: Window | None
) -> None:
    prompt = Prompt(Origin.HUMAN, box, points)
    assert ZOOM.again(prompt, found, 80, 100) == window
    assert NO_ZOOM.again(prompt, found, 80, 100) is None


def looks(sam: Sam, monkeypatch: pytest.MonkeyPatch, *boxes: Box | None) -> tuple[list[Ask], PredictedMask]:
    """What is asked for CLICKS if the masks that come of it have these boxes, and the answer."""
    asked: list[Ask] = []
    original, found = SamPredictor.decode, iter(boxes)

    def decode(
        self: SamPredictor, head: Head, embeddings: Embeddings, asks: Sequence[Ask]
    ) -> Iterator[tuple[int, Answer]]:
        asked.extend(asks)
        return original(self, head, embeddings, asks)

    def mask(answer: Answer, upsampler: Upsampler) -> PredictedMask:
        box = next(found)
        rle = None if box is None else encode(np.ones(upsampler.size, bool))
        return PredictedMask(rle, box, answer.pred_iou, 1.0)

    monkeypatch.setattr(SamPredictor, "decode", decode)
    monkeypatch.setattr(answerer, "to_mask", mask)
    [answered] = answer(sam, [sample(1)], (0, CLICKS))
    return asked, answered


def test_several_points_are_asked_again_with_their_first_mask(
    small_sam: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = SamPredictor(small_sam)
    whole = predictor.embed([sample(1).image])
    [(_, first)] = predictor.decode(predictor.plain_head(), whole, [Ask(0, CLICKS)])
    window = Window(19, 62, 32, 32)
    part = predictor.embed([sample(1).image], [window])
    seen = reframed(first.low_res_logits, whole.frames[0], part.frames[0])
    [(_, expected)] = predictor.decode(predictor.plain_head(), part, [Ask(0, CLICKS, mask=seen)])
    (one, two), answered = looks(small_sam, monkeypatch, (70.0, 30.0, 86.0, 40.0), (71.0, 30.0, 86.0, 40.0))
    assert one.mask is None
    assert two.mask is not None
    np.testing.assert_allclose(two.mask, seen, atol=1e-5)
    assert answered.box == (71.0, 30.0, 86.0, 40.0)
    assert answered.pred_iou == pytest.approx(expected.pred_iou, abs=1e-5)
    assert answered.pred_iou != pytest.approx(first.pred_iou, abs=1e-5)


def test_a_second_look_that_finds_nothing_leaves_the_first_mask(
    small_sam: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = looks(small_sam, monkeypatch, (70.0, 30.0, 86.0, 40.0), None)
    assert len(asked) == 2
    assert answered.box == (70.0, 30.0, 86.0, 40.0)


def test_a_first_look_that_finds_nothing_is_the_last(small_sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered = looks(small_sam, monkeypatch, None)
    assert len(asked) == 1
    assert answered.rle is None


@torch.no_grad()
def test_a_mask_prompt_is_asked_as_sam_itself_asks_it(small_sam: Sam) -> None:
    predictor = SamPredictor(small_sam)
    embeddings = predictor.embed([sample(1).image])
    side = 4 * small_sam.prompt_encoder.image_embedding_size[0]
    mask = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    asks = [Ask(0, CLICKS, mask=mask), Ask(0, CLICKS)]
    answers = dict(predictor.decode(predictor.plain_head(), embeddings, asks))
    xy = embeddings.frames[0].to_input(np.array([(p.x, p.y) for p in CLICKS.points]))
    labels = torch.tensor([[p.label for p in CLICKS.points]])
    sparse, dense = small_sam.prompt_encoder(
        points=(torch.from_numpy(xy)[None], labels), boxes=None, masks=torch.from_numpy(mask)[None, None]
    )
    place = small_sam.prompt_encoder.get_dense_pe()
    logits, iou = small_sam.mask_decoder(embeddings.features, place, sparse, dense, multimask_output=False)
    np.testing.assert_allclose(answers[0].low_res_logits, logits[0, 0], atol=1e-4)
    assert answers[0].pred_iou == pytest.approx(float(iou[0, 0]), abs=1e-5)
    assert not np.allclose(answers[1].low_res_logits, logits[0, 0], atol=1e-2)


@pytest.mark.parametrize(
    ("of", "to"),
    [
        (None, Window(0, 0, 80, 100)),
        (None, Window(16, 20, 32, 32)),
        (None, Window(47, 70, 33, 30)),
        (Window(16, 20, 32, 32), None),  # most of it was not seen: as at the border
        (Window(10, 10, 40, 40), Window(20, 20, 20, 20)),
    ],
)
def test_a_mask_lies_on_the_same_pixels_of_the_image_in_another_frame(
    of: Window | None, to: Window | None
) -> None:
    """A plane over the image's own pixels is that plane in either frame."""
    first, second = (Frame(80, 100, 64, window) for window in (of, to))
    low_res = plane(*(places(first, axis) for axis in (0, 1)))
    expected = plane(*(within(places(second, axis), first, axis) for axis in (0, 1)))
    np.testing.assert_allclose(reframed(low_res, first, second), expected, atol=1e-3)


def plane(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Values (32, 32) that grow evenly."""
    return (rows[:, None] + 3 * columns[None, :]).astype(np.float32)


def within(lines: np.ndarray, frame: Frame, axis: int) -> np.ndarray:
    """The same lines, those outside of what a frame shows of the image moved to its first or last low-res line."""
    own = places(frame, axis)
    half = (own[1] - own[0]) / 2
    seen = frame.seen
    start, length = ((seen.top, seen.height), (seen.left, seen.width))[axis]
    return np.clip(lines, start + half, start + length - half)


def places(frame: Frame, axis: int) -> np.ndarray:
    """Rows or columns of the image, as numbers, at the centres of 32 lines of the square of a frame."""
    seen = frame.seen
    start, length = ((seen.top, seen.height), (seen.left, seen.width))[axis]
    return start + (np.arange(32) + 0.5) * (frame.side / 32) * length / frame.input_size[axis]


@pytest.mark.parametrize(
    ("settings", "share"),
    [({}, 0.55), ({"sam": "vit_b"}, 0.0), ({"sam": "vit_h", "zoom": 0.2}, 0.2), ({"zoom": 0}, 0.0)],
)
def test_the_tiny_sam_zooms_by_default(settings: dict[str, object], share: float) -> None:
    assert SamSettings.model_validate(settings).zoom == share
    assert ClassAwareSettings.model_validate(settings).zoom == share


@pytest.mark.parametrize("zoom", [-0.1, 0.85, "much"])
def test_a_zoom_that_cannot_be(zoom: object) -> None:
    with pytest.raises(BadInput, match=r"models\.t\.zoom"):
        check(ModelSpec(name="t", use="sam", settings={"zoom": zoom}))


def test_extent_and_size_of_a_part() -> None:
    frame = Frame(80, 100, 64, Window(10, 20, 16, 32))
    assert (frame.input_size, frame.extent) == ((32, 64), (1.0, 0.5))
    assert tuple(frame.to_input(np.array((20.0, 10.0)))) == (-0.5, -0.5)
