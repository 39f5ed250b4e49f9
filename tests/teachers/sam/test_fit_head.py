"""The batches and the loss that a head is fitted by: parts, windows, moved boxes, clicks, rates."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from segment_anything.modeling import Sam
from tuning_cases import (
    NO_ZOOM,
    SETTINGS,
    Run,
    Tuned,
    equal,
    reserved_after,
    scene,
)

from pipeline.data.masks import decode, encode
from pipeline.data.records import (
    Instance,
    Origin,
    Prompt,
    Record,
    Role,
    Source,
)
from teachers.embedding_cache import EmbeddingCache
from teachers.fit_head import Bench, HeadTask, batch_loss, batch_targets
from teachers.sam.predictor import Ask, Embeddings, Head, SamPredictor
from teachers.sam.zoom import Part, Zoom
from teachers.settings import ClassAwareSettings
from teachers.training_set import collect


@pytest.mark.parametrize("zoom", [0.0, 0.4])
def test_moved_boxes_teach_something_else(
    run_tune: Callable[..., Tuned], tmp_path: Path, zoom: float
) -> None:
    records = reserved_after(3, tmp_path)
    heads = []
    for jitter in (0.0, 0.2):
        settings = SETTINGS.model_copy(update={"box_jitter": jitter, "zoom": zoom})
        heads.append(
            run_tune(records, Run(tmp_path / str(jitter)).context("out", root=tmp_path), settings)[1]
        )
    assert not any(
        torch.equal(heads[0][variant][name], heads[1][variant][name])
        for variant in ("box", "point_box")
        for name in heads[0][variant]
        if name.endswith("output_upscaling.0.weight")
    )
    assert equal({"point": heads[0]["point"]}, {"point": heads[1]["point"]})  # a point has no box to move


@pytest.mark.parametrize(
    "settings", [{"box_jitter": 0.1, "zoom": 0.6}, {"box_jitter": 0.2, "zoom": 0.45}, {"box_jitter": 0.3}]
)
def test_boxes_are_not_moved_out_of_sight(settings: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=r"zoom of at most 0\.(57|40),|less than or equal to 0\.2"):
        ClassAwareSettings.model_validate(settings)


def test_the_learning_rate_drops_once(
    run_tune: Callable[..., Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *args: None) -> object:
        rates.append(self.param_groups[0]["lr"])
        assert self.param_groups[0]["weight_decay"] == 0.05
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    run_tune(reserved_after(2, tmp_path), Run(tmp_path).context("out"))
    assert rates == pytest.approx(([1e-3] * 6 + [1e-4] * 2) * 4)


def test_boxes_are_learnt_on_their_windows_and_points_on_the_whole_image(
    run_tune: Callable[..., Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[bool, set[Part]] = {True: set(), False: set()}
    forward = SamPredictor.forward

    def spy(self: SamPredictor, head: Head, embeddings: Embeddings, asks: list[Ask]) -> object:
        for ask in asks:
            seen = embeddings.frames[ask.image].window
            asked[ask.prompt.box_xyxy is not None].add((0, seen))
            if ask.prompt.box_xyxy is not None:
                assert seen == Zoom(0.6, 64).window(ask.prompt, 48, 64)
        return forward(self, head, embeddings, asks)

    monkeypatch.setattr(SamPredictor, "forward", spy)
    settings = ClassAwareSettings(**{**SETTINGS.model_dump(), "zoom": 0.6})
    run_tune(reserved_after(3, tmp_path), Run(tmp_path).context("out"), settings)
    assert asked[False] == {(0, None)}
    assert len(asked[True]) > 3
    assert (0, None) not in asked[True]


def test_the_cache_has_what_it_was_made_for(make_sam: Callable[[int], Sam]) -> None:
    cache = EmbeddingCache(SamPredictor(make_sam(0)), (), (), dtype="float32", limit_bytes=0)
    with pytest.raises(KeyError):
        cache.gather([(0, None)])


def photo_record(pixels: np.ndarray, mask: np.ndarray, root: Path) -> Record:
    path = root / f"{len(list(root.glob('*.png')))}.png"
    Image.fromarray(pixels).save(path)
    height, width = mask.shape
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    made = Instance(Source.HUMAN, 3, rle=encode(mask))
    return Record(1, path.name, digest, width, height, "train", Role.HUMAN_MASKED, instances=(made,))


@pytest.mark.parametrize("corner", [(30, 12), (3, 30)])
def test_the_loss_of_a_part_is_that_of_the_part_as_an_image_of_its_own(
    make_sam: Callable[[int], Sam], tmp_path: Path, corner: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    pixels, mask = rng.integers(0, 256, (48, 64, 3), np.uint8), np.zeros((48, 64), bool)
    x, y = corner
    mask[y : y + 6, x : x + 8] = rng.random((6, 8)) < 0.7
    mask[y, x] = mask[y + 5, x + 7] = True
    zoom, predictor = Zoom(0.5, 64), SamPredictor(make_sam(0))
    window = zoom.window(Prompt(Origin.HUMAN, (x, y, x + 8, y + 6)), 48, 64)
    assert window is not None
    losses = []
    for record, own_zoom in (
        (photo_record(pixels, mask, tmp_path), zoom),
        (photo_record(np.ascontiguousarray(window.of(pixels)), window.of(mask), tmp_path), NO_ZOOM),
    ):
        training = collect([record])
        parts = [target.part("box", own_zoom) for target in training.targets]
        cache = EmbeddingCache(predictor, training.images, parts, dtype="float32", limit_bytes=0)
        cache.build(
            replace(Run(tmp_path / record.uri[0]).context("out"), images_root=tmp_path), lambda *_: None
        )
        bench = Bench(predictor, cache, None, SETTINGS, 0, own_zoom)
        task = HeadTask("box", "box", predictor.plain_head(), training.targets, bench)
        losses.append(float(batch_loss(task, 0).detach()))
    assert losses[0] == losses[1] > 0


def test_every_pass_shows_every_target_once(make_sam: Callable[[int], Sam], tmp_path: Path) -> None:
    training = collect([scene(i, tmp_path) for i in range(4)])
    predictor = SamPredictor(make_sam(0))
    bench = Bench(
        predictor,
        EmbeddingCache(predictor, (), (), dtype="float32", limit_bytes=0),
        None,
        SETTINGS,
        0,
        NO_ZOOM,
    )
    task = HeadTask("box", "box", predictor.plain_head(), training.targets, bench)
    shown = [target for step in range(8) for target in batch_targets(task, step)]  # 24: three passes over 8
    for start in (0, 8, 16):
        assert set(shown[start : start + 8]) == set(training.targets)
    assert shown[:8] != shown[8:16]


def test_the_clicked_pixel_is_anywhere_on_the_mask_and_drawn_anew(tmp_path: Path) -> None:
    target = collect([scene(0, tmp_path)]).targets[0]
    mask = decode(target.rle)
    rng = np.random.default_rng(0)
    clicks = [target.prompt("point_box", rng) for _ in range(600)]
    assert {click.box_xyxy for click in clicks} == {target.box}
    seen = np.zeros_like(mask)
    for click in clicks:
        [point] = click.points
        assert (point.x % 1, point.y % 1, point.label) == (0.5, 0.5, 1)
        seen[int(point.y), int(point.x)] = True
    assert not (seen & ~mask).any()
    assert seen.sum() > 0.8 * mask.sum()
    assert target.prompt("box", rng).points == ()
    assert target.prompt("point", rng).box_xyxy is None
