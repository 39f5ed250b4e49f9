"""The pretrain world's objects: another vocabulary than the demo's, and shapes grown at random."""

import math

from pipeline.toyworld.dice import Dice
from pipeline.toyworld.shapes import (
    Contour,
    Point,
    arc,
    bar,
    box,
    capsule,
    ellipse,
    hole,
    mirrored,
    poly,
    ring,
    smooth,
    star,
)
from pipeline.toyworld.sketch import Sketch

S = Sketch


def _ear(dice: Dice, center: Point, size: float, thick: float) -> list[Contour]:
    """A loop handle: an ellipse with a hole."""
    tall = dice.uniform(0.9, 1.4)
    x, y = center
    return [ellipse(x, y, size, size * tall), hole(ellipse(x, y, size - thick, size * tall - thick))]


def vase(dice: Dice) -> Sketch:
    """A vase: a lathe profile with bands and perhaps two handles."""
    sketch = Sketch("vase")
    widths = [
        dice.uniform(0.15, 0.5),
        dice.uniform(0.12, 0.35),
        dice.uniform(0.3, 0.8),
        dice.uniform(0.3, 0.8),
        dice.uniform(0.15, 0.5),
    ]
    heights = [-1.0, -0.6, -0.15, 0.4, 1.0]
    for side in (-1, 1) if dice.chance(0.5) else ():
        sketch.part("handle", *_ear(dice, (side * (widths[1] + 0.22), -0.35), 0.32, 0.1), role=S.SECOND)
    profile = [(w, h) for w, h in zip(widths, heights, strict=True)]
    sketch.fill(mirrored(profile), role=S.MAIN)
    low = dice.between(2, 3)
    a, b = widths[low] * 0.95, heights[low]
    sketch.part("stripe", box(-a, b - 0.07, a, b + 0.07), role=S.THIRD)
    sketch.part("rim", box(-widths[0] * 1.15, -1.08, widths[0] * 1.15, -0.95), role=S.FOURTH)
    return sketch


def lamp(dice: Dice) -> Sketch:
    """A lamp: a foot, a bent pole and a shade."""
    sketch = Sketch("lamp")
    elbow, top = (dice.uniform(-0.5, 0.5), 0.1), (dice.uniform(-0.4, 0.4), -0.6)
    sketch.part("pole", capsule((0, 1), elbow, 0.05, n=2), capsule(elbow, top, 0.05, n=2), role=S.DARK)
    sketch.part(
        "foot", capsule((-dice.uniform(0.25, 0.5), 1), (dice.uniform(0.25, 0.5), 1), 0.08, n=3), role=S.SECOND
    )
    wide, slim, x, y = dice.uniform(0.4, 0.75), dice.uniform(0.1, 0.35), *top
    sketch.part("bulb", ellipse(x, y + 0.28, 0.13, n=12), role=S.LIGHT)
    cap = sketch.part(
        "cap",
        poly((x - wide, y + 0.25), (x - slim, y - 0.4), (x + slim, y - 0.4), (x + wide, y + 0.25)),
        role=S.MAIN,
    )
    sketch.part(
        "hem", bar((x - wide * 0.95, y + 0.2), (x + wide * 0.95, y + 0.2), 0.05), role=S.THIRD, parent=cap
    )
    return sketch


def rocket(dice: Dice) -> Sketch:
    """A rocket: a slim body with fins, portholes and a flame."""
    sketch = Sketch("rocket")
    w = dice.uniform(0.2, 0.36)
    if dice.chance(0.6):
        sketch.part(
            "flame", poly((-w * 0.7, 0.8), (0, dice.uniform(1.2, 1.7)), (w * 0.7, 0.8)), role=S.FOURTH
        )
    reach, sweep = dice.uniform(0.3, 0.7), dice.uniform(0.0, 0.4)
    for side in (-1, 1):
        sketch.part(
            "fin",
            poly(
                (side * w * 0.8, 0.2),
                (side * (w + reach), 0.7 + sweep),
                (side * (w + reach), 1.0 + sweep),
                (side * w * 0.6, 0.85),
            ),
            role=S.SECOND,
        )
    sketch.fill(mirrored([(0.02, -1.2), (w * 0.8, -0.6), (w, 0.0), (w * 0.75, 0.85)]), role=S.MAIN)
    sketch.part("nose", poly((0, -1.2), (w * 0.8, -0.6), (-w * 0.8, -0.6)), role=S.THIRD)
    for i in range(dice.between(1, 3)):
        port = sketch.part("port", ellipse(0, -0.3 + 0.35 * i, w * 0.5, n=14), role=S.DARK)
        sketch.part("glass", ellipse(0, -0.3 + 0.35 * i, w * 0.32, n=12), role=S.LIGHT, parent=port)
    return sketch


def mushroom(dice: Dice) -> Sketch:
    """A mushroom: a stem, a cap and spots on it."""
    sketch = Sketch("mushroom")
    w, lean = dice.uniform(0.12, 0.3), dice.uniform(-0.3, 0.3)
    sketch.part("stem", capsule((0, 0.9), (lean, -0.1), w * 1.2, w * 0.8, n=3), role=S.LIGHT)
    rx, ry = dice.uniform(0.6, 1.0), dice.uniform(0.4, 0.9)
    dome = poly(
        *arc((lean, 0), (rx, ry), start=-math.pi, stop=0.02, n=14),
        (lean + rx * 0.5, 0.12),
        (lean, 0.02),
        (lean - rx * 0.5, 0.12),
    )
    cap = sketch.part("cap", dome, role=S.MAIN)
    for _ in range(dice.between(1, 5)):
        a, r = dice.uniform(-2.8, -0.4), dice.uniform(0.2, 0.75)
        sketch.part(
            "spot",
            ellipse(lean + r * rx * math.cos(a), r * ry * math.sin(a), dice.uniform(0.05, 0.13), n=10),
            role=S.SECOND,
            parent=cap,
        )
    return sketch


def cup(dice: Dice) -> Sketch:
    """A cup with an open handle, perhaps on a saucer."""
    sketch = Sketch("cup")
    top, foot, h = dice.uniform(0.5, 0.8), dice.uniform(0.25, 0.6), dice.uniform(0.5, 0.9)
    sketch.part("handle", *_ear(dice, (max(top, foot) * 0.95, 0), h * 0.55, 0.13), role=S.SECOND)
    sketch.fill(poly((-top, -h), (top, -h), (foot, h), (-foot, h)), role=S.MAIN)
    sketch.part("drink", ellipse(0, -h, top * 0.98, 0.14), role=S.DARK)
    sketch.part("label", ellipse(0, 0.1, foot * 0.5, h * 0.3, n=14), role=S.THIRD)
    if dice.chance(0.4):
        sketch.part("saucer", ellipse(0, h + 0.05, top * 1.5, 0.13), role=S.FOURTH)
    return sketch


def key(dice: Dice) -> Sketch:
    """A key: a ring, a shaft and teeth."""
    sketch = Sketch("key")
    r, w = dice.uniform(0.3, 0.5), dice.uniform(0.06, 0.12)
    sketch.part("shaft", bar((-0.6 + r, 0), (1.2, 0), w), role=S.MAIN)
    for x in (1.1, 0.85, 0.6)[: dice.between(1, 3)]:
        sketch.part("tooth", box(x - 0.08, 0, x + 0.08, dice.uniform(0.2, 0.45)), role=S.MAIN)
    lobes = dice.between(3, 6)
    bow = ellipse(-0.6, 0, r) if dice.chance(0.5) else star((-0.6, 0), r * 1.15, r * 0.85, tips=lobes)
    sketch.part("bow", bow, hole(ellipse(-0.6, 0, r * dice.uniform(0.4, 0.7))), role=S.SECOND)
    return sketch


def butterfly(dice: Dice) -> Sketch:
    """A butterfly: four patterned wings, a body and antennae."""
    sketch = Sketch("butterfly")
    up, down, notch = dice.uniform(0.5, 1.0), dice.uniform(0.3, 0.8), dice.uniform(0.2, 0.5)
    far, near = dice.uniform(0.8, 1.2), dice.uniform(0.5, 0.9)
    for side in (-1, 1):
        for points, spot in (
            (
                [(0.0, 0.05), (side * far * 0.4, -up), (side * far, -up * 0.9), (side * notch * 1.6, 0.0)],
                (side * far * 0.6, -up * 0.6),
            ),
            (
                [
                    (0.0, 0.0),
                    (side * notch * 1.6, 0.05),
                    (side * near, down),
                    (side * near * 0.3, down * 0.9),
                ],
                (side * near * 0.5, down * 0.5),
            ),
        ):
            wing = sketch.part("wing", smooth(points, per_side=5), role=S.MAIN)
            sketch.part("spot", ellipse(*spot, 0.13, n=12), role=S.SECOND, parent=wing)
    sketch.part(
        "antenna", bar((0, -0.3), (-0.3, -0.8), 0.025), bar((0, -0.3), (0.3, -0.8), 0.025), role=S.DARK
    )
    sketch.part("body", capsule((0, -0.4), (0, 0.6), 0.1, 0.05), role=S.DARK)
    return sketch


def snail(dice: Dice) -> Sketch:
    """A snail: a long foot, two horns and a shell of rings."""
    sketch = Sketch("snail")
    r = dice.uniform(0.45, 0.7)
    sketch.part(
        "horn", bar((0.9, 0.1), (1.0, -0.45), 0.04), bar((0.8, 0.1), (0.65, -0.4), 0.04), role=S.SECOND
    )
    sketch.fill(
        capsule((-1.1, 0.5), (0.8, 0.48), 0.04, 0.16),
        capsule((0.75, 0.45), (0.9, 0.05), 0.16, 0.14),
        role=S.SECOND,
    )
    shell = sketch.part("shell", ellipse(-0.1, 0.4 - r * 0.8, r), role=S.MAIN)
    for i, factor in enumerate((0.7, 0.4)):
        sketch.part(
            "whorl",
            ellipse(-0.1 + 0.08 * i, 0.4 - r * 0.75, r * factor, n=18),
            role=(S.THIRD, S.FOURTH)[i],
            parent=shell,
        )
    return sketch


def chair(dice: Dice) -> Sketch:
    """A chair in oblique view: legs, a seat, a slatted back."""
    sketch = Sketch("chair")
    w, skew, leg = dice.uniform(0.4, 0.65), dice.uniform(0.15, 0.4), dice.uniform(0.5, 0.9)
    t = dice.uniform(0.05, 0.09)
    feet = [(-w, 0.15), (w, 0.15), (w + skew, -0.1), (-w + skew, -0.1)]
    for x, y in feet:
        sketch.part("leg", bar((x, y), (x + dice.uniform(-0.08, 0.08), y + leg), t), role=S.SECOND)
    high = -dice.uniform(0.7, 1.2)
    slats = [
        bar((-w + skew + f * 2 * w, -0.1), (-w + skew + f * 2 * w, high), t) for f in (0.0, 0.33, 0.67, 1.0)
    ]
    sketch.part("back", *slats, bar((-w + skew - t, high), (w + skew + t, high), t * 1.6), role=S.SECOND)
    sketch.part("seat", poly(*feet), role=S.MAIN)
    return sketch


def flower(dice: Dice) -> Sketch:
    """A flower: petals round a heart, on a stem with leaves."""
    sketch = Sketch("flower")
    foot = (dice.uniform(-0.3, 0.3), 1.5)
    sketch.part("stem", capsule(foot, (0, 0), 0.05, n=2), role=S.DARK)
    for side in (-1, 1)[: dice.between(0, 2)]:
        sketch.part(
            "leaf",
            smooth([(0.1, 1.0), (side * 0.35, 0.65), (side * 0.65, 0.6), (side * 0.4, 0.85)], per_side=3),
            role=S.FOURTH,
        )
    n, far, wide = dice.between(4, 8), dice.uniform(0.5, 0.8), dice.uniform(0.12, 0.26)
    for i in range(n):
        a = i * 2 * math.pi / n
        tip = (far * math.cos(a), far * math.sin(a))
        sketch.part("petal", capsule((0.0, 0.0), tip, wide * 0.4, wide, n=5), role=S.MAIN)
    sketch.part("heart", ellipse(0, 0, dice.uniform(0.15, 0.3), n=16), role=S.SECOND)
    return sketch


def umbrella(dice: Dice) -> Sketch:
    """An open umbrella: panels with a scalloped hem, a stick and a crook."""
    sketch = Sketch("umbrella")
    rx, ry, n = dice.uniform(0.8, 1.2), dice.uniform(0.5, 0.9), dice.between(3, 5)
    sketch.part("stick", bar((0, -ry - 0.12), (0, 0.8), 0.035), role=S.DARK)
    crook = [
        *arc((0.16, 0.8), (0.2, 0.25), start=math.pi, stop=0, n=8),
        *arc((0.16, 0.8), (0.09, 0.14), start=0, stop=math.pi, n=8),
    ]
    sketch.part("handle", poly(*crook), role=S.SECOND)
    hem: list[Point] = []
    for i in range(n):
        x = rx - 2 * rx * i / n
        hem += [(x, 0.0), (x - rx / n, -0.16)]
    sketch.fill(poly(*arc((0, 0), (rx, ry), start=-math.pi, stop=0, n=16), *hem), role=S.MAIN)
    for i in range(1, n, 2):
        x = rx - 2 * rx * i / n
        sketch.part(
            "panel",
            poly((0, -ry * 0.97), (x, -0.01), (x - rx / n, -0.17), (x - 2 * rx / n, -0.01)),
            role=S.THIRD,
        )
    return sketch


def hammer(dice: Dice) -> Sketch:
    """A hammer: a handle with a grip, a head with a claw."""
    sketch = Sketch("hammer")
    w = dice.uniform(0.07, 0.13)
    stick = sketch.part("handle", capsule((0, 1.2), (0, -0.5), w, w * 0.8, n=3), role=S.SECOND)
    sketch.part("grip", capsule((0, 1.15), (0, 0.65), w * 1.3, n=3), role=S.THIRD, parent=stick)
    h, left, right = dice.uniform(0.14, 0.26), dice.uniform(0.3, 0.6), dice.uniform(0.4, 0.8)
    claw = poly(
        (0, -0.6 - h), (right, -0.6 - h * 0.2), (right * 1.1, -0.35), (right * 0.7, -0.5), (0, -0.6 + h)
    )
    sketch.part("head", claw, box(-left, -0.6 - h, 0.1, -0.6 + h), role=S.MAIN)
    sketch.part("face", box(-left - 0.12, -0.6 - h * 1.2, -left, -0.6 + h * 1.2), role=S.DARK)
    return sketch


def gear(dice: Dice) -> Sketch:
    """A gear wheel with square teeth and holes."""
    sketch = Sketch("gear")
    n, depth = dice.between(6, 11), dice.uniform(0.65, 0.82)
    points = []
    for i in range(4 * n):
        a, r = i * 2 * math.pi / (4 * n), (1.0 if i % 4 < 2 else depth)
        points.append((r * math.cos(a), r * math.sin(a)))
    bore = dice.uniform(0.15, 0.5)
    sketch.fill(poly(*points), hole(ellipse(0, 0, bore)), role=S.MAIN)
    if dice.chance(0.6):
        sketch.part("collar", *ring(0, 0, bore + 0.12, bore), role=S.SECOND)
    return sketch
