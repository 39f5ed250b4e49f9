"""Named colours and the fills drawn from them, one palette a world."""

from dataclasses import replace

from pipeline.toyworld.dice import Dice
from pipeline.toyworld.light import Fill, Rgb

Palette = dict[str, Rgb]

DEMO: Palette = {
    "red": (200, 42, 40),
    "orange": (232, 130, 34),
    "yellow": (228, 204, 56),
    "green": (52, 142, 62),
    "blue": (46, 88, 192),
    "purple": (122, 62, 162),
    "pink": (236, 142, 172),
    "brown": (118, 76, 44),
    "black": (38, 38, 42),
    "white": (236, 235, 230),
    "gray": (132, 132, 134),
    "cyan": (66, 182, 202),
}

PRETRAIN: Palette = {
    "maroon": (110, 24, 44),
    "olive": (122, 122, 38),
    "navy": (26, 34, 92),
    "teal": (18, 122, 118),
    "beige": (220, 204, 168),
    "salmon": (238, 136, 116),
    "lavender": (184, 172, 226),
    "mint": (166, 226, 186),
    "magenta": (196, 38, 142),
    "gold": (204, 160, 42),
    "charcoal": (58, 64, 70),
    "silver": (188, 192, 198),
    "rust": (168, 74, 32),
    "lime": (162, 206, 46),
    "sky": (128, 186, 232),
    "plum": (96, 46, 98),
}

_KINDS = ("plain", "stripes", "waves", "checks", "dots", "patches", "noise")
_KIND_WEIGHTS = (3.0, 1.2, 1.0, 0.8, 0.8, 0.7, 2.0)


def jittered(dice: Dice, color: Rgb, *, by: float = 18.0) -> Rgb:
    """A colour near the given one, channels kept in 0..255."""
    red, green, blue = (min(max(v + dice.uniform(-by, by), 0.0), 255.0) for v in color)
    return red, green, blue


def draw_fill(dice: Dice, palette: Palette, names: tuple[str, ...], *, size: float) -> Fill:
    """A fill whose name is one of `names`; its texture scales with the size of the object in pixels."""
    name = dice.pick(names)
    color = jittered(dice, palette[name])
    kind = dice.weighted(_KINDS, _KIND_WEIGHTS)
    other = palette[dice.pick(tuple(palette))]
    pull = dice.uniform(0.15, 0.65)
    mixed = (
        color[0] + pull * (other[0] - color[0]),
        color[1] + pull * (other[1] - color[1]),
        color[2] + pull * (other[2] - color[2]),
    )
    return Fill(name, color, mixed, kind, max(size * dice.uniform(0.06, 0.3), 3.0), dice.angle())


def draw_fills(dice: Dice, palette: Palette, *, size: float, main: Fill | None = None) -> tuple[Fill, ...]:
    """One fill a role (see Sketch): the colours of main, second, third and fourth differ; dark and light are so."""
    names = list(palette)
    fills: list[Fill] = []
    for role in range(4):
        fill = main if role == 0 and main is not None else draw_fill(dice, palette, tuple(names), size=size)
        names.remove(fill.name)
        fills.append(fill)
    ranked = sorted(palette, key=lambda n: sum(palette[n]))
    few = len(ranked) // 3
    dark, light = tuple(ranked[:few]), tuple(ranked[-few:])
    fills.append(draw_fill(dice, palette, dark if dice.chance(0.8) else tuple(palette), size=size))
    fills.append(draw_fill(dice, palette, light if dice.chance(0.8) else tuple(palette), size=size))
    return tuple(fills)


def similar(dice: Dice, fill: Fill, *, size: float) -> Fill:
    """A fill that is easily taken for the given one."""
    color = jittered(dice, fill.color, by=12.0)
    return replace(fill, color=color, period=max(size * dice.uniform(0.06, 0.3), 3.0), angle=dice.angle())
