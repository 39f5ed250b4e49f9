"""The demo world's house and vehicles."""

from pipeline.toyworld.demo_parts import (
    add_door,
    add_roof,
    add_wheel,
    add_window,
    frame_outline,
    roof_outline,
    sail_outline,
)
from pipeline.toyworld.dice import Dice
from pipeline.toyworld.shapes import Point, bar, box, capsule, ellipse, hole, poly, ring, smooth
from pipeline.toyworld.sketch import Sketch

S = Sketch


def house(dice: Dice) -> Sketch:
    """A house: storeys, a roof, a door, windows, perhaps a chimney and a lower wing."""
    sketch = Sketch("house")
    half, height = dice.uniform(0.55, 1.0), dice.uniform(0.9, 1.9)
    if dice.chance(0.6):
        x = half * dice.uniform(-0.7, 0.7)
        sketch.part("chimney", box(x, -dice.uniform(0.7, 1.3), x + 0.22, 0.1), role=S.DARK)
    if dice.chance(0.55):
        side = dice.pick((-1, 1))
        far, top = side * (half + dice.uniform(0.5, 1.0)), height * dice.uniform(0.4, 0.7)
        sketch.fill(poly((0, top), (far, top), (far, height), (0, height)), role=S.MAIN)
        sketch.part(
            "porch", poly((side * half, top - 0.3), (far * 1.08, top), (side * half, top + 0.05)), role=S.DARK
        )
        add_window(
            sketch, dice, frame_outline(dice, (side * half + far) / 2, (top + height) / 2, w=0.17, h=0.17)
        )
    sketch.fill(box(-half, 0, half, height), role=S.MAIN)
    add_roof(sketch, roof_outline(dice, half, 0.08))
    w = dice.uniform(0.16, 0.24)
    x = dice.uniform(-half + w, half - w) * 0.9
    add_door(sketch, dice, box(x - w, height - dice.uniform(0.5, 0.65), x + w, height))
    for spot in (-0.5, 0.5) if dice.chance(0.7) else (dice.uniform(-0.3, 0.3),):
        add_window(sketch, dice, frame_outline(dice, spot * half, 0.34, w=0.2 * half, h=0.16))
    return sketch


def _car_body(dice: Dice) -> tuple[list[Point], tuple[float, float], float]:
    """Outline, the cabin's span and its roof height (y up is negative)."""
    kind = dice.below(4)
    roof_y = -dice.uniform(0.55, 0.85)
    hood, boot = -dice.uniform(0.1, 0.3), -dice.uniform(0.1, 0.3)
    left, right = (-0.7, 0.45)
    if kind == 1:
        left, right, boot = -0.98, 0.45, roof_y * 0.9
    elif kind == 2:
        left, right, boot = 0.0, 0.65, 0.0
    elif kind == 3:
        left, right, roof_y = -0.35, 0.35, roof_y * 0.8
    slope = dice.uniform(0.1, 0.35)
    body = [
        (-1.1, 0.3),
        (-1.1, boot),
        (left - slope * 0.3, boot),
        (left, roof_y),
        (right, roof_y),
        (right + slope, hood),
    ]
    body += [(1.1, hood * 0.6), (1.15, 0.3)]
    return body, (left, right), roof_y


def car(dice: Dice) -> Sketch:
    """A saloon, van, pickup or small car: wheels, windows, sometimes a door with a window of its own."""
    sketch = Sketch("car")
    body, (left, right), roof_y = _car_body(dice)
    if dice.chance(0.3):
        sketch.part("rack", bar((left, roof_y - 0.12), (right, roof_y - 0.12), 0.035), role=S.DARK)
        sketch.part("load", box(left + 0.1, roof_y - 0.45, (left + right) / 2, roof_y - 0.1), role=S.SECOND)
    sketch.fill(poly(*body), role=S.MAIN)
    sketch.part("bumper", box(0.95, 0.12, 1.25, 0.27), role=S.LIGHT)
    radius = dice.uniform(0.27, 0.42)
    for x in (-dice.uniform(0.6, 0.72), dice.uniform(0.58, 0.7)):
        add_wheel(sketch, dice, (x, 0.34), radius, thin=False)
    middle = (left + right) / 2
    panes = (
        [(left + 0.06, middle - 0.03), (middle + 0.03, right - 0.02)]
        if right - left > 0.72
        else [(left + 0.06, right)]
    )
    parent = 0
    if dice.chance(0.3):
        a, b = panes[-1]
        parent = add_door(
            sketch, dice, poly((a - 0.02, roof_y + 0.05), (b, roof_y + 0.05), (b + 0.1, 0.2), (a - 0.02, 0.2))
        )
    for a, b in panes:
        inside = parent if (a, b) == panes[-1] else 0
        frame = poly((a, roof_y + 0.09), (b, roof_y + 0.09), (b + 0.05, roof_y * 0.2), (a, roof_y * 0.2))
        add_window(sketch, dice, frame, parent=inside)
    sketch.part("lamp", ellipse(1.05, -0.02, 0.09, 0.07, n=10), role=S.LIGHT)
    return sketch


def boat(dice: Dice) -> Sketch:
    """A boat: hull, mast, one or two sails, sometimes a cabin with a window."""
    sketch = Sketch("boat")
    bow, depth = dice.uniform(0.9, 1.4), dice.uniform(0.3, 0.5)
    sketch.part("mast", bar((0, -2.0), (0, 0.1), 0.045), role=S.DARK)
    if dice.chance(0.5):
        sketch.part("pennant", poly((0, -2.0), (0.45, -1.85), (0, -1.7)), role=S.FOURTH)
    sides = (-1, 1) if dice.chance(0.55) else (dice.pick((-1, 1)),)
    for side in sides:
        outline = sail_outline(dice, side)
        part = sketch.part("sail", outline, role=S.LIGHT)
        sketch.part("stripe", bar((side * 0.12, -0.8), (side * 0.4, -0.55), 0.06), role=S.SECOND, parent=part)
    if dice.chance(0.4):
        cabin = sketch.part("cabin", box(-0.8, -0.35, -0.2, 0.1), role=S.SECOND)
        add_window(sketch, dice, ellipse(-0.5, -0.13, 0.15, n=14), parent=cabin)
    keel = [(-0.95, 0.0), (0.3, 0.06), (bow, -0.15), (bow * 0.6, depth), (-0.75, depth)]
    sketch.fill(poly(*keel) if dice.chance(0.5) else smooth(keel, per_side=3), role=S.MAIN)
    sketch.part("band", bar((-0.75, 0.14), (bow * 0.6, 0.12), 0.04), role=S.SECOND)
    return sketch


def bicycle(dice: Dice) -> Sketch:
    """A bicycle: two spoked wheels, a frame, a saddle and a handlebar."""
    sketch = Sketch("bicycle")
    radius, tube = dice.uniform(0.5, 0.68), dice.uniform(0.045, 0.08)
    back, front = (-0.8, 0.0), (0.85, 0.0)
    for center in (back, front):
        add_wheel(sketch, dice, center, radius, thin=True)
    pedal, seat, head = (-0.1, 0.08), (-0.3, -0.75), (0.55, -dice.uniform(0.65, 0.85))
    joints = ((back, pedal), (back, seat), (seat, pedal), (seat, head), (pedal, head), (head, front))
    sketch.fill(*[capsule(p, q, tube, n=2) for p, q in joints], role=S.MAIN)
    rise = dice.uniform(0.15, 0.4)
    sketch.part(
        "handlebar",
        capsule(head, (head[0] - 0.05, head[1] - rise), tube, n=2),
        capsule((head[0] - 0.05, head[1] - rise), (head[0] + 0.3, head[1] - rise * 0.8), tube, n=2),
        role=S.DARK,
    )
    sketch.part("saddle", capsule((-0.55, -0.87), (-0.12, -0.85), 0.1, 0.04, n=3), role=S.SECOND)
    sketch.part(
        "pedal", *ring(*pedal, 0.17, 0.09, n=12), bar((pedal[0], pedal[1]), (0.0, 0.4), 0.05), role=S.LIGHT
    )
    if dice.chance(0.4):
        basket = [
            box(0.6, -1.0, 1.1, -0.6),
            hole(box(0.68, -0.92, 0.8, -0.72)),
            hole(box(0.9, -0.92, 1.02, -0.72)),
        ]
        sketch.part("basket", *basket, role=S.THIRD)
    return sketch
