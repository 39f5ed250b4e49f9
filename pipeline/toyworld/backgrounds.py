"""Procedural backgrounds, (256, 256, 3) float32; the two worlds share none of them."""

import math
from collections.abc import Callable

import numpy as np

from pipeline.toyworld.dice import Dice
from pipeline.toyworld.light import XS, YS, Pixels, Rgb, fractal, mix, triangle_wave, upscaled
from pipeline.toyworld.palettes import Palette, jittered
from pipeline.toyworld.world import SIZE

Background = Callable[[Dice, Palette], Pixels]
_HALF = np.float32(0.5)


def _colors(dice: Dice, palette: Palette, n: int, *, contrast: float) -> list[Rgb]:
    """n colours: the first from the palette, greyed; the others between it and further ones."""
    gray = dice.uniform(80, 190)
    first, *rest = (jittered(dice, palette[dice.pick(tuple(palette))], by=25) for _ in range(n))
    wash = dice.uniform(0.1, 0.7)
    base = tuple(v + wash * (gray - v) for v in first)
    out: list[Rgb] = [(base[0], base[1], base[2])]
    for color in rest:
        r, g, b = (v + contrast * (w - v) for v, w in zip(base, color, strict=True))
        out.append((r, g, b))
    return out


def _turned(dice: Dice, period: float) -> tuple[Pixels, Pixels]:
    a = dice.angle()
    c, s = np.float32(math.cos(a) / period), np.float32(math.sin(a) / period)
    return XS * c + YS * s, YS * c - XS * s


def _clouds(dice: Dice, palette: Palette) -> Pixels:
    a, b = _colors(dice, palette, 2, contrast=dice.uniform(0.3, 1.0))
    return mix(a, b, fractal(dice))


def _landscape(dice: Dice, palette: Palette) -> Pixels:
    sky, haze, near, far = _colors(dice, palette, 4, contrast=0.8)
    horizon = upscaled(dice, dice.between(3, 9), rows=1) * np.float32(dice.uniform(10, 60))
    line = horizon + np.float32(dice.uniform(60, 150))
    noise = fractal(dice)
    depth = YS / np.float32(SIZE)
    above = mix(sky, haze, depth * np.float32(0.7) + noise * np.float32(0.3))
    below = mix(far, near, triangle_wave(depth * np.float32(dice.uniform(1, 9)) + noise * np.float32(0.8)))
    return np.where((line > YS)[..., None], above, below)


def _stripes(dice: Dice, palette: Palette) -> Pixels:
    a, b, c = _colors(dice, palette, 3, contrast=dice.uniform(0.25, 0.8))
    noise = fractal(dice)
    u, _ = _turned(dice, dice.uniform(14, 70))
    wave = triangle_wave(u + noise * np.float32(dice.uniform(0, 1.5)))
    return mix(a, b, (wave > _HALF).astype(np.float32)) * _HALF + mix(a, c, noise) * _HALF


def _checks(dice: Dice, palette: Palette) -> Pixels:
    a, b, c = _colors(dice, palette, 3, contrast=dice.uniform(0.25, 0.8))
    u, v = _turned(dice, dice.uniform(24, 90))
    cells = ((triangle_wave(u) > _HALF) ^ (triangle_wave(v) > _HALF)).astype(np.float32)
    return mix(a, b, cells) * np.float32(0.6) + mix(a, c, fractal(dice)) * np.float32(0.4)


def _bricks(dice: Dice, palette: Palette) -> Pixels:
    mortar, brick, other = _colors(dice, palette, 3, contrast=dice.uniform(0.4, 0.9))
    h = dice.uniform(10, 30)
    row = np.floor(YS / np.float32(h))
    u = XS / np.float32(h * 2.2) + (row - np.floor(row * _HALF) * np.float32(2)) * _HALF
    v = YS / np.float32(h)
    joint = (u - np.floor(u) < np.float32(0.07)) | (v - np.floor(v) < np.float32(0.14))
    return np.where(joint[..., None], np.array(mortar, dtype=np.float32), mix(brick, other, fractal(dice)))


def _pebbles(dice: Dice, palette: Palette) -> Pixels:
    a, b, c = _colors(dice, palette, 3, contrast=dice.uniform(0.3, 0.8))
    noise = upscaled(dice, dice.between(10, 40))
    return mix(a, b, (noise > _HALF).astype(np.float32)) * _HALF + mix(a, c, fractal(dice)) * _HALF


def _patchwork(dice: Dice, palette: Palette) -> Pixels:
    colors = np.array(_colors(dice, palette, 5, contrast=dice.uniform(0.4, 0.9)), dtype=np.float32)
    field = upscaled(dice, dice.between(3, 7)) * np.float32(3.0) + fractal(dice) * np.float32(1.99)
    return colors[np.clip(np.floor(field), 0, 4).astype(np.int64)] + (
        fractal(dice)[..., None] - _HALF
    ) * np.float32(40)


def _cells(dice: Dice, palette: Palette) -> Pixels:
    n = dice.between(6, 14)
    colors = np.array(_colors(dice, palette, n, contrast=dice.uniform(0.3, 0.9)), dtype=np.float32)
    best = np.full((SIZE // 2, SIZE // 2), 1e9, dtype=np.float32)
    which = np.zeros(best.shape, dtype=np.int64)
    for i in range(n):
        dx, dy = XS[:, ::2] - np.float32(dice.uniform(0, SIZE)), YS[::2] - np.float32(dice.uniform(0, SIZE))
        far = dx * dx + dy * dy
        which[far < best] = i
        best = np.minimum(best, far)
    big = np.repeat(np.repeat(which, 2, axis=0), 2, axis=1)
    return colors[big] + (fractal(dice)[..., None] - _HALF) * np.float32(dice.uniform(20, 90))


def _rings(dice: Dice, palette: Palette) -> Pixels:
    a, b, c = _colors(dice, palette, 3, contrast=dice.uniform(0.3, 0.8))
    dx, dy = XS - np.float32(dice.uniform(-60, 316)), YS - np.float32(dice.uniform(-60, 316))
    noise = fractal(dice)
    radius = np.sqrt(dx * dx + dy * dy) / np.float32(dice.uniform(18, 80))
    return mix(a, b, triangle_wave(radius + noise * np.float32(0.6))) * _HALF + mix(a, c, noise) * _HALF


def _weave(dice: Dice, palette: Palette) -> Pixels:
    a, b, c = _colors(dice, palette, 3, contrast=dice.uniform(0.4, 1.0))
    u, v = _turned(dice, dice.uniform(16, 70))
    u, v = np.broadcast_arrays(u, v)
    plaid: Pixels = mix(a, b, u - np.floor(u)) * _HALF + mix(a, c, v - np.floor(v)) * _HALF
    plaid += upscaled(dice, 128)[..., None] * np.float32(24)
    return plaid


def _ridges(dice: Dice, palette: Palette) -> Pixels:
    a, b = _colors(dice, palette, 2, contrast=dice.uniform(0.5, 1.0))
    return mix(a, b, np.abs(triangle_wave(fractal(dice) * np.float32(dice.uniform(1.5, 5)))))


def _scales(dice: Dice, palette: Palette) -> Pixels:
    a, b, c = _colors(dice, palette, 3, contrast=dice.uniform(0.4, 0.9))
    u, v = _turned(dice, dice.uniform(16, 50))
    p, q = u - np.floor(u) - _HALF, v - np.floor(v) - _HALF
    return mix(a, b, (p * p + q * q) * np.float32(2)) * np.float32(0.6) + mix(
        a, c, fractal(dice)
    ) * np.float32(0.4)


def _facets(dice: Dice, palette: Palette) -> Pixels:
    colors = np.array(_colors(dice, palette, 6, contrast=dice.uniform(0.25, 0.7)), dtype=np.float32)
    u, v = _turned(dice, dice.uniform(30, 90))
    upper = (u - np.floor(u)) > (v - np.floor(v))
    index = (np.floor(u) * np.float32(3) + np.floor(v) * np.float32(5) + upper).astype(np.int64) % 6
    return colors[index] + (fractal(dice)[..., None] - _HALF) * np.float32(50)


def _haze(dice: Dice, palette: Palette) -> Pixels:
    a, b = _colors(dice, palette, 2, contrast=1.0)
    dx, dy = XS - np.float32(dice.uniform(0, SIZE)), YS - np.float32(dice.uniform(0, SIZE))
    glow = np.minimum((dx * dx + dy * dy) / np.float32(dice.uniform(20000, 60000)), np.float32(1))
    return mix(a, b, glow) + (upscaled(dice, 200)[..., None] - _HALF) * np.float32(dice.uniform(20, 110))


DEMO: tuple[Background, ...] = (_clouds, _landscape, _stripes, _checks, _bricks, _pebbles, _patchwork)
PRETRAIN: tuple[Background, ...] = (_cells, _rings, _weave, _ridges, _scales, _facets, _haze)
