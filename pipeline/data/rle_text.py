"""The text form of COCO's compressed run lengths, both ways, vectorised; every byte is checked here, in numpy.

A mask is read column by column; `runs` are the lengths of alternating background and foreground stretches, background
first. From the fourth run on the text holds the difference to the run two before it; each number is cut into 5-bit
groups, low first, with bit 0x20 for "more follows", then 48 is added.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.data.errors import BadInput

Runs = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]  # 0 to 63 each
Places = npt.NDArray[np.intp]

MAX_PIXELS = 89_478_485  # of an image or mask; Pillow's own limit, so no larger canvas can be behind a mask
MAX_SIDE = 65_535  # of an image; more than any JPEG or WebP can have, and thin canvases make masks dear
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
    codes = _codes(text)
    if not len(codes) or codes.max() > 63:
        found = "empty text" if not len(codes) else "characters outside '0' to 'o'"
        raise BadInput(f"{form}, found {found}")
    ends = np.flatnonzero(codes < 0x20)
    if not len(ends) or ends[-1] != len(codes) - 1:
        raise BadInput(f"{form}, found an end in the middle of a number")
    lengths = _lengths(ends)
    if lengths.max() > _MAX_GROUPS:
        raise BadInput(f"{form}, found a number of more than {5 * _MAX_GROUPS} bits")
    values = _numbers(codes, ends, lengths)
    # The differences start at the fourth number only: the third is stored as it is.
    for chain in (values[1::2], values[2::2]):
        np.cumsum(chain, out=chain)
    return check_runs(values, pixels, where=where)


def recode(text: str, runs: Runs) -> str:
    """The canonical text of the runs that `text_to_runs` found in `text`: mostly that very text."""
    codes = _codes(text)
    ends = np.flatnonzero(codes < 0x20)
    as_written = len(runs) == len(ends) and not _has_padding(codes, ends, _lengths(ends))
    return text if as_written else runs_to_text(runs)


def all_canonical(texts: Sequence[str], pixels: Sequence[int]) -> bool:
    """Whether every text is, to the letter, what `runs_to_text` writes of runs that sum to its `pixels`.

    Looks at all of them at once, which takes a fifth of the time of `text_to_runs` for each.
    """
    joined, sizes = "".join(texts), np.array([len(text) for text in texts])
    codes = _codes(joined) if joined.isascii() and sizes.all() else np.zeros(0, np.uint8)
    if not len(codes) or codes.max() > 63:
        return not len(texts)
    last = np.cumsum(sizes) - 1
    ends = np.flatnonzero(codes < 0x20)
    lengths = _lengths(ends)
    if (codes[last] >= 0x20).any() or lengths.max() > _MAX_GROUPS or _has_padding(codes, ends, lengths):
        return False
    runs = _numbers(codes, ends, lengths)
    first = np.concatenate(([0], np.searchsorted(ends, last[:-1]) + 1))
    heads = runs[first]
    runs[first] = 0  # the first number is in no chain of differences
    # The two chains of a text lie in the two of the whole, which go on from text to text.
    for parity in (0, 1):
        starts = (first + 1 - parity) // 2
        chain = runs[parity::2].copy()  # a strided sum takes six times as long
        if len(chain):
            np.cumsum(chain, out=chain)
            before = np.where(starts > 0, chain[starts - 1], 0)
            runs[parity::2] = chain - np.repeat(before, np.diff(starts, append=len(chain)))
    filled = runs > 0
    filled[first] = heads >= 0
    runs[first] = heads
    # The bound before the sum: sums of huge runs could come out right by overflow.
    fits = filled.all() and runs.max() <= MAX_PIXELS
    return bool(fits) and np.array_equal(np.add.reduceat(runs, first), pixels)


def _codes(text: str) -> Codes:
    """The characters of ASCII text as COCO's codes 0 to 63; what is none becomes larger."""
    return np.frombuffer(text.encode("ascii"), np.uint8) - np.uint8(48)


def _lengths(ends: Places) -> Places:
    """How many codes each number has."""
    lengths = ends + 1
    lengths[1:] -= lengths[:-1].copy()
    return lengths


def _has_padding(codes: Codes, ends: Places, lengths: Places) -> bool:
    """Whether a number has a last group that only repeats the sign of the group before it."""
    tails = ends[lengths > 1]
    return bool((codes[tails] == (codes[tails - 1] >> 4 & 1) * 0x1F).any())


def _numbers(codes: Codes, ends: Places, lengths: Places) -> Runs:
    """The numbers as stored [n] int64, whose last codes lie at `ends` and which have `lengths` codes each."""
    # The sign bit of the last group, 0x10, is spread over the bits above it.
    values = ((codes[ends] ^ 0x10).astype(np.int8) - 0x10).astype(np.int64)
    step, rows = 1, np.flatnonzero(lengths > 1)
    while len(rows):
        values[rows] = (values[rows] << 5) | (codes[ends[rows] - step] & 0x1F)
        step += 1
        rows = rows[lengths[rows] > step]
    return values


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
