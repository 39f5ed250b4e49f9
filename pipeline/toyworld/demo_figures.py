"""The demo world's articulated figures and plants, and the hats they wear."""

import math

from pipeline.toyworld.demo_parts import add_wheel
from pipeline.toyworld.dice import Dice
from pipeline.toyworld.shapes import (
    Contour,
    Point,
    bar,
    box,
    capsule,
    ellipse,
    poly,
    radial,
    smooth,
)
from pipeline.toyworld.sketch import Sketch

S = Sketch


def _step(p: Point, angle: float, length: float) -> Point:
    """The point `length` away from p; angle 0 hangs straight down, positive turns towards +x."""
    return (p[0] + length * math.sin(angle), p[1] + length * math.cos(angle))


def add_hat(sketch: Sketch, dice: Dice, foot: Point, width: float, *, node: int | None = None) -> None:
    """A top hat, a pointed hat or a cap standing on `foot`, with a band or a bobble."""
    hat = sketch.part("hat", role=S.FOURTH) if node is None else node
    role = S.FOURTH if node is None else S.MAIN
    x, y = foot
    kind, height = dice.below(3), width * dice.uniform(0.9, 1.5)
    if kind == 0:
        brim = box(x - width, y - 0.16 * width, x + width, y + 0.1 * width)
        top = poly(
            (x - 0.6 * width, y),
            (x - 0.7 * width, y - height),
            (x + 0.7 * width, y - height),
            (x + 0.6 * width, y),
        )
        sketch.fill(brim, top, role=role, node=hat)
        sketch.part(
            "ribbon",
            box(x - 0.62 * width, y - 0.45 * width, x + 0.62 * width, y - 0.16 * width),
            role=S.SECOND,
            parent=hat,
        )
    elif kind == 1:
        tip = (x + width * dice.uniform(-0.8, 0.8), y - 1.5 * height)
        sketch.fill(
            poly((x - width, y + 0.1 * width), tip, (x + width, y + 0.1 * width)), role=role, node=hat
        )
        sketch.part("bobble", ellipse(*tip, 0.25 * width, n=12), role=S.LIGHT, parent=hat)
    else:
        dome = [
            (x - 0.8 * width, y),
            (x - 0.7 * width, y - 0.6 * width),
            (x, y - 0.85 * width),
            (x + 0.75 * width, y - 0.55 * width),
            (x + 0.8 * width, y),
        ]
        sketch.fill(
            poly(*dome),
            capsule((x, y), (x + 1.5 * width, y + 0.08 * width), 0.12 * width, n=3),
            role=role,
            node=hat,
        )
        sketch.part("button", ellipse(x, y - 0.85 * width, 0.14 * width, n=8), role=S.SECOND, parent=hat)


def hat(dice: Dice) -> Sketch:
    """A hat of its own."""
    sketch = Sketch("hat")
    add_hat(sketch, dice, (0, 0), 1.0, node=0)
    return sketch


def _limb(
    sketch: Sketch, name: str, joints: tuple[Point, Point, Point], width: float, *, role: int, tip: int
) -> None:
    a, b, c = joints
    part = sketch.part(
        name,
        capsule(a, b, width, width * 0.85, n=3),
        capsule(b, c, width * 0.85, width * 0.7, n=3),
        role=role,
    )
    sketch.part({"arm": "hand", "leg": "foot"}[name], ellipse(*c, width * 1.15, n=10), role=tip, parent=part)


def person(dice: Dice) -> Sketch:
    """A person with bent limbs; stands, walks, waves, or wears a hat."""
    sketch = Sketch("person")
    bulk, spread = dice.uniform(0.09, 0.16), dice.uniform(0.1, 0.7)
    hips = ((-0.14, 0.62), (0.14, 0.62))
    for side, hip in zip((-1, 1), hips, strict=True):
        knee = _step(hip, side * spread + dice.uniform(-0.3, 0.3), 0.5)
        foot = _step(knee, side * spread * 0.5 + dice.uniform(-0.5, 0.3), 0.5)
        _limb(sketch, "leg", (hip, knee, foot), bulk, role=S.SECOND, tip=S.DARK)
    waist, chest = dice.uniform(0.16, 0.24), dice.uniform(0.24, 0.36)
    torso = poly(
        (-chest, -0.05),
        (chest, -0.05),
        (waist, 0.45),
        (waist * 1.2, 0.72),
        (-waist * 1.2, 0.72),
        (-waist, 0.45),
    )
    sketch.part("torso", torso, role=S.MAIN)
    if dice.chance(0.5):
        sketch.part("belt", box(-waist * 1.1, 0.5, waist * 1.1, 0.6), role=S.DARK)
    for side in (-1, 1):
        shoulder = (side * chest * 0.95, 0.03)
        lift = side * dice.uniform(0.2, 2.6)
        elbow = _step(shoulder, lift, 0.38)
        _limb(
            sketch,
            "arm",
            (shoulder, elbow, _step(elbow, lift + dice.uniform(-0.9, 0.9), 0.36)),
            bulk * 0.75,
            role=S.MAIN,
            tip=S.LIGHT,
        )
    _head(sketch, dice)
    return sketch


def _head(sketch: Sketch, dice: Dice) -> None:
    x, r = dice.uniform(-0.08, 0.08), dice.uniform(0.2, 0.27)
    sketch.part("neck", box(x - 0.07, -0.15, x + 0.07, 0.05), role=S.LIGHT)
    head = sketch.part("head", ellipse(x, -0.32, r * 0.88, r), role=S.LIGHT)
    sketch.fill(
        ellipse(x - 0.08, -0.35, 0.035, n=8), ellipse(x + 0.08, -0.35, 0.035, n=8), role=S.DARK, node=head
    )
    if dice.chance(0.45):
        add_hat(sketch, dice, (x, -0.32 - r * 0.6), r * 0.95)
    else:
        hair = [
            (x - r, -0.3),
            (x - r * 0.9, -0.36 - r * 0.8),
            (x, -0.4 - r),
            (x + r * 0.9, -0.36 - r * 0.8),
            (x + r, -0.3),
            (x, -0.34 - r * 0.45),
        ]
        sketch.part("hair", poly(*hair), role=S.THIRD)


def robot(dice: Dice) -> Sketch:
    """A robot: a boxy trunk, a head with an antenna or a hat, claws, and legs or wheels."""
    sketch = Sketch("robot")
    w, h = dice.uniform(0.35, 0.55), dice.uniform(0.4, 0.6)
    if dice.chance(0.4):
        radius = dice.uniform(0.2, 0.28)
        sketch.part("axle", box(-w * 0.9, h - 0.02, w * 0.9, h + 0.12), role=S.DARK)
        for x in (-w * 0.75, w * 0.75):
            add_wheel(sketch, dice, (x, h + radius), radius, thin=False)
    else:
        for x in (-w * 0.55, w * 0.55):
            foot = (x + dice.uniform(-0.2, 0.2), h + dice.uniform(0.5, 0.8))
            leg = sketch.part("leg", bar((x, h - 0.05), foot, 0.09), role=S.THIRD)
            sketch.part(
                "foot",
                box(foot[0] - 0.2, foot[1] - 0.06, foot[0] + 0.2, foot[1] + 0.1),
                role=S.DARK,
                parent=leg,
            )
    for side in (-1, 1):
        elbow = _step((side * w, -h * 0.5), side * dice.uniform(0.4, 2.0), 0.42)
        hand = _step(elbow, side * dice.uniform(-0.8, 2.6), 0.4)
        arm = sketch.part(
            "arm", bar((side * w * 0.9, -h * 0.5), elbow, 0.07), bar(elbow, hand, 0.07), role=S.THIRD
        )
        sketch.part("claw", _claw(hand, side), role=S.DARK, parent=arm)
    sketch.fill(box(-w, -h, w, h), role=S.MAIN)
    panel = sketch.part("panel", box(-w * 0.6, -h * 0.5, w * 0.6, h * 0.3), role=S.SECOND)
    knobs = [ellipse(-w * 0.35 + i * w * 0.35, -h * 0.1, 0.06, n=8) for i in range(dice.between(1, 3))]
    sketch.fill(*knobs, role=S.LIGHT, node=panel)
    _robot_head(sketch, dice, -h)
    return sketch


def _claw(p: Point, side: int) -> Contour:
    x, y = p
    return poly(
        (x - side * 0.08, y - 0.14),
        (x + side * 0.2, y - 0.16),
        (x + side * 0.05, y),
        (x + side * 0.2, y + 0.16),
        (x - side * 0.08, y + 0.14),
    )


def _robot_head(sketch: Sketch, dice: Dice, top: float) -> None:
    w, h = dice.uniform(0.22, 0.36), dice.uniform(0.3, 0.45)
    sketch.part("neck", box(-0.08, top - 0.12, 0.08, top + 0.02), role=S.DARK)
    y = top - 0.1 - h
    if dice.chance(0.35):
        add_hat(sketch, dice, (0, y + 0.02), w * 0.9)
    else:
        sketch.part(
            "antenna", bar((0, y), (0.1, y - 0.3), 0.03), ellipse(0.1, y - 0.3, 0.08, n=10), role=S.FOURTH
        )
    head = sketch.part("head", box(-w, y, w, y + h), role=S.SECOND)
    for x in (-w * 0.45, w * 0.45):
        sketch.fill(ellipse(x, y + h * 0.4, w * 0.22, n=10), role=S.LIGHT, node=head)
    sketch.fill(box(-w * 0.5, y + h * 0.7, w * 0.5, y + h * 0.82), role=S.DARK, node=head)


def tree(dice: Dice) -> Sketch:
    """A tree: clumps of leaves, a fir, a palm or bare branches."""
    sketch = Sketch("tree")
    height, kind = dice.uniform(0.8, 1.6), dice.below(4)
    w = dice.uniform(0.08, 0.16)
    trunk = sketch.part(
        "trunk", capsule((0, height), (dice.uniform(-0.2, 0.2), -0.2), w, w * 0.6, n=2), role=S.DARK
    )
    tips = [(dice.uniform(-0.95, 0.95), dice.uniform(-1.1, 0.1)) for _ in range(dice.between(3, 6))]
    sketch.fill(
        *[capsule((0, dice.uniform(-0.1, 0.45)), tip, w * 0.45, w * 0.25, n=2) for tip in tips],
        role=S.DARK,
        node=trunk,
    )
    if kind == 0:
        for i in range(3):
            y, half = 0.3 - i * 0.5, 0.9 - i * 0.22
            sketch.part(
                "branch",
                poly(
                    (-half, y + 0.2),
                    (-half * 0.4, y),
                    (0, y - 0.75),
                    (half * 0.4, y),
                    (half, y + 0.2),
                    (0, y + 0.08),
                ),
                role=S.MAIN,
            )
    elif kind == 1:
        for tip in [*tips, (-0.9, -0.4), (0.9, -0.5)]:
            frond = smooth(
                [
                    (0, -0.2),
                    (tip[0] * 0.6, tip[1] - 0.35),
                    (tip[0] * 1.2, tip[1] + 0.1),
                    (tip[0] * 0.6, tip[1] - 0.08),
                ],
                per_side=3,
            )
            sketch.part("frond", frond, role=S.MAIN)
    else:
        size = 0.22 if kind == 3 else 0.42
        for tip in tips:
            clump = smooth(radial(dice, n=dice.between(6, 9), low=size * 0.7, high=size * 1.35), per_side=3)
            sketch.part("leaves", clump + tip, role=S.MAIN)
        fruit = [ellipse(x + 0.1, y, 0.07, n=8) for x, y in tips[: dice.between(0, 3)]]
        if fruit:
            sketch.part("fruit", *fruit, role=S.SECOND)
    return sketch


def fish(dice: Dice) -> Sketch:
    """A fish with a forked tail, fins, bands and an eye, its body bent."""
    sketch = Sketch("fish")
    h, bend, fork = dice.uniform(0.25, 0.5), dice.uniform(-0.35, 0.35), dice.uniform(0.35, 0.75)
    tail = poly((-0.7, bend), (-1.35, bend - fork), (-1.05, bend), (-1.35, bend + fork))
    sketch.part("tail", tail, role=S.SECOND)
    fin_x, fin_h = dice.uniform(-0.1, 0.3), dice.uniform(0.3, 0.7)
    sketch.part(
        "fin",
        poly((fin_x + 0.35, -h * 0.75), (fin_x - 0.3, -h - fin_h), (fin_x - 0.45, -h * 0.6)),
        role=S.SECOND,
    )
    sketch.part(
        "fin",
        poly((fin_x + 0.2, h * 0.7), (fin_x - 0.3, h + fin_h * 0.8), (fin_x - 0.3, h * 0.5)),
        role=S.SECOND,
    )
    body = smooth(
        [
            (1.0, 0.0),
            (0.5, -h),
            (-0.2, -h * 0.75 + bend * 0.4),
            (-0.8, bend - 0.07),
            (-0.8, bend + 0.07),
            (-0.2, h * 0.75 + bend * 0.4),
            (0.5, h),
        ]
    )
    sketch.fill(body, role=S.MAIN)
    for i in range(dice.between(0, 3)):
        x = 0.4 - 0.3 * i
        sketch.part("band", bar((x, -h * 0.6), (x - 0.05, h * 0.6), 0.06), role=S.FOURTH)
    sketch.part("eye", ellipse(0.68, -h * 0.25, 0.09, n=10), role=S.LIGHT)
    sketch.fill(ellipse(0.7, -h * 0.25, 0.045, n=8), role=S.DARK, node=len(sketch.nodes) - 1)
    return sketch
