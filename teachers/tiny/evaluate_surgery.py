"""What CLIP Surgery's maps by the embedded tower are worth on objects it has not seen.

python -m teachers.tiny.evaluate_surgery      # one JSON line: three seeds of unseen scenes
"""

import argparse

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from pipeline.toyworld.scene import Scene, render
from pipeline.toyworld.world import SIZE, classes
from teachers.clip_paths import SURGERY_BLOCKS
from teachers.clip_surgery import ClipSurgery, load_surgery
from teachers.tiny.command import EVALUATION_SEED, WORLD, positive, run, say, whole
from teachers.tiny.scores import EVALUATIONS, SEED_STEP, over_seeds

NAMES = [c.name for c in classes(WORLD)]
MIN_OBJECT_PIXELS = 400
INPUT_SIZE = 128  # chosen of 64 to 384 on scenes that are not reported
SCENES = 50  # of each seed


def evaluate(surgery: ClipSurgery, *, scenes: int, seed: int = EVALUATION_SEED) -> dict[str, float]:
    """Mean AUC of the map of an object's class, for names asked `alone` and all 18 `together`; 0.5 is chance.

    Of objects of at least 400 px: its own pixels against those of no object of its class.
    """
    alone: list[float] = []
    together: list[float] = []
    for index in range(scenes):
        scene = render(WORLD, seed, index)
        alone += _scores(scene, surgery.maps([scene.image], NAMES, size=(SIZE, SIZE), apart=True)[0])
        together += _scores(scene, surgery.maps([scene.image], NAMES, size=(SIZE, SIZE))[0])
    return {
        "objects": len(alone),
        "alone": round(float(np.mean(alone)), 4),
        "together": round(float(np.mean(together)), 4),
    }


def _scores(scene: Scene, maps: npt.NDArray[np.float32]) -> list[float]:
    """One AUC an object, of maps (18, 256, 256)."""
    scores = []
    for thing in scene.objects:
        if thing.class_id is None or thing.mask.sum() < MIN_OBJECT_PIXELS:
            continue
        alike = np.any([other.mask for other in scene.objects if other.class_id == thing.class_id], axis=0)
        values = maps[thing.class_id - 1]
        scores.append(auc(values[thing.mask], values[~alike]))
    return scores


def auc(inside: npt.NDArray[np.float32], outside: npt.NDArray[np.float32]) -> float:
    """How often a value inside is above one outside; ties count half. ValueError if there are none of either."""
    count, rest = len(inside), len(outside)
    if not count or not rest:
        raise ValueError(f"AUC: expected values inside and outside, got {count} and {rest}")
    ranks = rankdata(np.concatenate([inside, outside]))[:count]
    return float((ranks.sum() - count * (count + 1) / 2) / (count * rest))


def main() -> int:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--scenes", type=positive, default=SCENES, help="of each seed")
    given.add_argument(
        "--size", type=positive, default=INPUT_SIZE, help="side of the tower's input, in pixels"
    )
    given.add_argument("--blocks", type=whole, default=SURGERY_BLOCKS, help="how many have two paths")
    options = given.parse_args()
    surgery = load_surgery(blocks=options.blocks, input_size=options.size)
    seeds = [EVALUATION_SEED + step * SEED_STEP for step in range(EVALUATIONS)]
    say(over_seeds([evaluate(surgery, scenes=options.scenes, seed=seed) for seed in seeds]))
    return 0


if __name__ == "__main__":
    run(main)
