"""Grounding DINO asked for several classes: one caption a class, as other tools ask, against ours, all in one.

    python -m benchmarks.captions            (3 minutes on 2 cores)

The tiny model as published with random weights, on one scene of 640 x 480, 4 classes. Both go through our proposer; the
boxes are not the same, as names and image are fused. Prints one JSON line; exits 1 unless each class got an answer of
its own the one way, one caption held them all the other way, and ours is the faster.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import timing
from benchmarks.stand_ins import ONTOLOGY, grounding_dino, photos
from pipeline.stages.samples import read_sample
from teachers.grounding import load_grounding_dino

SIZE = (480, 640)
LEAST = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the line."""
    given = timing.options(__doc__, arguments, repeats=3, classes=4, shortest=800)
    names = list(ONTOLOGY.ids[: given.classes])
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (record,) = photos(root / "images", 1, SIZE)
        folder = grounding_dino(root / "model", shortest=given.shortest)
        proposer = load_grounding_dino(folder, ontology=ONTOLOGY)
        sample = read_sample(record, root / "images")
        timed = timing.in_turns(
            {
                "one a class": lambda: [proposer.propose([sample], [[name]])[0] for name in names],
                "together": lambda: proposer.propose([sample], [names]),
            },
            repeats=given.repeats,
        )
    ratio = timing.times_faster(timed["one a class"], timed["together"])
    seconds = {f"{way} s": timing.round3(found.median) for way, found in timed.items()}
    head = {name: getattr(given, name) for name in ("classes", "shortest", "repeats", "threads")}
    single, (together,) = timed["one a class"].result, timed["together"].result
    checks = {
        "every class": [{prompt.class_id for prompt in found} for found in single] == [{n} for n in names],
        "one caption": {len(found) for found in single} == {len(together)},  # a prompt a query and caption
        f"at least {LEAST:g} times as fast": ratio >= LEAST,
    }
    return timing.finish("captions", {**head, **seconds, "ratio": ratio}, checks)


if __name__ == "__main__":
    sys.exit(main())
