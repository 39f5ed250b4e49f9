"""Parts of photos around one mask, one point or one detection that is worth a look."""

from collections.abc import Mapping, Sequence
from functools import reduce

from pipeline.data import masks
from pipeline.data.records import Box, Instance, Point, Prompt
from pipeline.report.blocks import Choice, Layer, Shot
from pipeline.report.fates import SHORT, LoneBox, LonePoint, Namer
from pipeline.report.layers import PALETTE, Shape, Window, paint
from pipeline.report.pictures import Image, clicks, frame, is_small, laid_over, photo
from pipeline.report.wording import counted

MASK = "mask"
CHOICES = (Choice(MASK, "mask"), Choice("photo", "photo"))


def doubt_shot(
    uri: str, image: Image, instance: Instance, *, name: str, estimates: Mapping[str, float]
) -> Shot:
    """The part of a photo around one doubtful mask, with what is estimated of its quality by name."""
    numbers = ", ".join(f"{what} {value:.2f}" for what, value in estimates.items())
    return _mask_shot(uri, image, instance, heading=name, caption=f"{numbers}; {uri}")


def point_shot(point: LonePoint, image: Image, *, name: str) -> Shot:
    """The part of a photo around a point that took no detection's box."""
    estimate = point.instance.pred_iou
    said = "" if estimate is None else f"; predicted IoU {estimate:.2f}"
    if point.instance.rle is None:
        said = "; its mask is empty"
    meaning = (point.instance.class_id, point.instance.phrase)
    shown = [p for p in point.record.proposals if (p.class_id, p.phrase) == meaning]
    return _mask_shot(
        point.record.uri,
        image,
        point.instance,
        heading=name,
        caption=f"{SHORT[point.fate]}{said}; {point.record.uri}",
        others=shown,
    )


def box_shot(box: LoneBox, image: Image, *, namer: Namer) -> Shot:
    """The part of a photo around a detection that was not used, with the points and masks of its class."""
    prompt, record = box.prompt, box.record
    assert prompt.box_xyxy is not None
    window = Window.around(prompt.box_xyxy, *image.shape[:2])
    meaning = (prompt.class_id, prompt.phrase)
    kin = [i for i in record.instances if (i.class_id, i.phrase) == meaning]
    shapes = [Shape(window.mask(i.rle), number % len(PALETTE)) for number, i in enumerate(kin) if i.rle]
    name = namer(*meaning)
    picture = laid_over(paint(shapes, window), window, f"Masks of {name} nearby")
    points = _plain([point for instance in kin for point in instance.points])
    layer = Layer(MASK, picture, (), (frame(prompt.box_xyxy, window, used=False),), clicks(points, window))
    masked = counted(len(shapes), "mask") if shapes else "no mask"
    return Shot(
        heading=name,
        caption=f"confidence {prompt.score or 0.0:.2f}, not used; {masked} of {name} in the image; {record.uri}",
        photo=photo(window, image, record.uri),
        layers=(layer,),
        pixelated=is_small(window),
    )


def _mask_shot(
    uri: str,
    image: Image,
    instance: Instance,
    *,
    heading: str,
    caption: str,
    others: Sequence[Prompt] = (),
) -> Shot:
    rle, asked = instance.rle, instance.prompt
    window = Window.around(_extent(instance), *image.shape[:2])
    overlay = paint([Shape(window.mask(rle), 0)] if rle is not None else [], window)
    frames = [frame(p.box_xyxy, window, used=False) for p in others if p.box_xyxy is not None]
    if asked is not None and asked.box_xyxy is not None:
        frames.append(frame(asked.box_xyxy, window))
    points = clicks(_plain(asked.points if asked else ()), window)
    words = f"Pseudo-mask of {heading}" if rle is not None else f"No pseudo-mask of {heading}: it is empty"
    picture = laid_over(overlay, window, words)
    return Shot(
        heading=heading,
        caption=caption,
        photo=photo(window, image, uri),
        layers=(Layer(MASK, picture, (), tuple(frames), points),),
        pixelated=is_small(window),
    )


def _extent(instance: Instance) -> Box:
    """What a picture of the instance must hold: its mask and the box asked with, or the points where both lack."""
    asked = instance.prompt
    parts: list[Box | None] = [masks.tight_box(instance.rle)] if instance.rle is not None else []
    if asked is not None:
        parts.append(asked.box_xyxy)
    known = [box for box in parts if box is not None]
    if not known and asked is not None:
        known = [(point.x, point.y, point.x, point.y) for point in asked.points]
    return reduce(_hull, known) if known else (0.0, 0.0, 1.0, 1.0)


def _hull(one: Box, other: Box) -> Box:
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def _plain(points: Sequence[Point]) -> list[tuple[float, float, int]]:
    return [(point.x, point.y, point.label) for point in points]
