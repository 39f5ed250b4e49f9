"""A small box is asked on an enlarged part of its image, with the answer of that part as an image of its own."""

from dataclasses import replace

import numpy as np
import pytest
from segment_anything.modeling import Sam

from pipeline.data.errors import BadInput
from pipeline.data.masks import decode, encode
from pipeline.data.records import Box, Origin, Point, Prompt, Record, Role
from teachers.answerer import Answerer, Question
from teachers.catalog import ModelSpec, check
from teachers.protocols import Sample
from teachers.sam.masks import PredictedMask
from teachers.sam.pixels import Frame, Window
from teachers.sam.predictor import SamPredictor
from teachers.sam.zoom import Zoom
from teachers.settings import ClassAwareSettings, SamSettings
from teachers.training_set import Target

ZOOM = Zoom(share=0.5, side=64)
NO_ZOOM = Zoom(share=0.0, side=64)
SMALL = Prompt(Origin.HUMAN, (70.0, 30.0, 86.0, 40.0))  # seen in 32 x 32 pixels
OTHER = Prompt(Origin.HUMAN, (2.0, 60.0, 20.0, 79.0), (Point(10.5, 70.5),))
LARGE = Prompt(Origin.HUMAN, (10.0, 5.0, 90.0, 75.0))
CLICK = Prompt(Origin.HUMAN, points=(Point(75.5, 35.5),))


def sample(seed: int, size: tuple[int, int] = (80, 100)) -> Sample:
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return Sample(Record(seed, "a.png", "0" * 64, size[1], size[0], "train", Role.WEAK), image)


def answer(
    sam: Sam, samples: list[Sample], *asked: tuple[int, Prompt], zoom: Zoom = ZOOM, together: bool = False
) -> list[PredictedMask]:
    answerer = Answerer(SamPredictor(sam, chunk=3, share=together), {}, None, zoom=zoom)
    return answerer.answer(answerer.look(samples), [Question("box", *question) for question in asked])


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
    answerer = Answerer(SamPredictor(small_sam, chunk=1), {}, None, zoom=NO_ZOOM)
    [expected] = answerer.answer(answerer.look([part]), [Question("box", 0, alone)])
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
    asked = [(0, SMALL), (1, SMALL), (1, LARGE), (0, OTHER), (1, OTHER), (0, CLICK)]
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
    answerer = Answerer(SamPredictor(small_sam), {}, None, zoom=ZOOM)
    view = answerer.look([sample(1), sample(2)])
    questions = [Question(v, 1, p) for v in ("box", "point_box") for p in (SMALL, OTHER, LARGE)]
    answerer.answer(view, questions)
    answerer.answer(view, questions, zero_shot=True)
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
    ("settings", "share"),
    [({}, 0.35), ({"sam": "vit_b"}, 0.0), ({"sam": "vit_h", "zoom": 0.2}, 0.2), ({"zoom": 0}, 0.0)],
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
