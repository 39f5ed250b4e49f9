"""The text form of COCO's compressed run lengths, both ways, vectorised; every byte is checked here, in numpy.

A mask is read column by column; `runs` are the lengths of alternating background and foreground stretches, background
first. From the fourth run on the text holds the difference to the run two before it; each number is cut into 5-bit
groups, low first, with bit 0x20 for "more follows", then 48 is added.
"""

import numpy as np
import numpy.typing as npt

from pipeline.data.errors import BadInput

Runs = npt.NDArray[np.int64]

MAX_PIXELS = 89_478_485  # of an image or mask; Pillow's own limit, so no larger canvas can be behind a mask
MAX_TEXT = 1 << 24  # characters of one mask's counts: taking them apart takes some 70 bytes each
_MAX_GROUPS = 7  # 35 bits: more than any difference of runs within MAX_PIXELS


def runs_to_text(runs: Runs) -> str:
    """Compressed counts of run lengths [n] int64."""
    deltas = runs.copy()
    deltas[3:] -= runs[1:-2]
    magnitude = np.where(deltas < 0, ~deltas, deltas)
    groups = np.frexp(magnitude)[1] // 5 + 1  # bits and one for the sign, in fives
    widest = int(groups.max())
    place = np.arange(widest)
    chars = (deltas[:, None] >> (5 * place)) & 0x1F
    chars |= np.where(place < groups[:, None] - 1, 0x20, 0)
    return (chars + 48)[place < groups[:, None]].astype(np.uint8).tobytes().decode("ascii")


def text_to_runs(text: str, pixels: int, *, where: str) -> Runs:
    """Run lengths [n] int64 of compressed counts; BadInput unless they are well formed and sum to `pixels`."""
    form = f"{where}: expected COCO's compressed text"
    if not text.isascii() or len(text) > MAX_TEXT:
        found = f"{len(text)} characters" if len(text) > MAX_TEXT else "characters beyond ASCII"
        raise BadInput(f"{form} of at most {MAX_TEXT} characters, found {found}")
    codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63:
        found = "empty text" if not len(codes) else "characters outside '0' to 'o'"
        raise BadInput(f"{form}, found {found}")
    ends = np.flatnonzero((codes & 0x20) == 0)
    if not len(ends) or ends[-1] != len(codes) - 1:
        raise BadInput(f"{form}, found an end in the middle of a number")
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _MAX_GROUPS:
        raise BadInput(f"{form}, found a number of more than {5 * _MAX_GROUPS} bits")
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 0x1F) << (5 * place), starts)
    values -= np.where(codes[ends] & 0x10, np.int64(1) << (5 * lengths), 0)
    # The differences start at the fourth number only: the third is stored as it is.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return check_runs(values, pixels, where=where)


def check_runs(runs: Runs, pixels: int, *, where: str) -> Runs:
    """The same runs in canonical form (no empty run but the first); BadInput unless non-negative, sum `pixels`."""
    if not len(runs) or runs.min() < 0 or runs.max() > pixels:
        found = "no runs" if not len(runs) else f"runs from {runs.min()} to {runs.max()}"
        raise BadInput(f"{where}: expected runs from 0 to height*width = {pixels}, found {found}")
    total = int(runs.sum())
    if total != pixels:
        raise BadInput(f"{where}: expected runs that sum to height*width = {pixels}, found {total}")
    return runs if runs[1:].all() else _merge_empty(runs)


def _merge_empty(runs: Runs) -> Runs:
    """Canonical runs of runs with empty ones in between."""
    bounds = np.cumsum(runs)
    foreground = np.arange(len(runs)) % 2 == 1
    keep = runs > 0
    colours, bounds = foreground[keep], bounds[keep]
    last = np.append(colours[1:] != colours[:-1], True)
    merged = np.diff(bounds[last], prepend=0)
    return np.concatenate(([0], merged)) if colours[0] else merged
