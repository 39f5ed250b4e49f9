"""What the training commands of the tiny text tower and grounder share: options, scenes, seeds, files."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.data.errors import BadInput
from pipeline.toyworld.world import classes
from teachers.tiny.listing import FOLDER
from teachers.tiny.recipe import Trained
from teachers.tiny.scenes import SceneCache
from teachers.tiny.weights import WeightFacts, save_weights

WORLD = "demo"
TRAIN_SEED = 1_000_000  # scenes of these seeds are never those of a demo, a study or a report
EVALUATION_SEED = 2_000_000
STRANGERS = tuple(
    name for c in classes("pretrain") for name in (c.name, *c.synonyms)
)  # never in a demo scene


@dataclass(frozen=True)
class Options:
    """The command line: one of train (the default), `evaluate` on so many scenes, or `export` into a folder."""

    workdir: Path
    scenes: Path
    count: int
    steps: int
    batch: int
    lr: float
    muon: float
    seed: int
    bf16: bool
    evaluate: int | None
    export: Path | None


def parse(doc: str | None, *, steps: int, batch: int, lr: float, muon: float = 0.0) -> Options:
    """Read the command line; the defaults given are those of the committed weights."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, required=True, help="checkpoints and log; resumed if there")
    parser.add_argument("--scenes", type=Path, help="rendered scenes (default: WORKDIR/scenes)")
    parser.add_argument("--count", type=int, default=4000, help="scenes to train on")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--muon", type=float, default=muon, help="see recipe.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="autocast the step to bfloat16")
    parser.add_argument("--evaluate", type=int, nargs="?", const=200, metavar="SCENES")
    parser.add_argument("--export", type=Path, nargs="?", const=FOLDER, metavar="FOLDER")
    given = vars(parser.parse_args())
    torch.set_num_threads(given.pop("threads"))
    return Options(**{**given, "scenes": given["scenes"] or given["workdir"] / "scenes"})


def training_scenes(options: Options, world: str = WORLD) -> SceneCache:
    """The scenes to train on; the missing ones are rendered by a process a core."""
    return SceneCache(options.scenes, world=world, seed=TRAIN_SEED, count=options.count)


def keep(options: Options, trained: Trained, needs: Mapping[str, str]) -> None:
    """Write the trained weights into the working folder and say how long they took."""
    minutes = round(trained.seconds / 60, 1)
    origin = {"seed": options.seed, "steps": trained.steps, "minutes": minutes, "needs": dict(needs)}
    origin["command"] = " ".join(["python -m", _module(), *_settings(options)])
    save_file(trained.state, options.workdir / "weights.safetensors", metadata={"origin": json.dumps(origin)})
    say({"steps": trained.steps, "minutes": minutes})


def kept(options: Options) -> dict[str, Tensor]:
    """The trained weights as they will be after export: rounded to fp16 and back. BadInput if there are none."""
    with _open(options) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return {name: t.half().float() if t.is_floating_point() else t for name, t in tensors.items()}


def export(options: Options, name: str, score: Mapping[str, float]) -> None:
    """Write the trained weights and their facts into the export folder."""
    with _open(options) as file:
        origin = json.loads(file.metadata()["origin"])
    path = save_weights(name, kept(options), WeightFacts(score=score, **origin), options.export or FOLDER)
    say({"file": path.name, "bytes": path.stat().st_size})


def say(facts: Mapping[str, float | int | str]) -> None:
    """One JSON line on standard output."""
    sys.stdout.write(json.dumps(facts) + "\n")


def _open(options: Options) -> safe_open:
    path = options.workdir / "weights.safetensors"
    if not path.is_file():
        raise BadInput(f"{path}: no such file; train first")
    return safe_open(path, framework="pt")


def _module() -> str:
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec is not None else Path(sys.argv[0]).stem


def _settings(options: Options) -> list[str]:
    named = {
        "steps": options.steps,
        "batch": options.batch,
        "lr": options.lr,
        "muon": options.muon,
        "count": options.count,
    }
    words = [
        word for key, value in {**named, "seed": options.seed}.items() for word in (f"--{key}", str(value))
    ]
    return ["--workdir W", *words, *(["--bf16"] if options.bf16 else [])]
