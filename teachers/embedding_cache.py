"""Image features of the frozen encoder, computed once and memory-mapped, so that tuning runs the encoder no more."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

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

_DONE = "embeddings.done"
_SAVE_SECONDS = 5.0
DTYPES: dict[str, type[np.floating]] = {"float16": np.float16, "float32": np.float32}


def _write_count(path: Path, count: int) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(str(count))
    temporary.replace(path)


class EmbeddingCache:
    """Features of parts of training images; the first ones lie in a file of at most `limit_bytes`.

    The others are made anew. All are rounded to `dtype` (float16 or float32), cached or not, so the limit changes time
    and nothing else.
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
        self._map: np.memmap | None = None
        self._root: Place = Path()
        self._held: tuple[int, np.ndarray] | None = None

    def build(self, context: TrainContext, progress: Callable[[int, int], None]) -> None:
        """Fill the file in `context.scratch`, going on where an earlier attempt ended; raises Stopped when asked to."""
        self._root = context.images_root
        if not self.cached:
            return
        path, done_path = context.scratch / "embeddings.bin", context.scratch / _DONE
        done = int(done_path.read_text()) if done_path.is_file() and path.is_file() else 0
        shape = (self.cached, *self._shape)
        self._map = np.memmap(path, dtype=self._dtype, mode="r+" if done else "w+", shape=shape)
        step, saved = self._predictor.embed_batch, time.monotonic()
        for start in range(done, self.cached, step):
            stopped = context.should_stop()
            # Not after every one: with a small model the flush takes as long as the embedding.
            if stopped or time.monotonic() - saved > _SAVE_SECONDS:
                self._save(done_path, start)
                saved = time.monotonic()
            if stopped:
                raise Stopped
            stop = min(start + step, self.cached)
            self._map[start:stop] = self._embed(self._parts[start:stop]).numpy()
            progress(stop, self.cached)
        self._save(done_path, self.cached)

    def _save(self, count: Path, done: int) -> None:
        """Note that the first `done` features are in the file for good."""
        assert self._map is not None
        self._map.flush()
        _write_count(count, done)

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
        if self._map is None:
            raise RuntimeError("the embedding cache was not built")
        row: np.ndarray = self._map[index]
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
