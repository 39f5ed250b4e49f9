"""Pre-rendered toyworld scenes on disk, so that a training waits for no renderer. Shards of 250 scenes, resumable.

A shard is one `.npz`: images (N, 256, 256, 3) uint8; masks (M, 8192) uint8, bit-packed (256, 256) bool; and for each
mask `scene` (index in the shard), `class_id` (0 = none), `level` (index into LEVELS) and `box` xyxy.
"""

import multiprocessing
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from pipeline.toyworld.scene import Scene, render
from pipeline.toyworld.world import SIZE

SHARD = 250
LEVELS = ("whole", "part", "group", "clutter")
MIN_PIXELS = 16


@dataclass(frozen=True)
class CachedScene:
    """One scene: `image` (256, 256, 3) uint8, packed `masks` (M, 8192), and per mask class_id, level and box xyxy."""

    image: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.uint8]
    class_id: npt.NDArray[np.int64]
    level: npt.NDArray[np.int64]
    box: npt.NDArray[np.float32]

    def mask(self, index: int) -> npt.NDArray[np.bool_]:
        """Mask `index` as (256, 256) bool."""
        return np.unpackbits(self.masks[index]).reshape(SIZE, SIZE).astype(bool)


# All images of a shard, the scene of each mask, and all its masks as if they were one scene's.
Shard = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], CachedScene]


class Scenes(Protocol):
    """What a training draws from: so many scenes, by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> CachedScene: ...


def cached(scene: Scene) -> CachedScene:
    """A rendered scene as the cache would have it."""
    kept = [o for o in scene.objects if int(o.mask.sum()) >= MIN_PIXELS]
    return CachedScene(
        scene.image,
        np.array([np.packbits(o.mask) for o in kept], np.uint8).reshape(len(kept), SIZE * SIZE // 8),
        np.array([o.class_id or 0 for o in kept], np.int64),
        np.array([LEVELS.index(o.level) for o in kept], np.int64),
        np.array([o.box_xyxy for o in kept], np.float32).reshape(len(kept), 4),
    )


class SceneCache(Dataset[CachedScene]):
    """`count` scenes of one world and seed under `folder`; renders what is missing with a process a core."""

    def __init__(self, folder: Path, *, world: str, seed: int, count: int) -> None:
        self.folder, self.world, self.seed, self.count = folder, world, seed, count
        folder.mkdir(parents=True, exist_ok=True)
        todo = [(self._path(shard), world, seed, shard) for shard in range(self._shards)]
        todo = [job for job in todo if not job[0].exists()]
        if todo:
            with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
                pool.starmap(_render_shard, todo, chunksize=1)
        self._shards_read: dict[int, Shard] = {}

    def __getstate__(self) -> dict[str, object]:
        """For another process, which reads the files itself."""
        return {**vars(self), "_shards_read": {}}

    @property
    def _shards(self) -> int:
        return -(-self.count // SHARD)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> CachedScene:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        images, scene, shard = self._open(index // SHARD)
        inside = index % SHARD
        low, high = np.searchsorted(scene, [inside, inside + 1])
        own = slice(int(low), int(high))
        return CachedScene(
            images[inside], shard.masks[own], shard.class_id[own], shard.level[own], shard.box[own]
        )

    def _path(self, shard: int) -> Path:
        return self.folder / f"{self.world}-{self.seed}-{shard:04d}.npz"

    def _open(self, shard: int) -> Shard:
        if shard not in self._shards_read:
            with np.load(self._path(shard)) as a:
                masks = CachedScene(a["images"][0], a["masks"], a["class_id"], a["level"], a["box"])
                self._shards_read[shard] = a["images"], a["scene"], masks
        return self._shards_read[shard]


def _render_shard(path: Path, world: str, seed: int, shard: int) -> None:
    scenes = [render(world, seed, shard * SHARD + offset) for offset in range(SHARD)]
    kept = [(i, o) for i, s in enumerate(scenes) for o in s.objects if int(o.mask.sum()) >= MIN_PIXELS]
    partial = path.with_suffix(f".{os.getpid()}.partial.npz")
    np.savez(
        partial,
        images=np.stack([scene.image for scene in scenes]),
        masks=np.stack([np.packbits(o.mask) for _, o in kept]),
        scene=np.array([i for i, _ in kept]),
        class_id=np.array([o.class_id or 0 for _, o in kept]),
        level=np.array([LEVELS.index(o.level) for _, o in kept]),
        box=np.array([o.box_xyxy for _, o in kept], dtype=np.float32),
    )
    partial.replace(path)
