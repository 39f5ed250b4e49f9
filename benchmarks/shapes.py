"""Seeded ragged masks on a canvas, small to large as COCO counts sizes, for the benchmarks of files and scores."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.data import masks
from pipeline.data.records import RLE

RADII = (8.0, 30.0, 90.0)  # pixels: about 200, 2800 and 25000 of area
_CORNERS = 48  # of an outline as a polygon


class Shapes:
    """Shapes on a canvas of `size` = (height, width), drawn from a seed."""

    def __init__(self, size: tuple[int, int], seed: int) -> None:
        self.size = size
        self.random = np.random.default_rng(seed)

    def new(self) -> "Shape":
        """A shape of any size anywhere."""
        height, width = self.size
        radius = float(self.random.choice(RADII)) * self.random.uniform(0.7, 1.3)
        x, y = self.random.uniform(0.05, 0.95, 2) * (width, height)
        return Shape(x, y, radius, self.random.uniform(0, 6), self.size)

    def near(self, shape: "Shape") -> "Shape":
        """One a little beside another, as a detector finds it."""
        dx, dy = self.random.normal(0, 0.1 * shape.radius, 2)
        return Shape(
            shape.x + dx, shape.y + dy, shape.radius * self.random.uniform(0.8, 1.2), shape.phase, self.size
        )


class Shape:
    """A disc with a wavy edge around (x, y)."""

    def __init__(self, x: float, y: float, radius: float, phase: float, size: tuple[int, int]) -> None:
        self.x, self.y, self.radius, self.phase, self.size = x, y, radius, phase, size

    def edge(self, angle: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Distance of the edge from the centre at angles."""
        waves = 0.2 * np.sin(5 * angle + self.phase) + 0.1 * np.cos(3 * angle)
        return self.radius * (1 + waves)

    def rle(self) -> RLE:
        """Its pixels; at least one."""
        height, width = self.size
        reach = 1.4 * self.radius + 1
        top, left = max(0, int(self.y - reach)), max(0, int(self.x - reach))
        rows, columns = np.mgrid[
            top : min(height, int(self.y + reach)), left : min(width, int(self.x + reach))
        ]
        y, x = rows + 0.5 - self.y, columns + 0.5 - self.x
        inside = np.hypot(x, y) <= np.maximum(self.edge(np.arctan2(y, x)), 1)
        return masks.encode_crop(inside, self.size, top=top, left=left)

    def polygon(self) -> list[float]:
        """Its outline [x0, y0, x1, y1, ...] cut to the canvas, with two decimals as COCO's."""
        angle = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
        edge = self.edge(angle)
        x = np.clip(self.x + edge * np.cos(angle), 0, self.size[1])
        y = np.clip(self.y + edge * np.sin(angle), 0, self.size[0])
        return np.stack([x, y], axis=1).round(2).ravel().tolist()


def xywh(rle: RLE) -> list[float]:
    """COCO's bbox of a mask that is not empty."""
    box = masks.tight_box(rle)
    assert box is not None
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def sized(rle: RLE) -> dict[str, object]:
    """A mask as COCO files hold it."""
    return {"size": list(rle.size), "counts": rle.counts}


def numbered(images: int, size: tuple[int, int]) -> Iterator[dict[str, object]]:
    """Image entries 1 to `images`."""
    for number in range(1, images + 1):
        yield {"id": number, "file_name": f"{number:012d}.jpg", "height": size[0], "width": size[1]}
