"""From a record to a canvas: what is a target, what is ignored, how jitter and mirror move both, and the order."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from little_pictures import HEIGHT, ONTOLOGY, WIDTH, draw
from segment_anything.utils.transforms import ResizeLongestSide

from pipeline.data.errors import BadInput
from pipeline.data.masks import decode, encode
from pipeline.data.records import Instance, Source
from teachers.pool import Loader, RecordPool, write_pool
from teachers.targets import collate, labels_of, load_example
from teachers.window import (
    PADDING,
    Window,
    canvas_image,
    canvas_masks,
    fitted_window,
    random_window,
    sam_window,
)

INDEX = {class_id: i for i, class_id in enumerate(ONTOLOGY.ids)}
SQUARE = encode(np.pad(np.ones((10, 10), bool), ((50, HEIGHT - 60), (4, WIDTH - 14))))


def example_of(record, images, *, window=None, size=WIDTH, trust_weights=False):
    shown = window or fitted_window((HEIGHT, WIDTH), size)
    return load_example(
        record,
        images_root=images,
        class_index=INDEX,
        size=size,
        window=shown,
        trust_weights=trust_weights,
    )


@pytest.mark.parametrize(
    ("instance", "found", "ignored"),
    [
        (Instance(Source.TEACHER, class_id=7, rle=SQUARE, score=0.4), 1, 0),
        (Instance(Source.TEACHER, class_id=7, rle=SQUARE, dropped="score"), 0, 1),
        (Instance(Source.TEACHER, phrase="a red thing", rle=SQUARE), 0, 1),
        (Instance(Source.HUMAN, class_id=3, box_xyxy=(1.0, 2.0, 9.0, 9.0)), 0, 1),
        (Instance(Source.HUMAN, class_id=3), 0, 0),
    ],
    ids=["mask", "dropped", "phrase", "box without mask", "neither"],
)
def test_what_is_a_target_and_what_is_ignored(images, instance, found, ignored):
    record = replace(draw(1, images), instances=(instance,))
    labels = labels_of(record, INDEX)
    assert (len(labels.found), len(labels.ignored)) == (found, ignored)


def test_ignore_regions_are_what_no_target_covers(images):
    record = draw(1, images)
    disc, bar = record.instances
    box = Instance(Source.HUMAN, class_id=3, box_xyxy=(100.5, 0.0, 127.0, 20.2))
    crowd = Instance(Source.HUMAN, class_id=3, rle=SQUARE)
    record = replace(record, instances=(disc, replace(bar, dropped="area"), box), crowd=(crowd,))
    example = example_of(record, images)
    expected = decode(bar.rle) | decode(SQUARE)
    expected[0:21, 100:127] = True
    expected &= ~decode(disc.rle)
    assert np.array_equal(example.ignore[:HEIGHT], expected)
    assert not example.ignore[HEIGHT:].any()
    assert np.array_equal(example.masks[:, :HEIGHT], decode(disc.rle)[None])
    assert example.classes.tolist() == [0]


def test_mirror_and_cut_move_image_masks_and_ignore_regions_alike(images):
    record = draw(2, images)
    disc, bar = record.instances
    record = replace(record, instances=(disc, replace(bar, dropped="score")))
    window = Window((HEIGHT, WIDTH), (144, 192), top=20, left=20, height=124, width=150, mirror=True)
    example = example_of(record, images, window=window, size=150)
    red, blue = (
        (np.abs(example.pixels.astype(int) - colour).sum(2) < 60) for colour in ((220, 40, 40), (40, 60, 220))
    )
    assert example.ignore.any()
    assert example.masks[0].any()
    for seen, colour in ((example.masks[0], red), (example.ignore, blue)):
        assert (seen ^ colour).sum() < 0.1 * seen.sum()


@pytest.mark.parametrize(("trust_weights", "weights"), [(False, [1.0, 1.0]), (True, [0.5, 1.0])])
def test_a_doubted_mask_counts_less_if_that_is_wanted(images, trust_weights, weights):
    record = draw(1, images)
    disc, bar = record.instances
    record = replace(record, instances=(replace(disc, source=Source.TEACHER, pred_iou=0.5), bar))
    assert example_of(record, images, trust_weights=trust_weights).weights.tolist() == weights


def test_another_photo_than_that_of_ingest_is_refused(images):
    record = draw(2, images)
    draw(3, images)
    (images / "3.png").replace(images / "2.png")
    with pytest.raises(BadInput, match="changed since ingest"):
        example_of(record, images)


def test_targets_out_of_the_window_are_left_out(images):
    window = Window((HEIGHT, WIDTH), (HEIGHT, WIDTH), top=0, left=70, height=HEIGHT, width=58, mirror=False)
    example = example_of(draw(3, images), images, window=window)
    assert example.classes.tolist() == [1]
    assert len(example.masks) == 1


def test_padding_is_grey_and_belongs_to_nothing(images):
    example = example_of(draw(3, images), images)
    assert (example.pixels[HEIGHT:] == PADDING).all()
    assert not example.masks[:, HEIGHT:].any()


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.1, 2.0)])
def test_random_windows_stay_within_the_image(scale):
    rng = np.random.default_rng(0)
    image, mask = np.zeros((60, 90, 3), np.uint8), np.ones((60, 90), bool)
    mirrored = 0
    for _ in range(200):
        window = random_window((60, 90), size=64, scale=scale, rng=rng)
        assert scale[0] * 0.9 < max(window.scaled) / 64 < scale[1] * 1.1
        assert (window.top + window.height, window.left + window.width) <= window.scaled
        canvas = canvas_masks([mask], window, 64)[0]
        assert canvas.sum() == window.height * window.width
        assert ((canvas_image(image, window, 64)[:, :, 0] == 0) == canvas).all()
        mirrored += window.mirror
    assert 60 < mirrored < 140


def test_collate_puts_targets_one_after_the_other(images):
    empty = replace(draw(4, images), instances=())
    batch = collate([example_of(record, images) for record in (draw(5, images), empty, draw(6, images))])
    assert batch.counts == (2, 0, 2)
    assert batch.masks.shape == (4, WIDTH, WIDTH)
    assert batch.classes.tolist() == [0, 1, 0, 1]
    assert batch.ignore.shape == (3, WIDTH, WIDTH)


def pool_of(records, folder, *, filter_empty=True, progress=lambda *_: None) -> RecordPool:
    return write_pool(
        records, folder / "pool", class_index=INDEX, filter_empty=filter_empty, progress=progress
    )


def test_every_image_is_a_sign_of_life_while_the_pool_is_written(images, tmp_path):
    told = []
    records = [replace(draw(index, images), dropped="broken" if index == 2 else None) for index in (1, 2, 3)]
    pool_of(records, tmp_path, progress=lambda done, total, _note: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(("filter_empty", "ids"), [(True, [1, 3]), (False, [1, 2, 3])])
def test_pool_leaves_out_what_teaches_nothing(images, tmp_path, filter_empty, ids):
    records = [draw(index, images) for index in (1, 2, 3, 4)]
    records[1] = replace(records[1], instances=())
    records[3] = replace(records[3], dropped="unreadable")
    pool = pool_of(records, tmp_path, filter_empty=filter_empty)
    assert [pool[i].image_id for i in range(len(pool))] == ids
    assert pool[0] == records[0]


def test_pool_gives_any_record_of_many(images, tmp_path):
    first = draw(1, images)
    pool = pool_of([replace(first, image_id=i) for i in range(150)], tmp_path)
    assert [pool[i].image_id for i in (149, 0, 63, 64, 128)] == [149, 0, 63, 64, 128]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instances": ()}, "no image to learn from"),
        (
            {"instances": (Instance(Source.HUMAN, class_id=9, rle=SQUARE),)},
            "class id 9 is not in the ontology",
        ),
    ],
)
def test_data_that_teaches_nothing_or_other_classes_is_refused(images, tmp_path, change, message):
    with pytest.raises(BadInput, match=message):
        pool_of([replace(draw(1, images), **change)], tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uri": "none.png"}, "none.png"),
        ({"height": 90, "instances": ()}, "image is 128x96, its record says 128x90"),
    ],
)
def test_images_that_are_missing_or_differ_are_named(images, change, message):
    with pytest.raises(BadInput, match=message):
        example_of(replace(draw(1, images), **change), images)


def test_every_image_once_an_epoch_and_the_same_from_any_step(images, tmp_path):
    records = [draw(index, images) for index in range(1, 6)]
    pool = pool_of(records, tmp_path)
    loader = Loader(pool, images, INDEX, size=64, scale=(0.5, 1.5), batch=3, seed=4, trust_weights=False)
    drawn = [index for step in range(5) for index in loader.indices(step)]
    assert [Counter(drawn[i : i + 5]) for i in (0, 5, 10)] == [Counter(range(5))] * 3
    assert drawn[:5] != drawn[5:10]
    whole, late = list(loader.batches(0, 3, threads=2)), list(loader.batches(2, 3, threads=1))
    assert whole[2].pixels.equal(late[0].pixels)
    assert whole[2].masks.equal(late[0].masks)
    other = next(loader.batches(0, 1, threads=1)).pixels
    assert other.equal(whole[0].pixels)
    assert not next(replace(loader, seed=5).batches(0, 1, threads=1)).pixels.equal(other)


def test_an_image_looks_different_every_time(images, tmp_path):
    pool = pool_of([draw(1, images)], tmp_path)
    loader = Loader(pool, images, INDEX, size=64, scale=(0.5, 1.5), batch=2, seed=0, trust_weights=False)
    seen = [image.tobytes() for batch in loader.batches(0, 3, threads=1) for image in batch.pixels.numpy()]
    assert len(set(seen)) == 6


@pytest.mark.parametrize(
    ("source", "size", "scaled"),
    [
        ((53, 512), 256, (27, 256)),
        ((512, 57), 256, (256, 29)),
        ((100, 50), 64, (64, 32)),
        ((1, 4000), 64, (1, 64)),
    ],
)
def test_sams_window_is_rounded_as_sams_own_square(
    source: tuple[int, int], size: int, scaled: tuple[int, int]
) -> None:
    window = sam_window(source, size)
    assert (window.scaled, (window.height, window.width)) == (scaled, scaled)
    square = ResizeLongestSide(size).get_preprocess_shape(*source, size)
    assert scaled == tuple(max(1, side) for side in square)
