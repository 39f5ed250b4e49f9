"""One scene: rendered from (world, seed, index) alone, with everything that is known about its objects."""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.toyworld import light
from pipeline.toyworld.canvas import Canvas, Owned
from pipeline.toyworld.composer import compose
from pipeline.toyworld.dice import Dice
from pipeline.toyworld.relations import Relation, relations
from pipeline.toyworld.world import classes

Mask = npt.NDArray[np.bool_]

SMALL, LARGE = 32 * 32, 96 * 96


@dataclass(frozen=True)
class ToyObject:
    """A whole, a part, a group or a piece of clutter, with its visible pixels.

    `mask` is (256, 256) bool; a whole's holds its visible parts, a group's its members. `box_xyxy` is the tight box
    of the mask in pixels, pixel i covers [i, i+1). `class_id` is None for clutter, groups and parts without a class.
    `depth` 0 is the farthest; parts have their whole's, a group its nearest member's. `level` is whole, part, group or
    clutter; `size` is small (under 32 x 32 visible pixels), medium or large (96 x 96 and more).
    """

    object_id: int
    class_id: int | None
    name: str
    level: str
    parent_id: int | None
    mask: Mask
    box_xyxy: tuple[float, float, float, float]
    depth: int
    color: str
    size: str


@dataclass(frozen=True)
class Scene:
    """An image as decoded from its JPEG file, its objects, and the (256, 256) masks of shadows and defocus."""

    image_id: str
    image: npt.NDArray[np.uint8]
    jpeg: bytes
    objects: tuple[ToyObject, ...]
    shadow: Mask
    defocus: Mask
    relations: tuple[Relation, ...]


def render(world: str, seed: int, index: int) -> Scene:
    """The scene of the arguments: the same bytes in any process and any order.

    Raises ValueError for an unknown world or a negative seed or index.
    """
    class_ids = {c.name: c.id for c in classes(world)}
    if seed < 0 or index < 0:
        raise ValueError(f"toyworld: seed and index must be 0 or more, got seed {seed}, index {index}")
    salt = int.from_bytes(hashlib.sha256(world.encode()).digest()[:4], "big")
    dice = Dice((salt, seed, index))
    canvas, defocus = compose(world, dice)
    jpeg = light.compress(light.finish(canvas.image, dice, canvas.light.toward), dice)
    image = np.array(Image.open(io.BytesIO(jpeg)).convert("RGB"))
    objects = _objects(canvas, class_ids)
    links = relations(objects, canvas.hidden, canvas.silhouette)
    return Scene(f"{world}-{seed}-{index:07d}", image, jpeg, objects, canvas.shadow, defocus, links)


def _objects(canvas: Canvas, class_ids: dict[str, int]) -> tuple[ToyObject, ...]:
    """Every node that is seen at all; a node's pixels are its own and its descendants'."""
    within = np.zeros((len(canvas.nodes) + 1, len(canvas.nodes) + 1), dtype=np.bool_)
    for node in canvas.nodes:
        within[:, node.id] = within[:, node.parent] if node.parent else False
        within[node.id, node.id] = True
    out = []
    for node in canvas.nodes:
        mask = within[node.id][canvas.owner]
        box = tight_box(mask)
        if box is not None:
            out.append(_object(node, mask, box, class_ids))
    return tuple(out)


def _object(
    node: Owned, mask: Mask, box: tuple[float, float, float, float], class_ids: dict[str, int]
) -> ToyObject:
    area = int(np.count_nonzero(mask))
    return ToyObject(
        object_id=node.id,
        class_id=class_ids.get(node.name),
        name=node.name,
        level=node.level,
        parent_id=node.parent or None,
        mask=mask,
        box_xyxy=box,
        depth=node.depth,
        color=node.color,
        size="small" if area < SMALL else "large" if area >= LARGE else "medium",
    )


def tight_box(mask: Mask) -> tuple[float, float, float, float] | None:
    """The smallest box (x0, y0, x1, y1) that holds the mask; None if it is empty."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
