"""What the tiny students' starts are trained on: scenes of both worlds, as students see them."""

import numpy as np
import numpy.typing as npt

from pipeline.toyworld.world import SIZE, classes
from teachers.targets import Example
from teachers.tiny.command import WORLD, Options, training_worlds
from teachers.tiny.scenes import LEVELS, CachedScene, Scenes
from teachers.window import canvas_image, canvas_masks, random_window

LEAST_PIXELS = 20  # of a target on its canvas
SEEN = (WORLD, WORLD, "pretrain")  # a scene is of each of these equally often
FIRST = {WORLD: 0, "pretrain": len(classes(WORLD))}  # where a world's names begin among all names
NAMES = sum(len(classes(world)) for world in FIRST)

WorldScenes = tuple[Scenes, int]  # scenes, and the number of their first class


def worlds_seen(options: Options) -> list[WorldScenes]:
    """The scenes of SEEN."""
    return [
        (scenes, FIRST[world]) for world, scenes in zip(SEEN, training_worlds(options, SEEN), strict=True)
    ]


def example(scene: CachedScene, rng: np.random.Generator) -> Example:
    """A scene, mirrored or not and otherwise lit; clutter is ground of which nothing is said."""
    window = random_window((SIZE, SIZE), size=SIZE, scale=(1.0, 1.0), rng=rng)
    rows = np.flatnonzero(scene.class_id > 0)
    named, clutter = (
        canvas_masks([scene.mask(int(row)) for row in some], window, SIZE)
        for some in (rows, np.flatnonzero(scene.level == LEVELS.index("clutter")))
    )
    large = named.sum((1, 2)) >= LEAST_PIXELS
    seen = named[large]
    return Example(
        canvas_image(_lit(scene.image, rng), window, SIZE),
        seen,
        scene.class_id[rows][large] - 1,
        (clutter.any(0) | named.any(0)) & ~seen.any(0),
        np.ones(len(seen), np.float32),
    )


def _lit(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    lit = image.astype(np.float32) * rng.uniform(0.7, 1.3) + rng.uniform(-25, 25)
    return lit.clip(0, 255).astype(np.uint8)
