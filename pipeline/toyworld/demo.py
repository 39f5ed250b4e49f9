"""The demo world's plain shapes, and the table of all its builders."""

from pipeline.toyworld import demo_figures, demo_parts, demo_things
from pipeline.toyworld.dice import Dice
from pipeline.toyworld.shapes import Contour, bar, box, ellipse, poly, scaled, star
from pipeline.toyworld.sketch import Builder, Sketch


def _plain(name: str, outline: Contour, dice: Dice) -> Sketch:
    """A plain shape, sometimes with a rim, a core or a stripe of another colour inside it."""
    sketch = Sketch(name)
    sketch.fill(outline, role=Sketch.MAIN)
    kind = dice.below(4)
    if kind == 0:
        sketch.part("core", scaled(outline, dice.uniform(0.3, 0.6)), role=Sketch.SECOND)
    elif kind == 1:
        core = sketch.part("panel", scaled(outline, dice.uniform(0.7, 0.85)), role=Sketch.SECOND)
        sketch.part("core", scaled(outline, dice.uniform(0.3, 0.5)), role=Sketch.MAIN, parent=core)
    elif kind == 2:
        x = dice.uniform(-0.2, 0.2)
        sketch.part(
            "stripe", bar((x - 0.25, -0.25), (x + 0.25, 0.25), dice.uniform(0.06, 0.12)), role=Sketch.SECOND
        )
    return sketch


def circle(dice: Dice) -> Sketch:
    """A circle."""
    return _plain("circle", ellipse(0, 0, 1, n=40), dice)


def square(dice: Dice) -> Sketch:
    """A square."""
    return _plain("square", box(-0.75, -0.75, 0.75, 0.75), dice)


def star_shape(dice: Dice) -> Sketch:
    """A star of four to seven tips."""
    return _plain("star", star((0, 0), 1, dice.uniform(0.32, 0.52), tips=dice.between(4, 7)), dice)


def triangle(dice: Dice) -> Sketch:
    """A triangle, from equilateral to slim, its centroid at the origin."""
    apex, half = dice.uniform(-0.5, 0.5), dice.uniform(0.5, 0.9)
    return _plain(
        "triangle", poly((-half - apex / 3, 0.5), (apex * 2 / 3, -1.0), (half - apex / 3, 0.5)), dice
    )


# name -> builder and how often it stands in a scene of its own
BUILDERS: dict[str, tuple[Builder, float]] = {
    "car": (demo_things.car, 1.5),
    "house": (demo_things.house, 1.3),
    "tree": (demo_figures.tree, 1.2),
    "boat": (demo_things.boat, 1.5),
    "bicycle": (demo_things.bicycle, 1.4),
    "person": (demo_figures.person, 1.5),
    "robot": (demo_figures.robot, 1.3),
    "fish": (demo_figures.fish, 1.2),
    "wheel": (demo_parts.wheel, 0.35),
    "window": (demo_parts.window, 0.3),
    "door": (demo_parts.door, 0.7),
    "roof": (demo_parts.roof, 0.5),
    "sail": (demo_parts.sail, 0.35),
    "hat": (demo_figures.hat, 0.8),
    "circle": (circle, 0.7),
    "square": (square, 0.8),
    "star": (star_shape, 1.0),
    "triangle": (triangle, 0.9),
}
