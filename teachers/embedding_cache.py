"""Image features of the frozen encoder, computed once and memory-mapped, so that tuning runs the encoder no more."""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.data.errors import BadInput
from pipeline.data.paths import Place
from pipeline.data.photos import read_unchanged
from pipeline.engine.context import Stopped, TrainContext
from teachers.sam.pixels import Frame
from teachers.sam.predictor import Embeddings, SamPredictor
from teachers.sam.zoom import Part
from teachers.training_set import TrainingImage

_NAME = "embeddings"
_SAVE_SECONDS = 5.0
DTYPES: dict[str, type[np.floating]] = {"float16": np.float16, "float32": np.float32}


def _path(folder: Path, rank: int, world: int) -> Path:
    return folder / (f"{_NAME}.bin" if world == 1 else f"{_NAME}-{rank}-of-{world}.bin")


def _save(features: np.memmap, count: Path, done: int) -> None:
    """Note that the first `done` features are in the file for good."""
    features.flush()
    temporary = count.with_suffix(".tmp")
    temporary.write_text(str(done))
    temporary.replace(count)


class EmbeddingCache:
    """Features of parts of training images; the first ones lie in files of at most `limit_bytes`.

    The others are made anew. All are rounded to `dtype` (float16 or float32), cached or not, so the limit changes time
    and nothing else. Each process of a team makes a file of its own, and reads those of all.
    """

    def __init__(
        self,
        predictor: SamPredictor,
        images: Sequence[TrainingImage],
        parts: Iterable[Part],
        *,
        dtype: str,
        limit_bytes: float,
    ) -> None:
        self._predictor = predictor
        self._images = images
        self._parts = tuple(dict.fromkeys(parts))
        self._rows = {part: row for row, part in enumerate(self._parts)}
        self._dtype = DTYPES[dtype]
        encoder = predictor.sam.prompt_encoder
        self._shape = (encoder.embed_dim, *encoder.image_embedding_size)
        one = int(np.prod(self._shape)) * np.dtype(self._dtype).itemsize
        self.cached = min(len(self._parts), int(limit_bytes // one))
        self._maps: list[np.memmap] = []
        self._starts: list[int] = []  # the first row of each map
        self._root: Place = Path()
        self._held: tuple[int, np.ndarray] | None = None

    def build(self, context: TrainContext, progress: Callable[[int, int], None]) -> None:
        """Fill files in `context.scratch`, going on where an earlier attempt ended; raises Stopped when asked to."""
        self._root = context.images_root
        if not self.cached:
            return
        team, step = context.team, self._predictor.embed_batch
        # Whole batches of the encoder for each process, so that a feature does not depend on their number.
        own = -(-self.cached // (step * team.world)) * step
        self._starts = list(range(0, self.cached, own))
        if team.leads:
            self._remove_others(context.scratch, team.world)
        first = min(team.rank * own, self.cached)
        self._fill(
            context, range(first, min(first + own, self.cached)), lambda row: progress(row, self.cached)
        )
        team.wait()
        self._maps = [
            self._open(context.scratch, rank, team.world, mode="r") for rank in range(len(self._starts))
        ]

    def _fill(self, context: TrainContext, rows: range, progress: Callable[[int], None]) -> None:
        """Make the features of `rows`; all processes of a team ask as often whether to stop."""
        team, step = context.team, self._predictor.embed_batch
        path = _path(context.scratch, team.rank, team.world)
        count = path.with_suffix(".done")
        done = int(count.read_text()) if count.is_file() and path.is_file() else 0
        own = (
            self._open(context.scratch, team.rank, team.world, mode="r+" if done else "w+") if rows else None
        )
        saved = time.monotonic()
        for turn in range(team.most(-(-(len(rows) - done) // step))):
            start = done + turn * step
            stopped = context.should_stop()
            # Not after every one: with a small model the flush takes as long as the embedding.
            if own is not None and (stopped or time.monotonic() - saved > _SAVE_SECONDS):
                _save(own, count, min(start, len(rows)))
                saved = time.monotonic()
            if stopped:
                raise Stopped
            if own is not None and start < len(rows):
                stop = min(start + step, len(rows))
                own[start:stop] = self._embed(self._parts[rows[start] : rows[stop - 1] + 1]).numpy()
                progress(min(stop * team.world, self.cached))
        if own is not None:
            _save(own, count, len(rows))

    def _open(self, folder: Path, rank: int, world: int, *, mode: Literal["r", "r+", "w+"]) -> np.memmap:
        start = self._starts[rank]
        stop = (*self._starts, self.cached)[rank + 1]
        return np.memmap(
            _path(folder, rank, world), dtype=self._dtype, mode=mode, shape=(stop - start, *self._shape)
        )

    def _remove_others(self, folder: Path, world: int) -> None:
        """What a team of another size has left is of no use to this one."""
        ours = {_path(folder, rank, world).stem for rank in range(world)}
        for path in folder.glob(f"{_NAME}*"):
            if path.stem not in ours:
                path.unlink(missing_ok=True)

    def gather(self, parts: Sequence[Part]) -> Embeddings:
        """Features (len(parts), C, g, g) float32 on the model's device, in the order given; KeyError for an unknown."""
        fresh = sorted(
            {part for part in parts if self._rows[part] >= self.cached}, key=self._rows.__getitem__
        )
        made = dict(zip(fresh, self._embed(fresh), strict=True)) if fresh else {}
        rows = [made[p] if p in made else torch.from_numpy(np.array(self._row(self._rows[p]))) for p in parts]
        features = torch.stack(rows).to(self._predictor.sam.device).float()
        return Embeddings(features, tuple(self._frame(part) for part in parts))

    def _row(self, index: int) -> np.ndarray:
        if not self._maps:
            raise RuntimeError("the embedding cache was not built")
        place = bisect_right(self._starts, index) - 1
        row: np.ndarray = self._maps[place][index - self._starts[place]]
        return row

    def _frame(self, part: Part) -> Frame:
        image = self._images[part[0]]
        return Frame(image.height, image.width, self._predictor.sam.image_encoder.img_size, part[1])

    def _embed(self, parts: Sequence[Part]) -> Tensor:
        """Features (n, C, g, g) in the cache's dtype, on the CPU."""
        pixels = [self._read(image) for image, _ in parts]
        features = self._predictor.embed(pixels, [window for _, window in parts]).features.cpu()
        return features.half() if self._dtype is np.float16 else features

    def _read(self, index: int) -> np.ndarray:
        if self._held is not None and self._held[0] == index:
            return self._held[1]  # the parts of an image stand together
        image = self._images[index]
        pixels = read_unchanged(self._root / image.uri, image.sha256)
        if pixels.shape[:2] != (image.height, image.width):
            found = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise BadInput(f"image {image.uri}: expected {image.width}x{image.height}, found {found}")
        self._held = index, pixels
        return pixels
