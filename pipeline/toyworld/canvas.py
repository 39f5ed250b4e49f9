"""The picture while it is painted from back to front, and who owns each of its pixels."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.toyworld.dice import Dice
from pipeline.toyworld.light import Fill, Light, Pixels, blurred, shade
from pipeline.toyworld.raster import rasterise
from pipeline.toyworld.shapes import Contour, Point
from pipeline.toyworld.sketch import Piece, Sketch
from pipeline.toyworld.world import SIZE


@dataclass(frozen=True)
class Placed:
    """A sketch in pixels of the scene: its pieces moved, its fills, its centre and longest side."""

    sketch: Sketch
    pieces: tuple[Piece, ...]
    fills: tuple[Fill, ...]
    center: Point
    size: float


@dataclass(frozen=True)
class Owned:
    """A node of the scene: `id` from 1, `parent` and `top` are ids (parent 0: none), depth 0 is the farthest."""

    id: int
    name: str
    level: str
    parent: int
    top: int
    depth: int
    color: str


def place(
    sketch: Sketch,
    dice: Dice,
    *,
    fills: tuple[Fill, ...],
    center: Point,
    size: float,
    turn: float,
    bend: float,
) -> Placed:
    """Turn by a random angle up to `turn` (radians), stretch, skew, mirror, scale to `size` pixels and move.

    `bend` 1 stretches by up to a quarter and skews by up to a fifth, 0 not at all.
    """
    a, aspect, skew = (
        dice.uniform(-turn, turn),
        1 + bend * dice.uniform(-0.2, 0.25),
        bend * dice.uniform(-0.2, 0.2),
    )
    flip = dice.pick((-1.0, 1.0))
    c, s = math.cos(a), math.sin(a)
    points = np.concatenate([contour for piece in sketch.pieces for contour in piece.contours])
    x, y = points[:, 0] * (flip * aspect), points[:, 1]
    x = x + skew * y
    moved = np.stack([x * c - y * s, x * s + y * c], axis=1)
    low, high = moved.min(axis=0), moved.max(axis=0)
    moved = (moved - (low + high) / 2) * (size / float((high - low).max())) + np.array(center)
    pieces, at = [], 0
    for piece in sketch.pieces:
        contours: list[Contour] = []
        for contour in piece.contours:
            part = moved[at : at + len(contour)]
            contours.append(part if flip > 0 else part[::-1])
            at += len(contour)
        pieces.append(Piece(piece.node, tuple(contours), piece.role))
    return Placed(sketch, tuple(pieces), fills, center, size)


class Canvas:
    """Image, owner of every pixel (0: background), cast shadows, and how many pixels each object hid of another."""

    def __init__(self, background: Pixels, noise: Pixels, light: Light) -> None:
        self.image = np.ascontiguousarray(background, dtype=np.float32)
        self.noise, self.light = noise, light
        self.owner = np.zeros((SIZE, SIZE), dtype=np.int32)
        self.shadow = np.zeros((SIZE, SIZE), dtype=np.bool_)
        self.nodes: list[Owned] = []
        self.silhouette: dict[int, int] = {}
        self.hidden: Counter[tuple[int, int]] = Counter()

    def add_group(self, name: str, depth: int, color: str) -> int:
        """Register a group; objects painted with its id as parent are its members."""
        node = len(self.nodes) + 1
        self.nodes.append(Owned(node, name, "group", 0, node, depth, color))
        return node

    def paint(self, thing: Placed, *, depth: int, level: str, group: int = 0) -> int:
        """Cast the thing's shadow, then paint its pieces over everything; returns the id of its whole."""
        top = len(self.nodes) + 1
        for i, node in enumerate(thing.sketch.nodes):
            parent = group if i == 0 else top + node.parent
            kind, color = (
                (level, thing.fills[node.role].name) if i == 0 else ("part", thing.fills[node.role].name)
            )
            self.nodes.append(Owned(top + i, node.name, kind, parent, top, depth, color))
        self._cast(thing)
        before = self.owner.copy()
        for piece in thing.pieces:
            self._fill(piece, thing, top + piece.node)
        self._count(before, top)
        return top

    def _cast(self, thing: Placed) -> None:
        light = self.light
        if light.shadow == "none":
            return
        contours = [contour for piece in thing.pieces for contour in piece.contours]
        if light.shadow == "drop":
            by = thing.size * light.reach
            contours = [c - np.array([light.toward[0] * by, light.toward[1] * by]) for c in contours]
        else:
            foot = max(float(c[:, 1].max()) for c in contours)
            contours = [_lying(c, foot, light) for c in contours]
        patch = rasterise(contours)
        if patch is not None:
            self.image[patch.crop] *= np.float32(1) - patch.alpha[..., None] * np.float32(light.darkness)
            self.shadow[patch.crop] |= patch.inside

    def _fill(self, piece: Piece, thing: Placed, node: int) -> None:
        patch = rasterise(piece.contours)
        if patch is None:
            return
        paint = thing.fills[piece.role].pixels(patch.crop, self.noise)
        paint = paint * shade(patch.crop, self.light, thing.center, thing.size)
        under = self.image[patch.crop]
        under += (paint - under) * patch.alpha[..., None]
        inside = patch.inside
        self.owner[patch.crop][inside] = node
        self.shadow[patch.crop][inside] = False

    def _count(self, before: npt.NDArray[np.int32], top: int) -> None:
        mine = self.owner >= top
        self.silhouette[top] = int(np.count_nonzero(mine))
        tops = np.array([0] + [n.top for n in self.nodes])
        for other, pixels in enumerate(np.bincount(tops[before[mine]])):
            if other and pixels:
                self.hidden[top, other] = int(pixels)

    def blur_so_far(self, radius: int) -> None:
        """Put everything painted until now out of focus."""
        self.image = blurred(self.image, radius)

    def blur_front(self, near: npt.NDArray[np.bool_], radius: int) -> None:
        """Put the pixels `near` out of focus; their light spills over the sharp ones beside them."""
        spread = blurred(near.astype(np.float32) * np.float32(255), radius) / np.float32(255)
        self.image += (blurred(self.image, radius) - self.image) * spread[..., None]


def _lying(contour: Contour, foot: float, light: Light) -> Contour:
    """The contour laid down on the ground it stands on, seen from where the light is."""
    rise = foot - contour[:, 1]
    laid = np.stack([contour[:, 0] + light.reach * rise, foot - light.squash * rise], axis=1)
    return laid if light.squash > 0 else laid[::-1]
