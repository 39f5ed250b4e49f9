"""From a decoder's logits to an RLE at 1 megapixel: our crops against the full canvas that other tools fill.

    python -m benchmarks.masks            (half a minute)

Low-res logits (256 x 256, as SAM's) of ragged blobs that cover 1%, 10% and all of a 1000 x 1000 image. Full canvas:
both bilinear steps as segment-anything does them, > 0, a Fortran-ordered copy, pycocotools' encode. Ours is
`teachers.sam.masks.to_mask`, which finds box and stability too. One thread each, as numpy has no more;
`--threads=2` gives a second to torch's interpolation. Prints one JSON line; exits 1 unless all texts are the same and
ours is at least 15 times as fast at 1%.
"""

import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from pycocotools import mask as native
from torch.nn import functional as F

from benchmarks import timing
from teachers.sam.masks import to_mask
from teachers.sam.pixels import Frame
from teachers.sam.predictor import Answer
from teachers.sam.upsample import Upsampler

SHARES = {"1%": 0.01, "10%": 0.1, "100%": 1.0}
LEAST = 15.0
SIZE, SIDE, LOW = 1000, 1024, 256
CLEAR = 1e-4  # a logit nearer to 0 might fall on either side, by rounding

Logits = npt.NDArray[np.float32]


def blob(share: float, seed: int) -> Logits:
    """Logits (LOW, LOW) positive on a blob of about that share of the square; none at full size is near 0."""
    random = np.random.default_rng(seed)
    while True:
        logits = _ragged(share, random)
        if full_canvas(logits).abs().min() > CLEAR:
            return logits


def _ragged(share: float, random: np.random.Generator) -> Logits:
    noise = random.normal(0, 0.3, (LOW, LOW))
    if share == 1.0:
        return (6 + noise).astype(np.float32)
    radius = LOW * np.sqrt(share / np.pi)
    x0, y0 = random.uniform(1.3 * radius, LOW - 1.3 * radius, 2)
    y, x = np.mgrid[:LOW, :LOW] + 0.5
    angle = np.arctan2(y - y0, x - x0)
    edge = radius * (1 + 0.15 * np.sin(5 * angle + random.uniform(0, 6)) + 0.1 * np.cos(3 * angle))
    return (np.clip(1.5 * (edge - np.hypot(y - y0, x - x0)), -12, 12) + noise).astype(np.float32)


def full_canvas(logits: Logits) -> torch.Tensor:
    """Logits (SIZE, SIZE) as segment_anything's Sam.postprocess_masks makes them."""
    square = torch.from_numpy(logits)[None, None]
    square = F.interpolate(square, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return F.interpolate(square, (SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0]


def by_canvas(blobs: Sequence[Logits]) -> list[str]:
    """RLE texts the way other tools go."""
    made = ((full_canvas(logits) > 0).numpy() for logits in blobs)
    return [native.encode(np.asfortranarray(mask, np.uint8))["counts"].decode("ascii") for mask in made]


def by_crops(blobs: Sequence[Logits], upsampler: Upsampler) -> list[str]:
    """RLE texts the way we go."""
    made = (to_mask(Answer(logits, 1.0), upsampler).rle for logits in blobs)
    return ["" if rle is None else rle.counts for rle in made]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the line."""
    given = timing.options(__doc__, arguments, threads=1, repeats=15, blobs=8)
    upsampler = Upsampler(Frame(SIZE, SIZE, SIDE), (LOW, LOW))
    numbers: dict[str, timing.Json] = {}
    same, ratios = True, {}
    for name, share in SHARES.items():
        blobs = [blob(share, seed) for seed in range(given.blobs)]
        ways = {"canvas": lambda b=blobs: by_canvas(b), "crops": lambda b=blobs: by_crops(b, upsampler)}
        timed = timing.in_turns(ways, repeats=given.repeats)
        same = same and timed["canvas"].result == timed["crops"].result
        ratios[name] = timing.times_faster(timed["canvas"], timed["crops"])
        each = {way: timing.round3(1000 * found.median / given.blobs) for way, found in timed.items()}
        numbers[name] = {"canvas_ms": each["canvas"], "crops_ms": each["crops"], "ratio": ratios[name]}
    sizes = {"pixels": SIZE * SIZE, "low_res": LOW, "blobs": given.blobs, "repeats": given.repeats}
    checks = {"same texts": same, f"at least {LEAST:g} times as fast at 1%": ratios["1%"] >= LEAST}
    return timing.finish("masks", {**sizes, "threads": given.threads, **numbers}, checks)


if __name__ == "__main__":
    sys.exit(main())
