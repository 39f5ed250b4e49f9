"""Geometry primitives: closed contours and what can be done with them.

Contour: (n, 2) float64 vertices (x right, y down), closed, any unit. Solid contours have positive shoelace area,
holes negative; the rasteriser fills where the winding number is positive, so solids unite and holes cut.
Trigonometry runs on scalars through `math` only, so that equal arguments give equal pixels on any machine.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.toyworld.dice import Dice

Contour = npt.NDArray[np.float64]
Point = tuple[float, float]


def poly(*points: Point) -> Contour:
    """A solid polygon through the points, in either order."""
    contour = np.array(points, dtype=np.float64)
    return contour if _area(points) >= 0 else contour[::-1]


def _area(points: Sequence[Point]) -> float:
    following = [*points[1:], points[0]]
    return math.fsum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(points, following, strict=True))


def hole(contour: Contour) -> Contour:
    """The same outline, cut out instead of filled."""
    return contour[::-1]


def box(x0: float, y0: float, x1: float, y1: float) -> Contour:
    """An axis-aligned rectangle."""
    return poly((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def arc(
    center: Point, radii: Point, *, start: float = 0.0, stop: float = 2 * math.pi, n: int = 24
) -> list[Point]:
    """n points on an ellipse from angle start (included) to stop (excluded), radians."""
    step = (stop - start) / n
    return [
        (center[0] + radii[0] * math.cos(start + i * step), center[1] + radii[1] * math.sin(start + i * step))
        for i in range(n)
    ]


def ellipse(cx: float, cy: float, rx: float, ry: float | None = None, *, n: int = 24) -> Contour:
    """An ellipse; a circle if ry is left out."""
    return poly(*arc((cx, cy), (rx, rx if ry is None else ry), n=n))


def ring(cx: float, cy: float, outer: float, inner: float, *, n: int = 28) -> list[Contour]:
    """A circle with a round hole."""
    return [ellipse(cx, cy, outer, n=n), hole(ellipse(cx, cy, inner, n=n))]


def star(center: Point, outer: float, inner: float, *, tips: int, phase: float = 0.0) -> Contour:
    """A star with the given number of tips; the first one points to the angle phase."""
    points = []
    for i in range(2 * tips):
        radius, a = (inner if i % 2 else outer), phase + i * math.pi / tips
        points.append((center[0] + radius * math.cos(a), center[1] + radius * math.sin(a)))
    return poly(*points)


def capsule(p: Point, q: Point, wp: float, wq: float | None = None, *, n: int = 5) -> Contour:
    """A limb from p to q with half-widths wp and wq and round ends."""
    wq = wp if wq is None else wq
    a = math.atan2(q[1] - p[1], q[0] - p[0])
    half = math.pi / 2
    step = math.pi / n
    points = [
        (q[0] + wq * math.cos(a - half + i * step), q[1] + wq * math.sin(a - half + i * step))
        for i in range(n + 1)
    ]
    points += [
        (p[0] + wp * math.cos(a + half + i * step), p[1] + wp * math.sin(a + half + i * step))
        for i in range(n + 1)
    ]
    return poly(*points)


def bar(p: Point, q: Point, half_width: float) -> Contour:
    """A straight stroke with flat ends."""
    dx, dy = q[0] - p[0], q[1] - p[1]
    length = math.sqrt(dx * dx + dy * dy) or 1.0
    ox, oy = -dy / length * half_width, dx / length * half_width
    return poly(
        (p[0] + ox, p[1] + oy), (q[0] + ox, q[1] + oy), (q[0] - ox, q[1] - oy), (p[0] - ox, p[1] - oy)
    )


def smooth(points: Sequence[Point], *, per_side: int = 4) -> Contour:
    """The closed Catmull-Rom curve through the points."""
    out: list[Point] = []
    n = len(points)
    for i in range(n):
        p0, p1, p2, p3 = (points[(i + k - 1) % n] for k in range(4))
        for k in range(per_side):
            t = k / per_side
            out.append((_cubic(p0[0], p1[0], p2[0], p3[0], t=t), _cubic(p0[1], p1[1], p2[1], p3[1], t=t)))
    return poly(*out)


def _cubic(a: float, b: float, c: float, d: float, *, t: float) -> float:
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def radial(dice: Dice, *, n: int, low: float, high: float, jitter: float = 0.3) -> list[Point]:
    """n points round the origin at increasing angles with radii in [low, high): star-shaped, never self-crossing."""
    points = []
    for i in range(n):
        a = (i + dice.uniform(-jitter, jitter)) * 2 * math.pi / n
        r = dice.uniform(low, high)
        points.append((r * math.cos(a), r * math.sin(a)))
    return points


def superellipse(rx: float, ry: float, power: float, *, n: int = 32) -> Contour:
    """|x/rx|^power + |y/ry|^power = 1: a diamond, an ellipse or a rounded box."""
    points = []
    for i in range(n):
        a = i * 2 * math.pi / n
        c, s = math.cos(a), math.sin(a)
        points.append(
            (rx * math.copysign(abs(c) ** (2 / power), c), ry * math.copysign(abs(s) ** (2 / power), s))
        )
    return poly(*points)


def mirrored(points: Sequence[Point]) -> Contour:
    """A profile given from top to bottom on the right side (x >= 0), closed by its mirror image."""
    return poly(*points, *[(-x, y) for x, y in reversed(points)])


def scaled(contour: Contour, factor: float, *, about: Point = (0.0, 0.0)) -> Contour:
    """The contour shrunk or grown about a point."""
    center = np.array(about)
    out: Contour = (contour - center) * factor + center
    return out
