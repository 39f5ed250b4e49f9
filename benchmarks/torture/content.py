"""Trials in which what a run reads is bad: images that end their worker, damaged results, changed photos."""

import json
import os
from pathlib import Path

import numpy as np

from benchmarks.torture import verdict
from benchmarks.torture.data import HEIGHT, WIDTH, make_data, write_photo
from benchmarks.torture.ground import Trial, make_oracle

REASONS = {  # of a quarantined image, by what it spells (teachers/fake.py)
    "segfault": "killed by signal 11",
    "abort": "killed by signal 6",
    "loop": "image_timeout",
    "stuck": "image_timeout",
    "memory": "memory_gb",
}
CHANGED = 1000  # seeds of photos that no data set has
MAX_BAD = 0.05  # of configs/torture.yaml
MAPS = 3  # map stages of configs/torture.yaml


def poison(trial: Trial) -> None:
    """One to three images that segfault, abort, loop, keep the interpreter or take all memory: these are quarantined.

    The others' labels must be the oracle's. Images with masks are asked for none, so none of them is taken.
    """
    weak = sorted(image for image, labels in trial.oracle.labels.items() if any("score" in a for a in labels))
    chosen = trial.draw.sample(weak, trial.draw.randint(1, min(3, int(MAX_BAD * trial.oracle.images))))
    deeds = {image: trial.draw.choice(sorted(REASONS)) for image in chosen}
    spelled = {
        image: f"omnimask {trial.draw.choice(('propose', 'label'))} {deeds[image]}" for image in chosen
    }
    trial.how = ", ".join(spelled.values()).replace("omnimask ", "")
    trial.kills = len(chosen)
    data = trial.folder / "data"
    make_data(data, images=trial.oracle.images, poison=spelled)
    trial.left = verdict.Left(data, trial.left.store, trial.left.run, trial.left.temp)
    inputs = verdict.digests(data)
    trial.finish()
    log = json.loads((trial.left.run / "run.json").read_text())
    told = {int(entry["image_id"]): str(entry["reason"]) for entry in log["quarantine"]}
    trial.expect(set(told) == set(chosen), f"quarantined are {told}, expected {spelled}")
    for image, deed in deeds.items():
        trial.expect(REASONS[deed] in told.get(image, ""), f"{image}: {told.get(image)}, expected {deed}")
    trial.failures += verdict.every_image_once(trial.left, chosen)
    trial.failures += [*verdict.sound_store(trial.left.store), *verdict.no_litter(trial.left)]
    trial.failures += verdict.same_but(trial.left.run, trial.oracle.left.run, chosen)
    trial.expect(verdict.digests(data) == inputs, "the inputs were changed")


def bitflips(trial: Trial) -> None:
    """Bits flipped in, or an end cut off from, files of a finished store; their size and time say nothing of it.

    They are found, only they are made again, and the bytes are the same.
    """
    trial.finish()
    before = verdict.committed(trial.left.store)
    parts = ("units/*/*.parquet", "artifacts/**/*", "truth/**/*")
    files = sorted(path for part in parts for path in trial.left.store.glob(part) if path.is_file())
    chosen = trial.draw.sample(files, trial.draw.randint(1, 3))
    for path in chosen:
        _damage(trial, path)
    trial.kills = len(chosen)
    hit = {_result_of(trial.left.store, path) for path in chosen}
    told = trial.finish()
    again = {name for name, stamp in verdict.committed(trial.left.store).items() if before.get(name) != stamp}
    trial.expect(again == hit, f"made again are {sorted(again)}, damaged were {sorted(hit)}")
    trial.expect(told.count("was damaged and was made again") == len(hit), f"not told of all: {told[-400:]}")
    trial.judge()


def _damage(trial: Trial, path: Path) -> None:
    state, content = path.stat(), bytearray(path.read_bytes())
    if trial.draw.random() < 0.3:
        del content[trial.draw.randrange(len(content)) :]
    else:
        place = trial.draw.randrange(len(content))
        content[place] ^= 1 << trial.draw.randrange(8)
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def _result_of(store: Path, path: Path) -> str:
    """The name that `verdict.committed` has for the result a file is of."""
    parts = path.relative_to(store).parts
    return "/".join(parts) if parts[0] == "units" else f"artifacts/{parts[1]}/artifact.json"


def changed(trial: Trial) -> None:
    """A photo's bytes changed, its size and time as before: exactly the units that hold it are made again.

    They and the export are those of a run that never saw another photo; what was made before stays beside them.
    """
    data = trial.folder / "data"
    make_data(data, images=trial.oracle.images)
    trial.left = verdict.Left(data, trial.left.store, trial.left.run, trial.left.temp)
    trial.finish()
    before = verdict.committed(trial.left.store)
    image = trial.draw.randint(1, trial.oracle.images)
    path = data / "images" / f"{image:03d}.png"
    state = path.stat()
    write_photo(path, np.random.default_rng(CHANGED + image).integers(1, 256, (HEIGHT, WIDTH, 3), np.uint8))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    trial.expect(
        path.stat().st_size == state.st_size, "the trial itself is wrong: the photo has another size"
    )
    trial.kills = 1
    trial.finish()
    trial.failures += verdict.written_again(before, trial.left.store)
    new = [
        name
        for name in verdict.committed(trial.left.store)
        if name not in before and name.startswith("units")
    ]
    trial.expect(
        len(new) == MAPS and all(image in verdict.images_in(trial.left.store, name) for name in new),
        f"{len(new)} new units, expected the {MAPS} that hold image {image}",
    )
    fresh = make_oracle(trial.folder / "fresh", data, trial.settings)
    old = {name: digest for name, digest in trial.oracle.contents.items() if name.startswith("store/")}
    trial.failures += verdict.judge(trial.left, inputs=fresh.inputs, oracle={**old, **fresh.contents})
