"""What stands where: how many things, which, how large, in which order, in groups or on top of each other."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.toyworld import backgrounds, demo, palettes, pretrain_random
from pipeline.toyworld.canvas import Canvas, Placed, place
from pipeline.toyworld.dice import Dice
from pipeline.toyworld.light import Fill, draw_light, fractal
from pipeline.toyworld.shapes import Point, bar, capsule, poly, radial, smooth
from pipeline.toyworld.sketch import Builder, Sketch
from pipeline.toyworld.world import SIZE

_MAX_OBJECTS = 14
_FREE_TURN = (
    "circle",
    "square",
    "star",
    "triangle",
    "wheel",
    "gear",
    "blob",
    "shard",
    "gadget",
    "key",
    "hammer",
    "creature",
)

_STIFF = ("circle", "square")


@dataclass(frozen=True)
class Look:
    """What makes a world: builders with weights, palette, backgrounds, classes that form groups, kinds of clutter."""

    builders: Mapping[str, tuple[Builder, float]]
    palette: palettes.Palette
    backgrounds: tuple[backgrounds.Background, ...]
    groupable: tuple[str, ...]
    clutter: tuple[str, ...]


LOOKS: dict[str, Look] = {
    "demo": Look(
        demo.BUILDERS,
        palettes.DEMO,
        backgrounds.DEMO,
        ("star", "square", "triangle", "circle", "fish", "tree", "person", "hat", "boat", "door"),
        ("blob", "line", "polygon", "crumbs"),
    ),
    "pretrain": Look(
        pretrain_random.BUILDERS,
        palettes.PRETRAIN,
        backgrounds.PRETRAIN,
        ("blob", "shard", "gear", "key", "mushroom", "cup", "butterfly", "vase"),
        ("line", "crumbs"),  # blobs and polygons are classes of this world
    ),
}


def compose(world: str, dice: Dice) -> tuple[Canvas, npt.NDArray[np.bool_]]:
    """Paint a scene; returns the canvas and the (256, 256) mask of what is out of focus."""
    look = LOOKS[world]
    canvas = Canvas(dice.pick(look.backgrounds)(dice, look.palette), fractal(dice), draw_light(dice))
    composer = _Composer(look, dice, canvas)
    steps = composer.plan()
    focus = dice.weighted(("all", "near", "far"), (0.7, 0.2, 0.1)) if len(steps) > 1 else "all"
    cut, radius = dice.below(max(len(steps) - 1, 1)), dice.between(2, 4)
    for i, step in enumerate(steps):
        if focus == "near" and i == cut:
            canvas.blur_so_far(radius)
        composer.perform(step)
    depths = np.array([-1] + [n.depth for n in canvas.nodes])[canvas.owner]
    if focus == "all":
        return canvas, np.zeros((SIZE, SIZE), dtype=np.bool_)
    if focus == "near":
        return canvas, depths < composer.depth_of_step[cut]
    out = depths >= composer.depth_of_step[cut + 1]
    canvas.blur_front(out, radius)
    return canvas, out


def _count(dice: Dice) -> int:
    kind = dice.weighted(("empty", "sparse", "usual", "crowded"), (0.05, 0.34, 0.45, 0.16))
    if kind == "empty":
        return 0
    low, high = {"sparse": (1, 3), "usual": (3, 6), "crowded": (8, _MAX_OBJECTS)}[kind]
    return dice.between(low, high)


def clutter_sketch(dice: Dice, kind: str) -> Sketch:
    """Something of no class: a blob, a bent line, a random polygon, a scatter of crumbs."""
    sketch = Sketch("clutter")
    if kind == "blob":
        sketch.fill(smooth(radial(dice, n=dice.between(5, 9), low=0.35, high=1.0)), role=Sketch.MAIN)
    elif kind == "line":
        p, q, r = ((dice.uniform(-1, 1), dice.uniform(-1, 1)) for _ in range(3))
        w = dice.uniform(0.03, 0.12)
        sketch.fill(capsule(p, q, w, n=2), capsule(q, r, w, n=2), role=Sketch.MAIN)
    elif kind == "polygon":
        sketch.fill(poly(*radial(dice, n=dice.between(5, 8), low=0.25, high=1.0)), role=Sketch.MAIN)
    else:
        spots = [(dice.uniform(-1, 1), dice.uniform(-1, 1)) for _ in range(dice.between(2, 5))]
        sketch.fill(
            *[bar(p, (p[0] + 0.3, p[1] + dice.uniform(-0.3, 0.3)), 0.12) for p in spots], role=Sketch.MAIN
        )
    return sketch


class _Composer:
    """Performs the plan of one scene, step by step from the back to the front."""

    def __init__(self, look: Look, dice: Dice, canvas: Canvas) -> None:
        self.look, self.dice, self.canvas = look, dice, canvas
        self.things: list[Placed] = []
        self.depth_of_step: list[int] = []
        self._depth = 0
        self._crowd = 0

    def plan(self) -> list[tuple[str, int, float]]:
        """Steps (kind, members, size) in painting order; kind is object, group or clutter."""
        dice = self.dice
        total = self._crowd = _count(dice)
        steps: list[tuple[str, int, float]] = []
        if total >= 3 and dice.chance(0.45):
            members = dice.between(3, min(total, 6))
            steps.append(("group", members, dice.log_uniform(24, 76)))
            total -= members
        low, high = (64, 232) if self._crowd <= 3 else (40, 190) if self._crowd <= 7 else (16, 130)
        steps += [("object", 1, dice.log_uniform(low, high)) for _ in range(total)]
        steps += [("clutter", 1, dice.log_uniform(10, 90)) for _ in range(dice.between(0, 5))]
        # Mostly the large behind the small, so that little is hidden altogether.
        keys = [-size * dice.uniform(0.3, 1.0) for _, _, size in steps]
        return [steps[i] for i in sorted(range(len(steps)), key=lambda i: keys[i])]

    def perform(self, step: tuple[str, int, float]) -> None:
        """Paint one step."""
        kind, members, size = step
        self.depth_of_step.append(self._depth)
        if kind == "group":
            self._group(members, size)
        elif kind == "clutter":
            self._paint(
                clutter_sketch(self.dice, self.dice.pick(self.look.clutter)),
                self._clutter_fills(size),
                self._spot(size),
                size=size,
                level="clutter",
            )
        else:
            names = tuple(self.look.builders)
            name = self.dice.weighted(names, [self.look.builders[n][1] for n in names])
            self._single(name, size)

    def _single(self, name: str, size: float) -> None:
        dice = self.dice
        spot = self._spot(size)
        large = [t for t in self.things if t.size > 60 and t.sketch.name != "clutter"]
        if large and dice.chance(0.1):
            under = dice.pick(large)
            size, spot = max(min(size, under.size * 0.35), 12.0), under.center
        fills = palettes.draw_fills(dice, self.look.palette, size=size)
        self._paint(self.look.builders[name][0](dice), fills, spot, size=size, level="whole")

    def _group(self, members: int, size: float) -> None:
        dice = self.dice
        name = dice.pick(self.look.groupable)
        fill = palettes.draw_fill(dice, self.look.palette, tuple(self.look.palette), size=size)
        group = self.canvas.add_group(f"group of {name}", self._depth + members - 1, fill.name)
        spread = size * dice.uniform(0.85, 1.15)
        columns = members if dice.chance(0.3) and spread * members < SIZE else (members + 1) // 2
        rows = -(-members // columns)
        width, height = spread * columns, spread * rows
        x0 = dice.uniform(0, max(SIZE - width, 1.0)) + spread / 2
        y0 = dice.uniform(0, max(SIZE - height, 1.0)) + spread / 2
        for i in range(members):
            x = x0 + spread * (i % columns + dice.uniform(-0.15, 0.15))
            y = y0 + spread * (i // columns + dice.uniform(-0.15, 0.15))
            main = palettes.similar(dice, fill, size=size) if dice.chance(0.8) else None
            fills = palettes.draw_fills(dice, self.look.palette, size=size, main=main)
            sketch = self.look.builders[name][0](dice)
            self._paint(sketch, fills, (x, y), size=size * dice.uniform(0.8, 1.1), level="whole", group=group)

    def _paint(
        self, sketch: Sketch, fills: tuple[Fill, ...], spot: Point, *, size: float, level: str, group: int = 0
    ) -> None:
        turn = 3.14 if sketch.name in _FREE_TURN or self.dice.chance(0.15) else 0.6
        bend = 0.2 if sketch.name in _STIFF else 1.0
        thing = place(sketch, self.dice, fills=fills, center=spot, size=size, turn=turn, bend=bend)
        self.canvas.paint(thing, depth=self._depth, level=level, group=group)
        self.things.append(thing)
        self._depth += 1

    def _clutter_fills(self, size: float) -> tuple[Fill, ...]:
        """The colour of something that is already there, if anything is."""
        if self.things and self.dice.chance(0.6):
            return (
                palettes.similar(self.dice, self.dice.pick(self.dice.pick(self.things).fills), size=size),
            )
        return (palettes.draw_fill(self.dice, self.look.palette, tuple(self.look.palette), size=size),)

    def _spot(self, size: float) -> Point:
        """The best of a few random centres: the least crowded, or any at all in one case out of five."""
        dice = self.dice
        margin = min(size * 0.4, SIZE * 0.45)
        spots = [(dice.uniform(margin, SIZE - margin), dice.uniform(margin, SIZE - margin)) for _ in range(6)]
        if dice.chance(0.2):
            return spots[0]
        return min(spots, key=lambda spot: self._crowding(spot, size))

    def _crowding(self, spot: Point, size: float) -> float:
        total = 0.0
        for thing in self.things:
            reach = (size + thing.size) / 2
            dx, dy = abs(spot[0] - thing.center[0]), abs(spot[1] - thing.center[1])
            total += max(reach - dx, 0.0) * max(reach - dy, 0.0) / (min(size, thing.size) ** 2)
        return total
