"""Image features of the frozen encoder, computed once and memory-mapped, so that tuning runs the encoder no more."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.data.errors import BadInput
from pipeline.data.photos import read_unchanged
from pipeline.engine.context import Stopped, TrainContext
from teachers.sam.pixels import Frame
from teachers.sam.predictor import Embeddings, SamPredictor
from teachers.training_set import TrainingImage

_DONE = "embeddings.done"
DTYPES: dict[str, type[np.floating]] = {"float16": np.float16, "float32": np.float32}


def _write_count(path: Path, count: int) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(str(count))
    temporary.replace(path)


class EmbeddingCache:
    """Features of training images; the first ones lie in a file of at most `limit_bytes`, the others are made anew.

    All are rounded to `dtype` (float16 or float32), cached or not, so the limit changes time and nothing else.
    """

    def __init__(
        self, predictor: SamPredictor, images: Sequence[TrainingImage], *, dtype: str, limit_bytes: float
    ) -> None:
        self._predictor = predictor
        self._images = images
        self._dtype = DTYPES[dtype]
        encoder = predictor.sam.prompt_encoder
        self._shape = (encoder.embed_dim, *encoder.image_embedding_size)
        one = int(np.prod(self._shape)) * np.dtype(self._dtype).itemsize
        self.cached = min(len(images), int(limit_bytes // one))
        self._map: np.memmap | None = None
        self._root = Path()

    def build(self, context: TrainContext, progress: Callable[[int, int], None]) -> None:
        """Fill the file in `context.workdir`, going on where an earlier attempt ended; raises Stopped when asked to."""
        self._root = context.images_root
        if not self.cached:
            return
        path, done_path = context.workdir / "embeddings.bin", context.workdir / _DONE
        done = int(done_path.read_text()) if done_path.is_file() and path.is_file() else 0
        shape = (self.cached, *self._shape)
        self._map = np.memmap(path, dtype=self._dtype, mode="r+" if done else "w+", shape=shape)
        step = self._predictor.embed_batch
        for start in range(done, self.cached, step):
            if context.should_stop():
                raise Stopped
            rows = range(start, min(start + step, self.cached))
            self._map[rows.start : rows.stop] = self._embed(rows).numpy()
            self._map.flush()
            _write_count(done_path, rows.stop)
            progress(rows.stop, self.cached)

    def gather(self, indices: Sequence[int]) -> Embeddings:
        """Features (len(indices), C, g, g) float32 on the model's device, in the order given."""
        fresh = [index for index in dict.fromkeys(indices) if index >= self.cached]
        made = dict(zip(fresh, self._embed(fresh), strict=True)) if fresh else {}
        rows = [made[i] if i in made else torch.from_numpy(np.array(self._row(i))) for i in indices]
        features = torch.stack(rows).to(self._predictor.sam.device).float()
        return Embeddings(features, tuple(self._frame(index) for index in indices))

    def _row(self, index: int) -> np.ndarray:
        if self._map is None:
            raise RuntimeError("the embedding cache was not built")
        row: np.ndarray = self._map[index]
        return row

    def _frame(self, index: int) -> Frame:
        image = self._images[index]
        return Frame(image.height, image.width, self._predictor.sam.image_encoder.img_size)

    def _embed(self, indices: Sequence[int]) -> Tensor:
        """Features (n, C, g, g) in the cache's dtype, on the CPU."""
        pixels = [self._read(self._images[index]) for index in indices]
        features = self._predictor.embed(pixels).features.cpu()
        return features.half() if self._dtype is np.float16 else features

    def _read(self, image: TrainingImage) -> np.ndarray:
        pixels = read_unchanged(self._root / image.uri, image.sha256)
        if pixels.shape[:2] != (image.height, image.width):
            found = f"{pixels.shape[1]}x{pixels.shape[0]}"
            raise BadInput(f"image {image.uri}: expected {image.width}x{image.height}, found {found}")
        return pixels
