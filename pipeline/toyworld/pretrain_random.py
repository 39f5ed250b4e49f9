"""Shapes of the pretrain world that no one has names for, and the table of all its builders."""

import math

from pipeline.toyworld import pretrain_things as things
from pipeline.toyworld.dice import Dice
from pipeline.toyworld.shapes import (
    Contour,
    Point,
    bar,
    capsule,
    ellipse,
    hole,
    poly,
    radial,
    ring,
    scaled,
    smooth,
    star,
    superellipse,
)
from pipeline.toyworld.sketch import Builder, Sketch

S = Sketch


def _outline(dice: Dice) -> Contour:
    """A random outline of about unit radius."""
    kind = dice.below(6)
    if kind == 0:
        return smooth(radial(dice, n=dice.between(5, 10), low=dice.uniform(0.25, 0.7), high=1.0))
    if kind == 1:
        return poly(*radial(dice, n=dice.between(4, 9), low=dice.uniform(0.2, 0.7), high=1.0))
    if kind == 2:
        return superellipse(1.0, dice.uniform(0.25, 1.0), dice.uniform(0.6, 5.0))
    if kind == 3:
        return star((0, 0), 1.0, dice.uniform(0.3, 0.8), tips=dice.between(3, 9))
    if kind == 4:
        return capsule(
            (-0.8, dice.uniform(-0.3, 0.3)), (0.8, 0.0), dice.uniform(0.1, 0.5), dice.uniform(0.1, 0.5)
        )
    a, b = dice.uniform(0.25, 0.6), dice.uniform(0.25, 0.6)
    # An angle bracket; the origin is in its corner, from where all of it is seen.
    return poly((-b, -a), (1.5, -a), (1.5, a), (b, a), (b, 1.5), (-b, 1.5))


def _shifted(contour: Contour, center: Point) -> Contour:
    """The contour moved by `center`."""
    return contour + center


def _marks(sketch: Sketch, dice: Dice, outline: Contour, *, parent: int = 0) -> None:
    """Random parts on a star-shaped outline: a core, rings of it, or spots."""
    kind = dice.below(4)
    if kind == 0:
        core = sketch.part("core", scaled(outline, dice.uniform(0.3, 0.7)), role=S.SECOND, parent=parent)
        if dice.chance(0.5):
            sketch.part("heart", scaled(outline, dice.uniform(0.12, 0.25)), role=S.THIRD, parent=core)
    elif kind == 1:
        for _ in range(dice.between(1, 4)):
            x, y = dice.uniform(-0.3, 0.3), dice.uniform(-0.3, 0.3)
            sketch.part(
                "spot",
                ellipse(x, y, dice.uniform(0.05, 0.18), n=12),
                role=dice.pick((1, 2, 3)),
                parent=parent,
            )
    elif kind == 2:
        band = scaled(outline, 0.85)
        sketch.part(
            "band", band, hole(scaled(outline, dice.uniform(0.5, 0.75))), role=S.FOURTH, parent=parent
        )


def blob(dice: Dice) -> Sketch:
    """A smooth or sharp random outline with random marks, sometimes with a hole."""
    sketch = Sketch("blob")
    outline = _outline(dice)
    holes = [hole(scaled(outline, dice.uniform(0.2, 0.6)))] if dice.chance(0.2) else []
    sketch.fill(outline, *holes, role=S.MAIN)
    if not holes:
        _marks(sketch, dice, outline)
    return sketch


def shard(dice: Dice) -> Sketch:
    """A jagged polygon split into facets."""
    sketch = Sketch("shard")
    points = radial(dice, n=dice.between(4, 8), low=0.3, high=1.0)
    sketch.fill(poly(*points), role=S.MAIN)
    for i in range(0, len(points) - 1, 2):
        sketch.part("facet", poly((0.0, 0.0), points[i], points[i + 1]), role=dice.pick((1, 2, 3)))
    return sketch


def creature(dice: Dice) -> Sketch:
    """A random body with jointed legs, a head and a tail."""
    sketch = Sketch("creature")
    pairs, length = dice.between(2, 4), dice.uniform(0.5, 1.1)
    stretch, w = dice.uniform(0.7, 1.3), dice.uniform(0.04, 0.1)
    for i in range(pairs):
        x = stretch * (-0.5 + i / (pairs - 1))
        for side in (-1, 1) if dice.chance(0.7) else (1,):
            knee = (x + dice.uniform(-0.3, 0.3), side * length * 0.6)
            toe = (knee[0] + dice.uniform(-0.4, 0.4), side * length)
            sketch.part(
                "leg", capsule((x, 0.0), knee, w, n=2), capsule(knee, toe, w, w * 0.5, n=2), role=S.SECOND
            )
    body = smooth(radial(dice, n=8, low=0.3, high=0.5)) * (stretch * 1.6, 1.0)
    if dice.chance(0.6):
        sketch.part(
            "tail",
            capsule((-0.6 * stretch, 0.0), (-1.5 * stretch, dice.uniform(-0.5, 0.5)), 0.15, 0.03, n=3),
            role=S.THIRD,
        )
    sketch.fill(body, role=S.MAIN)
    _marks(sketch, dice, body * 0.7)
    head = (stretch * 0.8, dice.uniform(-0.3, 0.3))
    skull = sketch.part("head", _shifted(scaled(_outline(dice), 0.35), head), role=S.FOURTH)
    sketch.part("eye", ellipse(*head, 0.08, n=10), role=S.LIGHT, parent=skull)
    return sketch


def gadget(dice: Dice) -> Sketch:
    """A compound of random primitives, each touching an earlier one, with parts on parts."""
    sketch = Sketch("gadget")
    anchors: list[Point] = [(0.0, 0.0)]
    for i in range(dice.between(2, 6)):
        base = dice.pick(anchors)
        a, size = dice.angle(), dice.uniform(0.2, 0.6)
        center = (base[0] + 0.55 * math.cos(a), base[1] + 0.55 * math.sin(a)) if i else base
        shape = _shifted(scaled(_outline(dice), size), center)
        bridge = [bar(base, center, 0.08)] if i else []
        part = sketch.part("module", shape, *bridge, role=dice.pick((0, 1, 2, 3)))
        anchors.append(center)
        if dice.chance(0.5):
            sketch.part(
                "knob", *ring(*center, size * 0.3, size * 0.12, n=14), role=dice.pick((1, 2, 5)), parent=part
            )
        elif dice.chance(0.5):
            sketch.part(
                "insert",
                _shifted(scaled(_outline(dice), size * 0.4), center),
                role=dice.pick((2, 3, 4)),
                parent=part,
            )
    return sketch


def coral(dice: Dice) -> Sketch:
    """A branching thing: limbs on limbs, with knots at the ends."""
    sketch = Sketch("coral")
    trunk = sketch.part("branch", capsule((0, 1.0), (0, 0.3), 0.15, 0.11, n=3), role=S.MAIN)
    tips: list[tuple[Point, float, float, int]] = [((0.0, 0.3), -math.pi / 2, 0.1, trunk)]
    for _ in range(dice.between(4, 9)):
        (x, y), heading, w, parent = tips.pop(0)
        for turn in (dice.uniform(-0.9, -0.15), dice.uniform(0.15, 0.9)):
            a, length = heading + turn, dice.uniform(0.3, 0.6)
            tip = (x + length * math.cos(a), y + length * math.sin(a))
            limb = sketch.part("branch", capsule((x, y), tip, w, w * 0.8, n=3), role=S.MAIN, parent=parent)
            tips.append((tip, a, w * 0.8, limb))
    if dice.chance(0.6):
        for (x, y), _, w, parent in tips:
            sketch.part("knot", ellipse(x, y, w * 1.5, n=10), role=S.SECOND, parent=parent)
    return sketch


# name -> builder and how often it stands in a scene of its own
BUILDERS: dict[str, tuple[Builder, float]] = {
    "vase": (things.vase, 0.8),
    "lamp": (things.lamp, 0.8),
    "rocket": (things.rocket, 0.8),
    "mushroom": (things.mushroom, 0.8),
    "cup": (things.cup, 0.8),
    "key": (things.key, 0.8),
    "butterfly": (things.butterfly, 0.8),
    "snail": (things.snail, 0.8),
    "chair": (things.chair, 0.8),
    "flower": (things.flower, 0.8),
    "umbrella": (things.umbrella, 0.8),
    "hammer": (things.hammer, 0.8),
    "gear": (things.gear, 0.8),
    "blob": (blob, 3.0),
    "shard": (shard, 1.5),
    "creature": (creature, 2.0),
    "gadget": (gadget, 3.0),
    "coral": (coral, 1.0),
}
