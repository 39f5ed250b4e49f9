"""The demo world's parts that are classes of their own: added to a whole, or standing alone."""

import math

from pipeline.toyworld.dice import Dice
from pipeline.toyworld.shapes import Contour, Point, arc, bar, box, ellipse, poly, ring
from pipeline.toyworld.sketch import Sketch

S = Sketch


def add_wheel(
    sketch: Sketch, dice: Dice, center: Point, radius: float, *, thin: bool, node: int | None = None
) -> None:
    """A wheel: thin (a rim with spokes and air between) or thick (a tyre round a hub). node: draw it as that one."""
    wheel = sketch.part("wheel", role=S.DARK) if node is None else node
    cx, cy = center
    if thin:
        spokes, phase = dice.between(4, 7), dice.angle()
        rim = ring(cx, cy, radius, radius * dice.uniform(0.76, 0.86))
        lines = [
            bar((cx, cy), (cx + radius * 0.9 * math.cos(a), cy + radius * 0.9 * math.sin(a)), radius * 0.05)
            for a in (phase + i * 2 * math.pi / spokes for i in range(spokes))
        ]
        sketch.fill(*rim, *lines, role=S.DARK, node=wheel)
        sketch.part("hub", ellipse(cx, cy, radius * 0.16, n=10), role=S.LIGHT, parent=wheel)
        return
    sketch.fill(ellipse(cx, cy, radius), role=S.DARK, node=wheel)
    hub = sketch.part(
        "hub", ellipse(cx, cy, radius * dice.uniform(0.45, 0.66), n=20), role=S.LIGHT, parent=wheel
    )
    holes, phase = dice.between(3, 6), dice.angle()
    dots = [
        ellipse(cx + radius * 0.33 * math.cos(a), cy + radius * 0.33 * math.sin(a), radius * 0.09, n=8)
        for a in (phase + i * 2 * math.pi / holes for i in range(holes))
    ]
    sketch.fill(*dots, role=S.DARK, node=hub)


def add_window(
    sketch: Sketch, dice: Dice, frame: Contour, *, parent: int = 0, node: int | None = None
) -> None:
    """A window: a frame, panes inside it, sometimes a bar across."""
    low, high = frame.min(axis=0), frame.max(axis=0)
    x, y = float(low[0] + high[0]) / 2, float(low[1] + high[1]) / 2
    window = sketch.part("window", role=S.THIRD, parent=parent) if node is None else node
    sketch.fill(frame, role=S.THIRD, node=window)
    panes = [(frame - (x, y)) * 0.8 + (x, y)]
    sketch.part("glass", *panes, role=S.FOURTH, parent=window)
    half = float(high[0] - low[0]) * 0.05
    if dice.chance(0.6):
        sketch.fill(bar((x, float(low[1])), (x, float(high[1])), half), role=S.THIRD, node=window)
    if dice.chance(0.5):
        sketch.fill(bar((float(low[0]), y), (float(high[0]), y), half), role=S.THIRD, node=window)


def frame_outline(dice: Dice, x: float, y: float, *, w: float, h: float) -> Contour:
    """A rectangle, an arch or a skewed pane of half-width w and half-height h about (x, y)."""
    kind = dice.below(3)
    if kind == 0:
        return box(x - w, y - h, x + w, y + h)
    if kind == 1:
        return poly(
            (x - w, y + h), *arc((x, y - h * 0.2), (w, h), start=-math.pi, stop=0.01, n=9), (x + w, y + h)
        )
    lean = dice.uniform(-0.4, 0.4) * w
    return poly((x - w + lean, y - h), (x + w + lean * 0.4, y - h), (x + w, y + h), (x - w, y + h))


def window(dice: Dice) -> Sketch:
    """A window of its own: rectangular, arched, skewed, or a row of two."""
    sketch = Sketch("window")
    add_window(
        sketch, dice, frame_outline(dice, 0, 0, w=dice.uniform(0.4, 0.9), h=dice.uniform(0.5, 1)), node=0
    )
    sill = dice.uniform(1.0, 1.3)
    sketch.part("sill", box(-sill, 0.9, sill, 1.15), role=S.SECOND)
    return sketch


def wheel(dice: Dice) -> Sketch:
    """A wheel of its own, with a stub of its axle."""
    sketch = Sketch("wheel")
    if dice.chance(0.6):
        sketch.part(
            "axle", bar((0, 0), (dice.uniform(1.1, 2.0), dice.uniform(-0.4, 0.4)), 0.13), role=S.SECOND
        )
    add_wheel(sketch, dice, (0, 0), 1.0, thin=dice.chance(0.5), node=0)
    return sketch


def add_door(sketch: Sketch, dice: Dice, corners: Contour, *, node: int | None = None) -> int:
    """A door leaf with a panel and a knob."""
    door = sketch.part("door", role=S.SECOND) if node is None else node
    sketch.fill(corners, role=S.SECOND, node=door)
    low, high = corners.min(axis=0), corners.max(axis=0)
    w, h = float(high[0] - low[0]), float(high[1] - low[1])
    x, y = float(low[0]), float(low[1])
    for top in (0.12, 0.55):
        sketch.fill(
            box(x + 0.2 * w, y + top * h, x + 0.8 * w, y + (top + 0.32) * h), role=S.FOURTH, node=door
        )
    side = 0.12 if dice.chance(0.5) else 0.88
    sketch.part("knob", ellipse(x + side * w, y + 0.52 * h, 0.07 * w, n=8), role=S.LIGHT, parent=door)
    return door


def door(dice: Dice) -> Sketch:
    """A door of its own, square or arched, with a step."""
    sketch = Sketch("door")
    w = dice.uniform(0.4, 0.6)
    top: list[Point] = [(-w, -1), (w, -1)]
    if dice.chance(0.5):
        top = arc((0, -0.8), (w, 0.5), start=-math.pi, stop=0.01, n=9)
    add_door(sketch, dice, poly((-w, 1), *top, (w, 1)), node=0)
    sketch.part("step", box(-w * 1.5, 0.95, w * 1.5, 1.2), role=S.DARK)
    return sketch


def roof_outline(dice: Dice, half: float, y: float) -> Contour:
    """A gable, hip, tent or saw-tooth roof over walls of the given half-width whose top is at y."""
    eave, height = half * dice.uniform(1.1, 1.35), dice.uniform(0.45, 1.1)
    kind = dice.below(4)
    if kind == 0:
        return poly((-eave, y), (dice.uniform(-0.4, 0.4) * half, y - height), (eave, y))
    if kind == 1:
        top = eave * dice.uniform(0.3, 0.7)
        return poly((-eave, y), (-top, y - height * 0.8), (top, y - height * 0.8), (eave, y))
    if kind == 2:
        return poly(
            (-eave, y),
            (-eave * 0.4, y - height * 0.45),
            (0, y - height * 1.3),
            (eave * 0.4, y - height * 0.45),
            (eave, y),
        )
    return poly(
        (-eave, y),
        (-eave, y - height),
        (0, y - height * 0.45),
        (0, y - height),
        (eave, y - height * 0.45),
        (eave, y),
    )


def add_roof(sketch: Sketch, outline: Contour, *, node: int | None = None) -> None:
    """A roof with a row of tiles along its foot."""
    roof = sketch.part("roof", role=S.SECOND) if node is None else node
    sketch.fill(outline, role=S.SECOND if node is None else S.MAIN, node=roof)
    low, high = outline.min(axis=0), outline.max(axis=0)
    y = float(high[1])
    sketch.part("eave", box(float(low[0]), y - 0.1, float(high[0]), y), role=S.DARK, parent=roof)


def roof(dice: Dice) -> Sketch:
    """A roof of its own on two posts or none."""
    sketch = Sketch("roof")
    if dice.chance(0.6):
        x, length = dice.uniform(0.5, 0.8), dice.uniform(0.4, 1.0)
        sketch.part(
            "post", box(-x - 0.06, 0, -x + 0.06, length), box(x - 0.06, 0, x + 0.06, length), role=S.THIRD
        )
    add_roof(sketch, roof_outline(dice, 0.9, 0.05), node=0)
    return sketch


def sail_outline(dice: Dice, side: int) -> Contour:
    """A sail on the side (-1 or 1) of a mast at x = 0."""
    foot, top, belly = side * dice.uniform(0.6, 1.0), -dice.uniform(1.2, 1.9), side * dice.uniform(0.0, 0.3)
    return poly((side * 0.07, top), (foot * 0.6 + belly, top * 0.45), (foot, -0.12), (side * 0.07, -0.2))


def sail(dice: Dice) -> Sketch:
    """A sail of its own with its spar and stripes."""
    sketch = Sketch("sail")
    outline = sail_outline(dice, 1)
    sketch.part("spar", bar((0.05, -2.0), (0.05, 0.1), 0.05), role=S.DARK)
    sketch.fill(outline, role=S.MAIN)
    low = outline.max(axis=0)
    sketch.part("patch", ellipse(float(low[0]) * 0.4, -0.55, 0.15, n=12), role=S.SECOND)
    return sketch
