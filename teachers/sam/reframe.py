"""An answer about a whole image, as a mask prompt for a question about a part of it."""

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from teachers.sam.pixels import Frame

FloatArray = npt.NDArray[np.float32]


def reframed(low_res: FloatArray, of: Frame, to: Frame) -> FloatArray:
    """Logits (4g, 4g) that lie over the input square of one frame of an image, bilinearly as they lie over another's.

    Where the new square shows what the old frame does not, they are those of the nearest pixel of the image seen.
    """
    lines = [_seen_from(of, to, axis, count) for axis, count in enumerate(low_res.shape)]
    rows, columns = (torch.from_numpy(line.astype(np.float32)) for line in lines)
    grid = torch.stack(
        [columns[None, :].expand(len(rows), -1), rows[:, None].expand(-1, len(columns))], dim=-1
    )
    values = torch.from_numpy(low_res)[None, None]
    mapped = F.grid_sample(values, grid[None], mode="bilinear", padding_mode="border", align_corners=False)
    found: FloatArray = mapped[0, 0].numpy()
    return found


def _seen_from(of: Frame, to: Frame, axis: int, count: int) -> npt.NDArray[np.float64]:
    """Where the centres of `count` lines of the square of `to` lie in that of `of`, in -1..1; axis 0 are the rows."""
    centres = (np.arange(count) + 0.5) / count * to.side
    first, scale = _placed(to, axis)
    own_first, own_scale = _placed(of, axis)
    half = of.side / count / 2
    # Beyond the image lies padding, of which an answer says nothing.
    seen = (((centres / scale + first) - own_first) * own_scale).clip(half, of.input_size[axis] - half)
    return 2 * seen / of.side - 1


def _placed(frame: Frame, axis: int) -> tuple[int, float]:
    """First line of the image that a frame shows, and how many input pixels one of its lines is wide."""
    seen = frame.seen
    first, length = ((seen.top, seen.height), (seen.left, seen.width))[axis]
    return first, frame.input_size[axis] / length
