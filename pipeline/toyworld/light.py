"""What happens to pixels rather than to shapes: noise fields, fills, shading, blur, sensor and JPEG.

Images are (256, 256, 3) float32, nominal range 0..255. Trap: only + - * / sqrt, comparisons and integer operations
run on arrays here, and no float sum along an axis, so that the bytes are the same on every processor.
"""

import io
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from pipeline.toyworld.dice import Dice
from pipeline.toyworld.world import SIZE

Pixels = npt.NDArray[np.float32]
Rgb = tuple[float, float, float]

_AXIS = np.arange(SIZE, dtype=np.float32) + np.float32(0.5)
XS, YS = _AXIS[None, :], _AXIS[:, None]
_CENTERED = (_AXIS - np.float32(SIZE / 2)) / np.float32(SIZE / 2)
_RADIUS2 = (_CENTERED * _CENTERED)[None, :] + (_CENTERED * _CENTERED)[:, None]


def upscaled(dice: Dice, cells: int, *, rows: int | None = None) -> Pixels:
    """Smooth noise in [0, 1], (256, 256), with the given number of random cells across (and down)."""
    grid = Image.fromarray(dice.bytes(rows or cells, cells))
    field: Pixels = np.asarray(grid.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(np.float32)
    field /= np.float32(255)
    return field


def fractal(dice: Dice) -> Pixels:
    """Noise of several scales in [0, 1], (256, 256)."""
    coarse, middle, fine = upscaled(dice, dice.between(3, 6)), upscaled(dice, 20), upscaled(dice, 90)
    out: Pixels = coarse * np.float32(0.5) + middle * np.float32(0.3) + fine * np.float32(0.2)
    return out


def mix(a: Rgb, b: Rgb, amount: Pixels) -> Pixels:
    """a where amount is 0, b where it is 1; amount (h, w) gives (h, w, 3)."""
    low, high = np.array(a, dtype=np.float32), np.array(b, dtype=np.float32)
    out: Pixels = low + amount[..., None] * (high - low)
    return out


def triangle_wave(t: Pixels) -> Pixels:
    """The zigzag of period 1 between 0 and 1."""
    out: Pixels = np.abs((t - np.floor(t)) * np.float32(2) - np.float32(1))
    return out


@dataclass(frozen=True)
class Fill:
    """The paint of one role: a named colour, a second one, and the texture that mixes them."""

    name: str
    color: Rgb
    second: Rgb
    kind: str
    period: float
    angle: float

    def pixels(self, crop: tuple[slice, slice], noise: Pixels) -> Pixels:
        """The paint of a crop; broadcasts to (h, w, 3)."""
        h, w = crop[0].stop - crop[0].start, crop[1].stop - crop[1].start
        if self.kind == "plain" or h * w < 60:
            return np.array(self.color, dtype=np.float32)[None, None]
        x, y = XS[:, crop[1]] / np.float32(self.period), YS[crop[0]] / np.float32(self.period)
        c, s = np.float32(math.cos(self.angle)), np.float32(math.sin(self.angle))
        return mix(self.color, self.second, self._amount(x * c + y * s, y * c - x * s, noise[crop]))

    def _amount(self, u: Pixels, v: Pixels, noise: Pixels) -> Pixels:
        half = np.float32(0.5)
        if self.kind == "stripes":
            return (triangle_wave(u) > half).astype(np.float32)
        if self.kind == "waves":
            return triangle_wave(u + noise * np.float32(2))
        if self.kind == "checks":
            return ((triangle_wave(u) > half) ^ (triangle_wave(v) > half)).astype(np.float32)
        if self.kind == "dots":
            a, b = triangle_wave(u) - half, triangle_wave(v) - half
            return (a * a + b * b < np.float32(0.08)).astype(np.float32)
        if self.kind == "patches":
            return (triangle_wave(noise * np.float32(3)) > half).astype(np.float32)
        return noise


@dataclass(frozen=True)
class Light:
    """The scene's one light: its direction in the image, shading, and the shadows it casts."""

    toward: tuple[float, float]
    shading: float
    shadow: str
    darkness: float
    reach: float
    squash: float


def draw_light(dice: Dice) -> Light:
    """A random light; a quarter of all scenes have no cast shadows."""
    a = dice.angle()
    kind = dice.weighted(("none", "drop", "cast"), (0.25, 0.35, 0.4))
    return Light(
        (math.cos(a), math.sin(a)),
        shading=dice.uniform(0.1, 0.7),
        shadow=kind,
        darkness=dice.uniform(0.25, 0.65),
        reach=dice.uniform(0.05, 0.22) if kind == "drop" else dice.uniform(-1.0, 1.0),
        squash=dice.uniform(0.2, 0.6) * dice.pick((-1, 1)),
    )


def shade(crop: tuple[slice, slice], light: Light, center: tuple[float, float], size: float) -> Pixels:
    """The factor by which an object's pixels are lit, (h, w, 1): brighter on the side of the light."""
    k = light.shading / max(size, 1.0)
    ramp_x = (XS[:, crop[1]] - np.float32(center[0])) * np.float32(k * light.toward[0])
    ramp_y = (YS[crop[0]] - np.float32(center[1])) * np.float32(k * light.toward[1])
    return (ramp_x + ramp_y + np.float32(1))[..., None]


def to_bytes(image: Pixels) -> npt.NDArray[np.uint8]:
    """Rounded and clipped to uint8."""
    out: npt.NDArray[np.uint8] = np.clip(np.floor(image + np.float32(0.5)), 0, 255).astype(np.uint8)
    return out


def blurred(image: Pixels, radius: int) -> Pixels:
    """Two box blurs of an integer radius, which Pillow does in integers."""
    picture = Image.fromarray(to_bytes(image))
    for _ in range(2):
        picture = picture.filter(ImageFilter.BoxBlur(radius))
    return np.asarray(picture).astype(np.float32)


def finish(image: Pixels, dice: Dice, toward: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """The camera: uneven light, vignetting, white balance, contrast, sensor noise."""
    slope, vignette, contrast = dice.uniform(0, 0.28), dice.uniform(0, 0.22), dice.uniform(0.75, 1.15)
    ramp = _CENTERED[None, :] * np.float32(toward[0]) + _CENTERED[:, None] * np.float32(toward[1])
    lit = (np.float32(1) + np.float32(slope) * ramp) * (np.float32(1) - np.float32(vignette) * _RADIUS2)
    gains = np.array([dice.uniform(0.88, 1.08) * contrast for _ in range(3)], dtype=np.float32)
    out = image * lit[..., None] * gains + np.float32((1 - contrast) * dice.uniform(60, 180))
    amount = dice.uniform(2, 30)
    grain = dice.bytes(SIZE, SIZE, 3).astype(np.int16) + dice.bytes(SIZE, SIZE, 3) - np.int16(255)
    return to_bytes(out + grain.astype(np.float32) * np.float32(amount / 255))


def compress(image: npt.NDArray[np.uint8], dice: Dice) -> bytes:
    """A JPEG file of quality 60 to 95, mostly with halved colour resolution."""
    buffer = io.BytesIO()
    subsampling = 2 if dice.chance(0.7) else 0
    Image.fromarray(image).save(buffer, "JPEG", quality=dice.between(60, 95), subsampling=subsampling)
    return buffer.getvalue()
